"""The site's ledger: a server's process that begins a run anew meets the memory that its work would make."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from protocol.errors import RunError
from tests.clients.ledger_cases import LONG, blobs, opened, result


def test_a_new_process_of_the_server_meets_no_memory(tmp_path: Path) -> None:
    """Of that run alone; a message of the same process changes nothing."""
    with opened(tmp_path) as book:
        assert book.fence("r", 1)
        book.fence("s", 1)
        for run in ("r", "s"):
            book.commit(run, "k", b"1", result(b"a"), {"local": b"1"})
        assert not book.fence("r", 1)
        assert book.memory("r") == {"local": b"1"}
        assert book.fence("r", 2)
        assert book.memory("r") == {}
        assert book.memory("s") == {"local": b"1"}


def test_what_is_answered_again_changes_the_memory_again(tmp_path: Path) -> None:
    """In the order in which it is asked for, once for each process of the server; the bytes stay."""
    long = os.urandom(LONG)
    with opened(tmp_path) as book:
        book.fence("r", 1)
        book.commit("r", "k", b"1", result(b"one"), {"local": b"1", "extra": long})
        book.commit("r", "k", b"2", result(b"two"), {"local": b"2", "extra": None})
        book.commit("r", "k", b"3", result(b"three"), {"local": b"3", "late": b"3"})
        assert book.recall("r", b"1", 1) == (result(b"one"), False)
        assert book.memory("r") == {"local": b"3", "late": b"3"}
        book.fence("r", 2)
    with opened(tmp_path) as book:
        assert book.recall("r", b"1", 2) == (result(b"one"), True)
        assert book.memory("r") == {"local": b"1", "extra": long}
        assert book.recall("r", b"2", 2) == (result(b"two"), True)
        assert book.memory("r") == {"local": b"2"}
        assert book.recall("r", b"1", 2) == (result(b"one"), False)
        assert book.memory("r") == {"local": b"2"}
        assert book.recall("r", b"none", 2) == (None, False)
        book.fence("r", 5)
        assert book.recall("r", b"2", 5)[1]
        assert book.memory("r") == {"local": b"2"}


def test_a_result_that_changed_nothing_tells_the_worker_nothing(tmp_path: Path) -> None:
    """As an evaluation."""
    with opened(tmp_path) as book:
        book.fence("r", 1)
        book.commit("r", "k", b"1", result(b"one"), {})
        book.fence("r", 2)
        assert book.recall("r", b"1", 2) == (result(b"one"), False)


def test_work_of_a_process_that_was_replaced_is_not_kept(tmp_path: Path) -> None:
    """It ended late: neither its result nor its memory may be there for the next one."""
    with opened(tmp_path) as book:
        book.fence("r", 2)
        with pytest.raises(RunError, match="process 1, and 2"):
            book.commit("r", "k", b"1", result(b"late"), {"local": b"late"}, 1)
        assert book.result("r", b"1") is None
        assert book.memory("r") == {}
        book.commit("r", "k", b"1", result(b"now"), {"local": b"now"}, 2)
        assert book.memory("r") == {"local": b"now"}


@pytest.mark.parametrize("damage", ["lost", "damaged"])
def test_a_result_whose_memory_is_lost_is_forgotten(tmp_path: Path, damage: str) -> None:
    """The work is done again; the site does not go on without what it had changed."""
    with opened(tmp_path) as book:
        book.fence("r", 1)
        book.commit("r", "k", b"1", result(b"one"), {"local": os.urandom(LONG)})
        (path,) = (tmp_path / "blobs").iterdir()
        if damage == "lost":
            path.unlink()
        else:
            path.write_bytes(b"?" + path.read_bytes()[1:])
        book.fence("r", 2)
        assert book.recall("r", b"1", 2) == (None, False)
        assert book.memory("r") == {}


def test_whole_other_runs_make_room_first(tmp_path: Path) -> None:
    """The one longest ago first and to its end, then the oldest of the run at hand."""
    rows = [("here", 100), ("first", 100), ("second", 280), ("second", 20), ("first", 100), ("here", 100)]
    with opened(tmp_path, mib=1) as book:
        for number, (run, kb) in enumerate(rows):
            book.commit(run, "k", b"%d" % number, result(os.urandom(1000 * kb)), {})
        book.commit("here", "k", b"6", result(os.urandom(360_000)), {})
        assert _kept(tmp_path) == {"here": [b"0", b"5", b"6"], "first": [b"1", b"4"]}
        book.commit("here", "k", b"7", result(os.urandom(300_000)), {})
        assert _kept(tmp_path) == {"here": [b"5", b"6", b"7"]}


def _kept(folder: Path) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    with sqlite3.connect(folder / "site.db") as book:
        for run, asked in book.execute("SELECT run, asked FROM results ORDER BY at"):
            found.setdefault(run, []).append(asked)
    book.close()
    return found


def test_the_memory_in_results_counts_and_is_not_swept(tmp_path: Path) -> None:
    """What only a result still names stays for the next process of the server."""
    old = os.urandom(LONG)
    with opened(tmp_path, mib=1) as book:
        book.commit("r", "k", b"1", result(b"one"), {"local": old})
        book.commit("r", "k", b"2", result(b"two"), {"local": os.urandom(LONG)})
    with opened(tmp_path, mib=1) as book:
        assert len(blobs(tmp_path)) == 2
        book.fence("r", 2)
        book.recall("r", b"1", 2)
        assert book.memory("r") == {"local": old}


def test_room_is_counted_without_reading_what_is_kept(tmp_path: Path) -> None:
    """From an index, however large the rows are."""
    with opened(tmp_path) as book:
        (plan,) = book._db.execute("EXPLAIN QUERY PLAN SELECT COALESCE(SUM(bytes), 0) FROM results")
        assert "COVERING INDEX results_bytes" in plan[-1]


def test_results_of_an_earlier_form_are_forgotten(tmp_path: Path) -> None:
    """They do not say what they changed; the rest stays."""
    with opened(tmp_path) as book:
        book.fence("r", 3)
        book._db.executescript(
            "DROP TABLE results; CREATE TABLE results (run TEXT, asked BLOB); PRAGMA user_version = 0;"
        )
    with opened(tmp_path) as book:
        assert book.result("r", b"1") is None
        with pytest.raises(RunError):
            book.fence("r", 2)
