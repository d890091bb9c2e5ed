"""The site's ledger: the memory goes back and forth between its versions, and to no other."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from clients.ledger import Known, Ledger
from protocol.errors import RunError, StateError
from tests.clients.ledger_cases import KIND, LONG, blobs, commit, opened, result


def _line(book: Ledger, *names: bytes, run: str = "r") -> None:
    """Have one work after the other done: each puts its name, its own key, and drops the one before it."""
    before = b""
    for name in names:
        book.turn(run, before)
        changes = {"last": name, name.decode(): name * LONG, before.decode() or "none": None}
        commit(book, run, name, result(name), changes, before)
        before = name


def test_a_question_from_an_earlier_version_undoes_what_came_after(tmp_path: Path) -> None:
    """Values that were changed, made and dropped; other runs are left alone; also after a restart."""
    with opened(tmp_path) as book:
        _line(book, b"1", b"2", b"3")
        _line(book, b"1", b"2", run="s")
        assert book.recall("r", KIND, b"4", b"1") is None
        assert book.memory("r")["last"] == b"3"  # not before the work begins
        book.turn("r", b"1")
    with opened(tmp_path) as book:
        assert book.memory("r") == {"last": b"1", "1": b"1" * LONG}
        book.turn("r", b"")
        assert book.memory("r") == {}
        assert book.memory("s") == {"last": b"2", "2": b"2" * LONG}
        assert book.memory("r", b"3") == {"last": b"3", "3": b"3" * LONG}


def test_a_version_that_is_not_here(tmp_path: Path) -> None:
    """It is named with the one that is, and nothing changes."""
    with opened(tmp_path) as book:
        _line(book, b"1")
        for ask in (
            lambda: book.recall("r", KIND, b"2", b"?" * 32),
            lambda: book.recall("r", "query.trial", b"2", b"?" * 32),
            lambda: book.turn("r", b"?" * 32),
            lambda: book.memory("r", b"?" * 32),
        ):
            with pytest.raises(StateError, match=f"version {'3f' * 8} .* it is of version 31") as caught:
                ask()
            assert caught.value.code == "state"
        with pytest.raises(StateError, match=r"version 31 .* it is of version '' "):
            book.turn("s", b"1")
        assert book.memory("r") == {"last": b"1", "1": b"1" * LONG}


def test_what_is_asked_again_is_given_again(tmp_path: Path) -> None:
    """From the version that it started from it is redone; from one that came of it nothing changes."""
    with opened(tmp_path) as book:
        _line(book, b"1", b"2", b"3")
        assert book.recall("r", KIND, b"2", b"3") == Known(result(b"2"), b"3")
        assert book.recall("r", KIND, b"3", b"3") == Known(result(b"3"), b"3")
        assert book.memory("r")["last"] == b"3"
        book.turn("r", b"")
    with opened(tmp_path) as book:
        assert book.recall("r", KIND, b"1", b"") == Known(result(b"1"), b"1")
        assert book.memory("r") == {"last": b"1", "1": b"1" * LONG}
        assert book.recall("r", KIND, b"2", b"1") == Known(result(b"2"), b"2")
        assert book.recall("r", KIND, b"3", b"2") == Known(result(b"3"), b"3")
        assert book.memory("r") == {"last": b"3", "3": b"3" * LONG}


def test_what_started_from_another_version_is_done_anew(tmp_path: Path) -> None:
    """And all that came of it is forgotten: its versions are no longer what their names say."""
    with opened(tmp_path) as book:
        _line(book, b"1", b"2", b"3")
        book.turn("r", b"")
        commit(book, "r", b"other", result(b"other"), {"last": b"other"}, b"")
        assert book.recall("r", KIND, b"2", b"other") is None
        commit(book, "r", b"2", result(b"anew"), {"new": b"2"}, b"other")
        assert book.recall("r", KIND, b"2", b"other") == Known(result(b"anew"), b"2")
        assert book.recall("r", KIND, b"3", b"2") is None
        assert book.memory("r") == {"last": b"other", "new": b"2"}
        with pytest.raises(StateError):
            book.turn("r", b"3")
        assert book.memory("r", b"1") == {"last": b"1", "1": b"1" * LONG}


def test_queries_are_no_versions(tmp_path: Path) -> None:
    """They change nothing; one is answered again from any version that came of its own."""
    with opened(tmp_path) as book:
        _line(book, b"1", b"2")
        commit(book, "r", b"q", result(b"q"), {"last": b"q"}, b"2", kind="query.trial")
        assert book.memory("r")["last"] == b"2"
        assert book.recall("r", "query.trial", b"q", b"2") == Known(result(b"q"), b"2")
        commit(book, "r", b"3", result(b"3"), {"last": b"3"}, b"2")
        assert book.recall("r", "query.trial", b"q", b"3") == Known(result(b"q"), b"3")
        assert book.recall("r", "query.trial", b"q", b"1") is None
        commit(book, "s", b"first", result(b"f"), {}, b"", kind="query.summary")
        commit(book, "s", b"1", result(b"1"), {}, b"")
        assert book.recall("s", "query.summary", b"first", b"1") == Known(result(b"f"), b"1")


def test_work_from_a_version_that_is_no_longer_the_memorys_is_not_kept(tmp_path: Path) -> None:
    """Neither its result nor what it changed, also of a query; nor an answer that was given before."""
    with opened(tmp_path) as book:
        _line(book, b"1", b"2")
        for kind in (KIND, "query.trial"):
            with pytest.raises(StateError, match=r"from version 31 .* of version 32"):
                commit(book, "r", b"late", result(b"late"), {"last": b"late"}, b"1", kind=kind)
        with pytest.raises(StateError, match="answered before"):
            commit(book, "r", b"1", result(b"again"), {}, b"2")
        assert book.result("r", b"late") is None
        assert book.memory("r") == {"last": b"2", "2": b"2" * LONG}


def test_an_answer_that_is_no_longer_kept_is_not_made_up(tmp_path: Path) -> None:
    """Done again from a later memory it would be another one; from its own it is the same work."""
    with opened(tmp_path) as book:
        _line(book, b"1", b"2")
        book._db.execute("DELETE FROM results WHERE asked = ?", (b"1",))
        with pytest.raises(StateError, match=r"to this train\.weights is no longer kept"):
            book.recall("r", KIND, b"1", b"2")
        book.turn("r", b"1")
        with pytest.raises(StateError):
            book.recall("r", KIND, b"1", b"")


# The server's processes.


def test_a_new_process_of_the_server_finds_the_memory(tmp_path: Path) -> None:
    """It goes on with the run; one that it has replaced is refused, and so is what that one asked for."""
    with opened(tmp_path) as book:
        book.fence("r", 1)
        _line(book, b"1")
        book.fence("r", 2)
        assert book.memory("r")["last"] == b"1"
        with pytest.raises(RunError, match="process 1, and 2"):
            book.fence("r", 1)
        with pytest.raises(RunError, match="process 1, and 2"):
            commit(book, "r", b"2", result(b"late"), {"last": b"late"}, b"1", lease=1)
        assert book.result("r", b"2") is None
        assert book.memory("r")["last"] == b"1"
        commit(book, "r", b"2", result(b"now"), {"last": b"now"}, b"1", lease=2)
        assert book.memory("r")["last"] == b"now"


# What is lost.


@pytest.mark.parametrize("damage", ["lost", "damaged"])
def test_a_result_whose_memory_is_lost_is_done_again(tmp_path: Path, damage: str) -> None:
    """The site does not go on without what it had changed."""
    with opened(tmp_path) as book:
        commit(book, "r", b"1", result(b"one"), {"local": os.urandom(LONG)}, b"")
        book.turn("r", b"")
        (path,) = (tmp_path / "blobs").iterdir()
        if damage == "lost":
            path.unlink()
        else:
            path.write_bytes(b"?" + path.read_bytes()[1:])
        assert book.recall("r", KIND, b"1", b"") is None
        assert book.memory("r") == {}
        commit(book, "r", b"1", result(b"one"), {"local": b"again"}, b"")
        assert book.memory("r") == {"local": b"again"}


def test_what_only_an_undo_names_is_not_swept(tmp_path: Path) -> None:
    """It stays for as long as the memory can go back to it."""
    old = os.urandom(LONG)
    with opened(tmp_path, mib=1) as book:
        commit(book, "r", b"1", result(b"one"), {"local": old}, b"")
        commit(book, "r", b"2", result(b"two"), {"local": os.urandom(LONG)}, b"1")
        book._db.execute("DELETE FROM results WHERE asked = ?", (b"1",))
    with opened(tmp_path, mib=1) as book:
        assert len(blobs(tmp_path)) == 2
        assert book.memory("r", b"1") == {"local": old}


@pytest.mark.parametrize("form", [0, 2])
def test_a_book_of_an_earlier_form(tmp_path: Path, form: int) -> None:
    """Its memory has no version that anybody could name: it is forgotten, a run in progress refused."""
    tables = """
    CREATE TABLE results (
        run TEXT, asked BLOB, kind TEXT, task TEXT, answer TEXT, at REAL, bytes INTEGER, lease INTEGER,
        changes BLOB, parts BLOB, PRIMARY KEY (run, asked));
    CREATE INDEX results_bytes ON results (bytes);
    CREATE TABLE memory (run TEXT, key TEXT, value BLOB, PRIMARY KEY (run, key));
    CREATE TABLE asks (
        run TEXT, kind TEXT, task TEXT, lease INTEGER, asked BLOB, PRIMARY KEY (run, kind, task, lease));
    CREATE TABLE leases (run TEXT PRIMARY KEY, lease INTEGER, heard REAL);
    INSERT INTO results VALUES ('r', x'31', 'k', 't', 'k', 1, 1, 3, x'', x'');
    INSERT INTO memory VALUES ('r', 'local', x'5231');
    INSERT INTO asks VALUES ('r', 'k', 't', 3, x'31');
    INSERT INTO leases VALUES ('r', 3, 4e9);
    """
    with sqlite3.connect(tmp_path / "site.db") as old:
        old.executescript(f"{tables} PRAGMA user_version = {form};")
    old.close()
    with opened(tmp_path) as book:
        assert book.result("r", b"1") is None
        assert book.memory("r") == {}
        book.note_ask("r", "k", "t", b"2")
        with pytest.raises(RunError, match="3 has taken its place"):
            book.fence("r", 2)
        with pytest.raises(StateError):
            book.recall("r", KIND, b"2", b"1")
        commit(book, "r", b"1", result(b"1"), {"local": b"1"}, b"")
    with opened(tmp_path) as book:
        assert book.memory("r") == {"local": b"1"}
