"""The site's ledger takes no more room than it may, and loses nothing of a run that goes on."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from clients.blobs import IN_ROW
from clients.ledger import Ledger
from protocol.errors import EquivocationError, RunError, StateError
from protocol.seal import MAX_VALID_S
from tests.clients.ledger_cases import DAY_S, LONG, Failing, blobs, commit, opened, result


def test_the_oldest_results_make_room(tmp_path: Path) -> None:
    """No more than may be kept: the oldest go, with their files; the newest and what it came from stay."""
    parts = [os.urandom(300_000) for _ in range(5)]
    with opened(tmp_path, mib=1) as book:
        for number, part in enumerate(parts):
            commit(book, "r", bytes([number]), result(part), {})
        kept = [number for number in range(5) if book.result("r", bytes([number]))]
        assert kept == [2, 3, 4]
        assert blobs(tmp_path) == {hashlib.sha256(parts[number]).hexdigest() for number in kept}
        large = result(os.urandom(2**20 + 1))
        commit(book, "r", b"large", large, {})
        assert book.result("r", b"large") == large
        assert len(blobs(tmp_path)) == 2
        assert book.result("r", bytes([4])) is not None
        book.turn("r", bytes([4]))
        with pytest.raises(StateError):
            book.turn("r", bytes([3 - 1]))


def test_a_full_ledger_keeps_the_memory_of_a_run_that_goes_on(tmp_path: Path) -> None:
    """A run whose results were all forgotten still has its memory, its asks and its process number."""
    now = [1e9]
    with opened(tmp_path, mib=1, clock=lambda: now[0]) as book:
        for run in ("going", "over"):
            book.fence(run, 2)
            book.note_ask(run, "k", "t", b"a")
            commit(book, run, b"1", result(os.urandom(200_000)), {"local": run.encode() * LONG}, lease=2)
        now[0] += MAX_VALID_S + 2 * DAY_S
        book.fence("going", 2)
        book.tend()
        commit(book, "new", b"1", result(os.urandom(2**20)), {"local": b"new"})
        assert book.result("going", b"1") is None
        assert book.result("over", b"1") is None
        assert book.memory("going") == {"local": b"going" * LONG}
        assert book.memory("new") == {"local": b"new"}
        with pytest.raises(RunError):
            book.fence("going", 1)
        with pytest.raises(EquivocationError):
            book.note_ask("going", "k", "t", b"b")
        assert book.memory("over") == {}
        book.fence("over", 1)


def test_what_is_over_is_forgotten_also_where_there_is_room(tmp_path: Path) -> None:
    """After eight days without a word, run by run, at the opening and when it is looked over."""
    now = [1e9]

    def work(book: Ledger, run: str, lease: int = 2) -> None:
        book.fence(run, lease)
        book.note_ask(run, "k", "t", b"a")
        commit(book, run, b"1", result(os.urandom(LONG)), {"local": os.urandom(LONG)})

    with opened(tmp_path, clock=lambda: now[0]) as book:
        work(book, "first")
        now[0] += 4 * DAY_S
        work(book, "second")
        now[0] += 3.9 * DAY_S
        book.tend()
        assert len(blobs(tmp_path)) == 4
        now[0] += 0.2 * DAY_S
        book.tend()
        assert book.result("first", b"1") is None
        assert book.memory("first") == {}
        assert len(blobs(tmp_path)) == 2
        book.fence("first", 1)
        book.note_ask("first", "k", "t", b"b")
        with pytest.raises(StateError):
            book.turn("first", b"1")
    now[0] += 7.9 * DAY_S
    with opened(tmp_path, clock=lambda: now[0]) as book:
        assert book.memory("second") == {}


def test_a_clock_that_is_wrong_for_a_while_costs_no_memory(tmp_path: Path) -> None:
    """Of the last run its results go, and what it goes on from stays."""
    with opened(tmp_path, clock=lambda: 1e9) as book:
        book.fence("r", 2)
        book.note_ask("r", "k", "t", b"a")
        commit(book, "r", b"1", result(b"1"), {"local": b"1"})
    with opened(tmp_path, clock=lambda: 2e9) as book:
        assert book.result("r", b"1") is None
        assert book.memory("r", b"1") == {"local": b"1"}
        with pytest.raises(RunError):
            book.fence("r", 1)
        with pytest.raises(EquivocationError):
            book.note_ask("r", "k", "t", b"b")
        commit(book, "r", b"2", result(b"2"), {"local": b"2"}, b"1")


def test_undo_takes_room_too(tmp_path: Path) -> None:
    """A result counts with what was there before it."""
    with opened(tmp_path) as book:
        for number, value in enumerate((b"x" * LONG, b"y" * 10, None)):
            commit(book, "r", bytes([number]), result(b"123"), {"local": value})
        sizes = book._db.execute("SELECT bytes FROM results ORDER BY number").fetchall()
        assert [size for (size,) in sizes] == [3 + LONG, 3 + LONG + 10, 3 + 10]


def test_the_result_that_the_memory_came_from_is_never_forgotten(tmp_path: Path) -> None:
    """A query that takes the whole room leaves it; other runs go before it."""
    with opened(tmp_path, mib=1) as book:
        commit(book, "s", b"1", result(os.urandom(LONG)), {})
        for number in (b"1", b"2"):
            commit(book, "r", number, result(os.urandom(LONG)), {"local": number})
        commit(book, "r", b"q", result(os.urandom(2**20)), {}, kind="query.local_model")
        assert [book.result("r", one) is None for one in (b"1", b"2", b"q")] == [True, False, False]
        assert book.result("s", b"1") is None
        assert book.memory("r", b"1") == {"local": b"1"}


def test_the_memory_of_the_run_at_hand_is_never_swept(tmp_path: Path) -> None:
    """Each of its results takes the whole room, and nobody ever fenced it."""
    with opened(tmp_path, mib=1) as book:
        for number in range(3):
            value = {str(number): bytes([number]) * LONG}
            commit(book, "r", bytes([number]), result(os.urandom(2**20)), value)
        assert book.memory("r") == {str(number): bytes([number]) * LONG for number in range(3)}


def test_files_of_replaced_memory_do_not_pile_up(tmp_path: Path) -> None:
    """A long run of small results and large memory takes what it may, the memory and some."""
    with opened(tmp_path, mib=1) as book:
        for number in range(40):
            commit(book, "r", bytes([number]), result(b"small"), {"local": os.urandom(LONG)})
            assert len(blobs(tmp_path)) <= 2**20 // LONG + 2
        assert len(book.memory("r")["local"]) == LONG


def test_whole_other_runs_make_room_first(tmp_path: Path) -> None:
    """The one longest ago first and to its end, then the oldest of the run at hand."""
    rows = [("here", 100), ("first", 100), ("second", 280), ("second", 20), ("first", 100), ("here", 100)]
    with opened(tmp_path, mib=1) as book:
        for number, (run, kb) in enumerate(rows):
            commit(book, run, b"%d" % number, result(os.urandom(1000 * kb)), {})
        commit(book, "here", b"6", result(os.urandom(360_000)), {})
        assert _kept(tmp_path) == {"here": [b"0", b"5", b"6"], "first": [b"1", b"4"]}
        commit(book, "here", b"7", result(os.urandom(300_000)), {})
        assert _kept(tmp_path) == {"here": [b"5", b"6", b"7"]}


def _kept(folder: Path) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    with sqlite3.connect(folder / "site.db") as book:
        for run, asked in book.execute("SELECT run, asked FROM results ORDER BY number"):
            found.setdefault(run, []).append(asked)
    book.close()
    return found


def test_room_is_counted_without_reading_what_is_kept(tmp_path: Path) -> None:
    """From an index, however large the rows are."""
    with opened(tmp_path) as book:
        (plan,) = book._db.execute("EXPLAIN QUERY PLAN SELECT COALESCE(SUM(bytes), 0) FROM results")
        assert "COVERING INDEX results_bytes" in plan[-1]


def test_a_lost_or_damaged_file_is_no_result(tmp_path: Path) -> None:
    """The work is done again; the same bytes can be kept once more."""
    given = result(b"1", os.urandom(LONG))
    with opened(tmp_path) as book:
        for damage in ("lost", "damaged"):
            book.turn("r", b"")
            commit(book, "r", b"1", given, {})
            (path,) = (tmp_path / "blobs").iterdir()
            if damage == "lost":
                path.unlink()
            else:
                path.write_bytes(b"?" + path.read_bytes()[1:])
            assert book.result("r", b"1") is None
        book.turn("r", b"")
        commit(book, "r", b"1", given, {})
        assert book.result("r", b"1") == given


def test_a_lost_memory_is_not_taken_for_none(tmp_path: Path) -> None:
    """A site that trained from nothing instead would give another answer, and nobody would know why."""
    with opened(tmp_path) as book:
        commit(book, "r", b"1", result(b"1"), {"local": os.urandom(LONG)})
        for path in (tmp_path / "blobs").iterdir():
            path.unlink()
        with pytest.raises(RunError, match=r"memory in .* is lost"):
            book.memory("r")


def test_one_thread_writes_while_another_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one thread notes while the other's transaction is open does not go down with that."""
    inside, noted = threading.Event(), threading.Event()
    with opened(tmp_path) as book:
        real = book._db

        def fail_late() -> None:
            inside.set()
            noted.wait(0.3)
            raise sqlite3.OperationalError("disk full")

        def fence() -> None:
            assert inside.wait(5)
            book.fence("r", 7)
            noted.set()

        other = threading.Thread(target=fence)
        other.start()
        monkeypatch.setattr(book, "_make_room", lambda *_: None)
        book._db = Failing(real, "COMMIT", fail_late)  # type: ignore[assignment]
        with pytest.raises(sqlite3.OperationalError):
            commit(book, "r", b"1", result(b"1"), {})
        book._db = real
        other.join(5)
        with pytest.raises(RunError):
            book.fence("r", 6)


def test_two_threads_leave_a_book_that_holds_together(tmp_path: Path) -> None:
    """Commits beside fences and questions, with sweeps: no error, and every result that is kept is whole."""
    errors: list[BaseException] = []
    stop = threading.Event()
    with opened(tmp_path, mib=1) as book:

        def ask() -> None:
            lease = 0
            try:
                while not stop.is_set():
                    lease += 1
                    book.fence("s", lease)
                    book.note_ask("r", "k", "t", b"a")
                    book.tend()
                    for number in range(16):
                        found = book.result("r", bytes([number]))
                        assert found is None or found.parts[0][:1] == bytes([number])
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        other = threading.Thread(target=ask)
        other.start()
        for number in range(16):
            part = bytes([number]) + os.urandom(LONG * 2)
            commit(book, "r", bytes([number]), result(part), {"local": os.urandom(LONG)})
        stop.set()
        other.join(10)
        assert not errors
        assert not other.is_alive()
    assert IN_ROW < LONG
