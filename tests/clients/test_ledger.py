"""The site's ledger: both or neither, the same bytes for ever, and no more room than it may take."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.ledger import Ledger
from protocol.errors import EquivocationError, RunError
from tests.clients.ledger_cases import ASKED, LONG, Failing, blobs, commit, opened, result


def test_a_result_survives_reopening_bit_by_bit(tmp_path: Path) -> None:
    """Short and long parts, an empty one, and bytes that are no text, under a key of bytes."""
    given = result(b"1", b"", os.urandom(LONG), b"\x00\x01", os.urandom(LONG + 1))
    with opened(tmp_path) as book:
        commit(book, "r", ASKED, given, {})
        assert book.result("r", ASKED) == given
    with opened(tmp_path) as book:
        assert book.result("r", ASKED) == given
        assert book.result("r", ASKED[::-1]) is None
        assert book.result("other", ASKED) is None


def test_the_memory_changes_key_by_key_and_run_by_run(tmp_path: Path) -> None:
    """A key is put anew, put for the first time, or dropped; other runs are left alone."""
    long = os.urandom(LONG)
    with opened(tmp_path) as book:
        commit(book, "r", b"1", result(b"a"), {"local": b"old", "gone": long})
        commit(book, "s", b"2", result(b"b"), {"local": b"other run"})
        commit(book, "r", b"3", result(b"c"), {"local": long, "gone": None, "new": b"\x00"})
    with opened(tmp_path) as book:
        assert book.memory("r") == {"local": long, "new": b"\x00"}
        assert book.memory("s") == {"local": b"other run"}
        assert book.memory("none") == {}


def test_the_book_is_synced_with_each_transaction(tmp_path: Path) -> None:
    """WAL and synchronous=FULL: what was committed outlives a power cut."""
    with opened(tmp_path) as book:
        assert book._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert book._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (tmp_path / "blobs").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "statement", ["INSERT INTO results", "INSERT INTO memory", "INSERT OR REPLACE INTO heads", "COMMIT"]
)
def test_a_commit_that_fails_leaves_nothing(tmp_path: Path, statement: str) -> None:
    """Between the file and the row, between result and memory, or at the last moment; then it goes on."""

    def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    before, after = result(b"before"), result(b"x", os.urandom(LONG))
    with opened(tmp_path) as book:
        commit(book, "r", b"1", before, {"local": b"before"})
        real = book._db
        book._db = Failing(real, statement, fail)  # type: ignore[assignment]
        book._make_room = lambda *_: None  # type: ignore[method-assign]  it commits a transaction of its own
        with pytest.raises(sqlite3.OperationalError):
            commit(book, "r", b"2", after, {"local": b"after", "new": b"n"})
        book._db = real
        assert book.result("r", b"2") is None
        assert book.memory("r") == {"local": b"before"}
        commit(book, "r", b"2", after, {"local": b"after", "new": b"n"})
        assert book.result("r", b"2") == after
        assert book.memory("r") == {"local": b"after", "new": b"n"}


def _killed_at(step: int, folder: Path, act: Callable[[Ledger], None]) -> bool:
    """Run ``act`` in a child that is gone before its ``step``-th write, sync or statement; say if it was."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        count = [0]

        def tick() -> None:
            count[0] += 1
            if count[0] > step:
                os._exit(9)

        book = Ledger(folder, 64)
        book._db = Failing(book._db, "", tick)  # type: ignore[assignment]
        sync, replace = os.fsync, Path.replace

        def ticking_sync(descriptor: int) -> None:
            tick()
            sync(descriptor)

        def ticking_replace(self: Path, target: Path) -> Path:
            tick()
            return replace(self, target)

        os.fsync, Path.replace = ticking_sync, ticking_replace  # type: ignore[method-assign,assignment]
        act(book)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 9


def test_a_site_that_is_killed_at_any_step_has_both_or_neither(tmp_path: Path) -> None:
    """At each statement, sync and rename of a commit: result and memory are of the same moment."""
    parts, value = os.urandom(LONG), os.urandom(LONG)
    old, new = result(b"old"), result(parts, b"short")

    def act(book: Ledger) -> None:
        commit(book, "r", b"2", new, {"local": value})

    seen = set()
    for step in range(100):
        folder = tmp_path / str(step)
        folder.mkdir()
        with opened(folder) as book:
            commit(book, "r", b"1", old, {"local": b"old"})
        killed = _killed_at(step, folder, act)
        with opened(folder) as book:
            found = book.result("r", b"2"), book.memory("r")
            assert found in [(None, {"local": b"old"}), (new, {"local": value})]
            assert book.result("r", b"1") == old
            assert len(blobs(folder)) == (2 if found[0] else 0)  # what had no row yet is swept
            seen.add(found[0] is None)
        if not killed:
            break
    assert not killed
    assert step > 10
    assert seen == {True, False}


def test_a_replaced_server_process_is_no_longer_heard(tmp_path: Path) -> None:
    """A lower number than before is refused for its run, also after a restart; others are untouched."""
    with opened(tmp_path) as book:
        for lease in (1, 1, 3, 3):
            book.fence("r", lease)
        book.fence("s", 1)
    with opened(tmp_path) as book:
        with pytest.raises(RunError, match="process 2, and 3 has taken its place"):
            book.fence("r", 2)
        book.fence("r", 3)
        book.fence("s", 2)


def test_one_assignment_asks_for_one_thing(tmp_path: Path) -> None:
    """Two digests under one id are equivocation, whichever process of the server asks."""
    about = ("r", "train.weights", "r/1/risk/north/1")
    with opened(tmp_path) as book:
        book.note_ask(*about, b"a" * 32)
        book.note_ask(*about, b"a" * 32)
        book.note_ask("r", "train.finish", about[2], b"c" * 32)
        book.note_ask("s", *about[1:], b"d" * 32)
        book.fence("r", 2)
        with pytest.raises(EquivocationError, match=r"two things as one train\.weights of 'r/1/risk"):
            book.note_ask(*about, b"b" * 32)
    with opened(tmp_path) as book:
        book.fence("r", 3)
        with pytest.raises(EquivocationError):
            book.note_ask(*about, b"b" * 32)
        book.note_ask(*about, b"a" * 32)
