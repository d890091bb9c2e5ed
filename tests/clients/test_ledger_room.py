"""The site's ledger takes no more room than it may, and loses nothing of a run that goes on."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from clients.blobs import IN_ROW
from protocol.errors import EquivocationError, RunError
from protocol.seal import MAX_VALID_S
from tests.clients.ledger_cases import DAY_S, LONG, Failing, blobs, opened, result


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
            book.commit(run, "k", b"1", result(os.urandom(200_000)), {"local": run.encode() * LONG}, 2)
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
    """A long run of small results and large memory takes what it may, the memory and some."""
    with opened(tmp_path, mib=1) as book:
        for number in range(40):
            book.commit("r", "k", bytes([number]), result(b"small"), {"local": os.urandom(LONG)})
            assert len(blobs(tmp_path)) <= 2**20 // LONG + 2
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
                    book.fence("s", lease)
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
    assert IN_ROW < LONG
