"""The databases that a journal may be in: a file of SQLite's in the run's folder, or PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from protocol.errors import ConfigError

_DRIVER: Final = "postgresql+psycopg"
_EXAMPLE: Final = "e.g. postgresql+psycopg://HOST/NAME"
_MODE: Final = 0o600


def in_file(path: Path, *, to_write: bool = True) -> sa.Engine:
    """Return the database in a file, which is its owner's alone: one connection.

    To write: write-ahead log, every commit synced to the disk (``synchronous=FULL``). To read: nothing is
    changed, while another process may write.

    Raises:
        OSError: the file cannot be made.
    """
    if to_write:
        _make_private(path)
        open_, begin, prepare = _opens(str(path)), "BEGIN IMMEDIATE", _prepare_sqlite
    else:
        open_, begin, prepare = _opens(_uri(path), uri=True), "BEGIN", _leave_alone
    engine = sa.create_engine("sqlite://", creator=open_, poolclass=StaticPool)
    sa.event.listen(engine, "connect", prepare)
    sa.event.listen(engine, "begin", lambda db: db.exec_driver_sql(begin))
    return engine


def at_url(url: str) -> sa.Engine:
    """Return the PostgreSQL database at a URL.

    Raises:
        ConfigError: it is no such URL, its driver is not installed, or it holds a password, which would be
            seen.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(f"the journal's URL cannot be read; {_EXAMPLE}") from None
    if parsed.password is not None or any("password" in key.lower() for key in parsed.query):
        raise ConfigError("the journal's URL holds a password: put it into ~/.pgpass, mode 0600, instead")
    if parsed.get_backend_name() == "sqlite":
        raise ConfigError("a journal in a file lies in its run's folder: give no URL for it")
    if parsed.drivername not in {"postgresql", _DRIVER}:
        raise ConfigError(f"a journal in {parsed.drivername} is not supported; {_EXAMPLE}")
    try:
        # A fence is looked at once its lock is held: what a transaction sees must be as new as that.
        engine = sa.create_engine(
            parsed.set(drivername=_DRIVER), pool_pre_ping=True, isolation_level="READ COMMITTED"
        )
    except ImportError:
        raise ConfigError(
            "a journal in PostgreSQL needs the package psycopg: pip install 'consilium[postgres]'"
        ) from None
    sa.event.listen(engine, "connect", _prepare_postgres)
    return engine


def _opens(where: str, *, uri: bool = False) -> Callable[[], sqlite3.Connection]:
    """Return what connects; transactions begin where we say, not where the driver guesses."""
    return lambda: sqlite3.connect(where, uri=uri, isolation_level=None, check_same_thread=False)


def _uri(path: Path) -> str:
    """Return how a file is opened to be read.

    Where nothing can be written, not even what readers tell each other, nobody writes: then the file is all
    there is, if its log was closed.
    """
    log = path.with_name(f"{path.name}-wal")
    is_closed = not log.exists() or not log.stat().st_size
    alone = is_closed and not os.access(path.parent, os.W_OK)
    return f"file:{quote(str(path.resolve()))}?mode=ro" + ("&immutable=1" if alone else "")


def _make_private(path: Path) -> None:
    """Make the file, or make it its owner's; SQLite gives what it puts beside it the same mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    try:
        os.fchmod(descriptor, _MODE)
    finally:
        os.close(descriptor)


def _prepare_sqlite(connection: Any, record: object) -> None:  # noqa: ARG001  an event of SQLAlchemy's
    connection.execute("PRAGMA busy_timeout=5000")
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError("the folder's file system has no write-ahead log")
    connection.execute("PRAGMA synchronous=FULL")


def _leave_alone(connection: Any, record: object) -> None:  # noqa: ARG001  an event of SQLAlchemy's
    connection.execute("PRAGMA busy_timeout=5000")


def _prepare_postgres(connection: Any, record: object) -> None:  # noqa: ARG001  an event of SQLAlchemy's
    """Have a commit be on the disk when it returns, and a time be read as it was written."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('fsync'), current_setting('synchronous_commit')")
        fsync, commits = cursor.fetchone()
        if fsync == "off":
            raise ConfigError("the journal's database loses what it was told (fsync = off); turn that on")
        if commits == "off":
            cursor.execute("SET synchronous_commit = on")
        cursor.execute("SET extra_float_digits = 3")
    connection.commit()
