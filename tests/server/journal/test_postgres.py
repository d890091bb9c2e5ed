"""A journal in PostgreSQL: durable, fenced between connections, and whole whatever the server does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from protocol.errors import ConfigError
from server.journal.database import at_url
from server.journal.store import FencedError, JournalError
from tests.server.journal_cases import Database
from tests.server.postgres_cases import Postgres

_PATIENCE_S = 60.0


@pytest.fixture
def there(postgres: Postgres, tmp_path: Path) -> Iterator[Database]:
    """A journal on the server."""
    made = Database(tmp_path, postgres.url)
    yield made
    made.close()


def ask(database: Database, statement: str) -> Any:
    """Return what one statement gives, on a connection of its own."""
    with database.engine().begin() as db:
        found = db.execute(sa.text(statement))
        return found.scalar() if found.returns_rows else None


def test_every_commit_is_on_the_disk(there: Database) -> None:
    """Also where the database was told not to wait for it; and a time is read to the last bit."""
    ask(there, "ALTER ROLE consilium SET synchronous_commit = off")
    ask(there, "ALTER ROLE consilium SET extra_float_digits = 0")
    ask(there, "ALTER ROLE consilium SET default_transaction_isolation = 'serializable'")
    try:
        assert ask(there, "SHOW synchronous_commit") == "on"
        assert ask(there, "SHOW transaction_isolation") == "read committed"
        there.journal(clock=lambda: 0.1 + 0.2).take_lease()
        assert there.journal().leases()[0]["at"] == 0.1 + 0.2
    finally:
        ask(there, "ALTER ROLE consilium RESET ALL")


def test_transactions_of_one_run_follow_each_other(there: Database) -> None:
    """While one holds the run's lock another waits for it, and then sees what that one did."""
    first = there.written({"n": 1})
    second, taken = there.journal(), list[int]()
    with first._engine.begin() as db:
        first._fence(db)
        waiter = threading.Thread(target=lambda: taken.append(second.take_lease()))
        waiter.start()
        _until_waits(there)
        assert taken == []
    waiter.join(_PATIENCE_S)
    assert taken == [2]


def test_who_waited_is_fenced(there: Database) -> None:
    """A writer that began to commit before its place was taken, and had to wait, finds that out."""
    first = there.written({"n": 1})
    first.append("kind", "", {"n": 2})
    second, failed = there.journal(), list[type]()

    def commit() -> None:
        try:
            first.commit()
        except JournalError as error:
            failed.append(type(error))

    waiter = threading.Thread(target=commit)
    with second._engine.begin() as db:
        second._fence(db)
        waiter.start()
        _until_waits(there)
        db.execute(sa.text("INSERT INTO leases VALUES (:run, 2, 0, '{}')"), {"run": there.run})
    waiter.join(_PATIENCE_S)
    assert failed == [FencedError]
    assert [row.body for row in there.journal().rows()] == [{"n": 1}]


def test_runs_do_not_wait_for_each_other(there: Database) -> None:
    """The lock is the run's."""
    first, other = there.written({"n": 1}), Database(there.folder, there.url)
    with first._engine.begin() as db:
        first._fence(db)
        other.written({"n": 2})
    other.close()


def test_connections_that_end_between_commits(there: Database) -> None:
    """A new one is made; nothing that was committed is lost, and nothing comes twice."""
    journal = there.written({"n": 0})
    for number in range(1, 4):
        _end_all(there)
        journal.append("kind", "", {"n": number})
        journal.commit()
    assert [row.body["n"] for row in there.journal().rows()] == [0, 1, 2, 3]


def test_a_connection_that_ends_within_a_commit(there: Database) -> None:
    """The run stops, with one line that says why; whoever goes on has all rows or none of that commit."""
    journal = there.written({"n": 0})
    journal.append("kind", "", {"n": 1})

    def end(db: sa.Connection, *_: object) -> None:
        if not done:
            done.append(True)
            _end_all(there)

    done: list[bool] = []
    sa.event.listen(journal._engine, "begin", end)
    with pytest.raises(JournalError, match="cannot be written") as found:
        journal.commit()
    assert "\n" not in str(found.value)
    after = there.journal()
    assert after.take_lease() == 2
    assert [row.body["n"] for row in after.rows()] == [0]


def test_a_server_that_restarts(there: Database, postgres: Postgres) -> None:
    """Between commits it is not noticed; what had been committed survives an immediate stop."""
    journal = there.written({"n": 0}, {"n": 1})
    postgres.restart()
    journal.append("kind", "", {"n": 2})
    journal.commit()
    assert [row.body["n"] for row in journal.rows()] == [0, 1, 2]


def test_a_server_that_is_away(there: Database, postgres: Postgres) -> None:
    """To write and to read are errors of one line; when it is back the same writer goes on."""
    journal = there.written({"n": 0})
    journal.append("kind", "", {"n": 1})
    postgres.control("stop", "-m", "immediate")
    try:
        with pytest.raises(JournalError, match="cannot be written"):
            journal.commit()
        with pytest.raises(JournalError, match="cannot be read"):
            list(there.journal().rows())
        with pytest.raises(JournalError, match="cannot be read"):
            there.journal().last()
    finally:
        postgres.control("start")
    journal.commit()
    assert [row.body["n"] for row in there.journal().rows()] == [0, 1]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql+psycopg://user:hunter2@host/name", "holds a password"),
        ("postgresql+psycopg://host/name?password=hunter2", "holds a password"),
        ("postgresql+psycopg://host/name?sslpassword=hunter2", "holds a password"),
        ("postgresql+psycopg://host:hunter2/name", "cannot be read"),
        ("hunter2", "cannot be read"),
        ("", "cannot be read"),
        ("mysql://host/hunter2", "a journal in mysql is not supported"),
        ("postgresql+asyncpg://host/hunter2", "a journal in postgresql.asyncpg is not supported"),
        ("sqlite:///hunter2", "lies in its run's folder"),
        ("sqlite://", "lies in its run's folder"),
    ],
)
def test_a_url_that_is_refused(url: str, why: str) -> None:
    """The message says why, and never what stands in the URL: it may be the password."""
    with pytest.raises(ConfigError, match=why) as found:
        at_url(url)
    assert "hunter2" not in str(found.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'consilium\[postgres\]'"):
        at_url("postgresql://host/name")


def _end_all(database: Database) -> None:
    others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
    ask(database, f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}")  # noqa: S608


def _until_waits(database: Database) -> None:
    """Wait until a connection waits for an advisory lock."""
    end = time.monotonic() + _PATIENCE_S
    while not ask(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
        assert time.monotonic() < end
        time.sleep(0.05)
