"""The site's ledger: both or neither, the same bytes for ever, and no more room than it may take."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clients import ledger as ledger_module
from clients.ledger import Ledger, Result
from protocol.errors import EquivocationError, RunError
from protocol.seal import MAX_VALID_S

LONG = 100_000  # bytes that lie in a file of their own
DAY_S = 86_400.0
ASKED = b"\x00'%\xff" * 8


def result(*parts: bytes, kind: str = "train.weights", task: str = "r/1/risk/north/1") -> Result:
    """An answer of these parts."""
    return Result(kind, task, parts)


@contextmanager
def opened(folder: Path, mib: int = 64, clock: Callable[[], float] | None = None) -> Iterator[Ledger]:
    """A ledger, closed at the end."""
    made = Ledger(folder, mib, clock) if clock else Ledger(folder, mib)
    try:
        yield made
    finally:
        made.close()


def blobs(folder: Path) -> set[str]:
    """The names of the files of what is long."""
    return {path.name for path in (folder / "blobs").iterdir()}


def test_a_result_survives_reopening_bit_by_bit(tmp_path: Path) -> None:
    """Short and long parts, an empty one, and bytes that are no text, under a key of bytes."""
    given = result(b"1", b"", os.urandom(LONG), b"\x00\x01", os.urandom(LONG + 1))
    with opened(tmp_path) as book:
        book.commit("r", "train.weights", ASKED, given, {})
        assert book.result("r", ASKED) == given
    with opened(tmp_path) as book:
        assert book.result("r", ASKED) == given
        assert book.result("r", ASKED[::-1]) is None
        assert book.result("other", ASKED) is None


def test_the_memory_changes_key_by_key_and_run_by_run(tmp_path: Path) -> None:
    """A key is put anew, put for the first time, or dropped; other runs are left alone."""
    long = os.urandom(LONG)
    with opened(tmp_path) as book:
        book.commit("r", "k", b"1", result(b"a"), {"local": b"old", "gone": long})
        book.commit("s", "k", b"2", result(b"b"), {"local": b"other run"})
        book.commit("r", "k", b"3", result(b"c"), {"local": long, "gone": None, "new": b"\x00"})
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


class Failing:
    """A connection that does something else than the n-th statement of a kind that it is given."""

    def __init__(self, real: sqlite3.Connection, starts: str, then: Callable[[], None]) -> None:
        self._real, self._starts, self._then = real, starts, then

    def execute(self, sql: str, *values: Any) -> Any:
        """Execute, unless it is the one."""
        if sql.startswith(self._starts):
            self._then()
        return self._real.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("statement", ["INSERT OR REPLACE INTO results", "INSERT INTO memory", "COMMIT"])
def test_a_commit_that_fails_leaves_nothing(tmp_path: Path, statement: str) -> None:
    """Between the file and the row, between result and memory, or at the last moment; then it goes on."""

    def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    before, after = result(b"before"), result(b"x", os.urandom(LONG))
    with opened(tmp_path) as book:
        book.commit("r", "k", b"1", before, {"local": b"before"})
        real = book._db
        book._db = Failing(real, statement, fail)  # type: ignore[assignment]
        book._make_room = lambda *_: None  # type: ignore[method-assign]  it commits a transaction of its own
        with pytest.raises(sqlite3.OperationalError):
            book.commit("r", "k", b"2", after, {"local": b"after", "new": b"n"})
        book._db = real
        assert book.result("r", b"2") is None
        assert book.memory("r") == {"local": b"before"}
        book.commit("r", "k", b"2", after, {"local": b"after", "new": b"n"})
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

    def commit(book: Ledger) -> None:
        book.commit("r", "k", b"2", new, {"local": value})

    seen = set()
    for step in range(100):
        folder = tmp_path / str(step)
        folder.mkdir()
        with opened(folder) as book:
            book.commit("r", "k", b"1", old, {"local": b"old"})
        killed = _killed_at(step, folder, commit)
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
    """Two digests under one id are equivocation, but for the next process of the server."""
    about = ("r", "train.weights", "r/1/risk/north/1")
    with opened(tmp_path) as book:
        book.note_ask(*about, 1, b"a" * 32)
        book.note_ask(*about, 1, b"a" * 32)
        with pytest.raises(EquivocationError, match=r"two things as one train\.weights of 'r/1/risk"):
            book.note_ask(*about, 1, b"b" * 32)
        book.note_ask(*about, 2, b"b" * 32)
        book.note_ask("r", "train.finish", about[2], 1, b"c" * 32)
    with opened(tmp_path) as book, pytest.raises(EquivocationError):
        book.note_ask(*about, 2, b"a" * 32)


def test_the_oldest_results_make_room(tmp_path: Path) -> None:
    """No more than may be kept: the oldest go, with their files; the newest stays, whatever its size."""
    parts = [os.urandom(300_000) for _ in range(5)]
    with opened(tmp_path, mib=1) as book:
        for number, part in enumerate(parts):
            book.commit("r", "k", bytes([number]), result(part), {})
        kept = [number for number in range(5) if book.result("r", bytes([number]))]
        assert kept == [2, 3, 4]
        assert blobs(tmp_path) == {hashlib.sha256(parts[number]).hexdigest() for number in kept}
        large = result(os.urandom(2**20 + 1))
        book.commit("r", "k", b"large", large, {})
        assert book.result("r", b"large") == large
        assert len(blobs(tmp_path)) == 1


def test_a_full_ledger_keeps_the_memory_of_a_run_that_goes_on(tmp_path: Path) -> None:
    """A run whose results were all forgotten still has its memory, its asks and its process number."""
    now = [1e9]
    with opened(tmp_path, mib=1, clock=lambda: now[0]) as book:
        for run in ("going", "over"):
            book.fence(run, 2)
            book.note_ask(run, "k", "t", 2, b"a")
            book.commit(run, "k", b"1", result(os.urandom(200_000)), {"local": run.encode() * LONG})
        now[0] += MAX_VALID_S + 2 * DAY_S
        book.fence("going", 2)
        book.commit("new", "k", b"1", result(os.urandom(2**20)), {"local": b"new"})
        assert book.result("going", b"1") is None
        assert book.result("over", b"1") is None
        assert book.memory("going") == {"local": b"going" * LONG}
        assert book.memory("new") == {"local": b"new"}
        with pytest.raises(RunError):
            book.fence("going", 1)
        with pytest.raises(EquivocationError):
            book.note_ask("going", "k", "t", 2, b"b")
        assert book.memory("over") == {}
        book.fence("over", 1)


def test_the_memory_of_the_run_at_hand_is_never_swept(tmp_path: Path) -> None:
    """Each of its results takes the whole room, and nobody ever fenced it."""
    with opened(tmp_path, mib=1) as book:
        for number in range(3):
            value = {str(number): bytes([number]) * LONG}
            book.commit("r", "k", bytes([number]), result(os.urandom(2**20)), value)
        assert book.memory("r") == {str(number): bytes([number]) * LONG for number in range(3)}


def test_files_of_replaced_memory_do_not_pile_up(tmp_path: Path) -> None:
    """A long run of small results and large memory takes no more room than the memory and some."""
    with opened(tmp_path, mib=1) as book:
        for number in range(20):
            book.commit("r", "k", bytes([number]), result(b"small"), {"local": os.urandom(LONG)})
            assert len(blobs(tmp_path)) <= 4
        assert len(book.memory("r")["local"]) == LONG


def test_a_lost_or_damaged_file_is_no_result(tmp_path: Path) -> None:
    """The work is done again; the same bytes can be kept once more."""
    given = result(b"1", os.urandom(LONG))
    with opened(tmp_path) as book:
        for damage in ("lost", "damaged"):
            book.commit("r", "k", b"1", given, {})
            (path,) = (tmp_path / "blobs").iterdir()
            if damage == "lost":
                path.unlink()
            else:
                path.write_bytes(b"?" + path.read_bytes()[1:])
            assert book.result("r", b"1") is None
        book.commit("r", "k", b"1", given, {})
        assert book.result("r", b"1") == given


def test_a_lost_memory_is_not_taken_for_none(tmp_path: Path) -> None:
    """A site that trained from nothing instead would give another answer, and nobody would know why."""
    with opened(tmp_path) as book:
        book.commit("r", "k", b"1", result(b"1"), {"local": os.urandom(LONG)})
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
            book.commit("r", "k", b"1", result(b"1"), {})
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
                    book.fence("r", lease)
                    book.note_ask("r", "k", "t", lease, b"a")
                    for number in range(8):
                        found = book.result("r", bytes([number]))
                        assert found is None or found.parts[0][:1] == bytes([number])
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        other = threading.Thread(target=ask)
        other.start()
        for number in range(16):
            part = bytes([number % 8]) + os.urandom(LONG * 2)
            book.commit("r", "k", bytes([number % 8]), result(part), {"local": os.urandom(LONG)})
        stop.set()
        other.join(10)
        assert not errors
        assert not other.is_alive()
    assert ledger_module._IN_ROW < LONG
