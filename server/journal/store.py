"""The journal's rows in a database: append-only, each chained to the one before, fenced by a lease.

A row's ``chain`` is the SHA-256 of the one before it and of all that the row says, so a row that was changed,
taken out or put in between is found. Who opens a journal to write it takes the next lease; from then on
nothing that an earlier writer appends is accepted, whether it was thought dead or only stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from protocol.errors import ConfigError, DataError, RunError
from server.journal.disk import Disk, T

FILE_NAME: Final = "journal.db"
# Names the database of a journal that is not in the run's folder; the run is the folder's name.
ELSEWHERE: Final = "journal.url"
FORM: Final = 1
START: Final = b"\0" * 32
_PAGE: Final = 8  # a row may hold the small answers of all sites
_LOCK: Final = 0x436F6E73  # PostgreSQL's advisory locks are numbers; this one is ours

_META = sa.MetaData()
ROWS = sa.Table(
    "journal",
    _META,
    sa.Column("run", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("lease", sa.BigInteger, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("key", sa.String(400), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("chain", sa.LargeBinary(32), nullable=False),
)
LEASES = sa.Table(
    "leases",
    _META,
    sa.Column("run", sa.String(64), primary_key=True),
    sa.Column("lease", sa.BigInteger, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
)


class JournalError(RunError):
    """The journal cannot be written or gone on from: the run stops where it is, and can be resumed."""

    code = "journal"


class FencedError(JournalError):
    """Another process has taken this one's place: what it still writes is refused."""

    code = "fenced"


@dataclass(frozen=True)
class Row:
    """One event. ``at`` is the Unix time in seconds when it was written."""

    number: int
    lease: int
    at: float
    kind: str
    key: str
    body: dict[str, Any]
    chain: bytes


class Journal:
    """The rows of one run.

    Args:
        engine: the database; see ``connect``.
        run: the run.
        disk: the seam for its transactions.
        clock: gives the Unix time in seconds.
    """

    def __init__(
        self, engine: sa.Engine, run: str, disk: Disk, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine, self.run, self._disk, self._clock = engine, run, disk, clock
        self._pending: list[dict[str, Any]] = []
        self._number, self._chain = 0, START
        self.lease = 0

    @property
    def unwritten(self) -> int:
        """How many rows wait for ``commit``."""
        return len(self._pending)

    def take_lease(self, who: Mapping[str, Any] | None = None) -> int:
        """Become the one writer; return the new lease, above those of all before.

        ``who`` is kept beside it: what the process is and what it runs on.
        """

        def transaction() -> int:
            with self._engine.begin() as db:
                _META.create_all(db)
                self._fence(db)
                lease = _last_lease(db, self.run) + 1
                row = {"run": self.run, "lease": lease, "at": self._clock()}
                db.execute(LEASES.insert().values(**row, who=_json(who or {})))
                return lease

        self.lease = self._written(transaction)
        with self._engine.connect() as db:
            last = db.execute(
                sa.select(ROWS.c.number, ROWS.c.chain)
                .where(ROWS.c.run == self.run)
                .order_by(ROWS.c.number.desc())
                .limit(1)
            ).first()
        self._number, self._chain = (last.number, bytes(last.chain)) if last else (0, START)
        return self.lease

    def leases(self) -> list[dict[str, Any]]:
        """Return who has written it, in order: lease, Unix time, and what they said of themselves."""
        with self._engine.connect() as db:
            if not sa.inspect(db).has_table(LEASES.name):
                return []
            query = sa.select(LEASES).where(LEASES.c.run == self.run).order_by(LEASES.c.lease)
            return [{"lease": r.lease, "at": r.at, **json.loads(r.who)} for r in db.execute(query)]

    def append(self, kind: str, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Add a row; it is on the disk after the next ``commit``. Return its body as it will be read."""
        text, at = _json(body), self._clock()
        self._number += 1
        self._chain = chained(self._chain, self._number, self.lease, at, kind, key, text)
        row = {"run": self.run, "number": self._number, "lease": self.lease, "at": at}
        self._pending.append({**row, "kind": kind, "key": key, "body": text, "chain": self._chain})
        found: dict[str, Any] = json.loads(text)
        return found

    def commit(self) -> None:
        """Have all rows on the disk that were appended, or none of them.

        Raises:
            FencedError: another process has taken a lease since.
            JournalError: the database cannot be written; what was committed before is still there.
        """
        if not self._pending:
            return

        def transaction() -> None:
            with self._engine.begin() as db:
                self._fence(db)
                if _last_lease(db, self.run) != self.lease:
                    raise FencedError(f"run '{self.run}': another process has taken over; this one stops")
                db.execute(ROWS.insert(), self._pending)

        self._written(transaction)
        self._pending.clear()

    def _written(self, transaction: Callable[[], T]) -> T:
        try:
            return self._disk.commit(transaction)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            why = str(getattr(error, "orig", None) or error)[:200]
            raise JournalError(f"run '{self.run}': its journal cannot be written ({why})") from None

    def rows(self) -> Iterator[Row]:
        """Yield what is on the disk, in order; the chain is checked.

        Raises:
            DataError: a row is missing or was changed; the message names the first one.
        """
        chain = START
        for number, found in enumerate(self._pages(), start=1):
            text = str(found.body)
            expected = chained(chain, number, found.lease, found.at, found.kind, found.key, text)
            if found.number != number or bytes(found.chain) != expected:
                raise DataError(
                    f"run '{self.run}': row {number} of its journal is not the one that was written"
                )
            chain = expected
            yield Row(number, found.lease, found.at, found.kind, found.key, json.loads(text), expected)

    def last(self) -> tuple[str, dict[str, Any]]:
        """Return kind and body of the last row on the disk; "" and {} if there is none."""
        with self._engine.connect() as db:
            query = sa.select(ROWS.c.kind, ROWS.c.body).where(ROWS.c.run == self.run)
            found = db.execute(query.order_by(ROWS.c.number.desc()).limit(1)).first()
        return (found.kind, json.loads(found.body)) if found else ("", {})

    def close(self) -> None:
        """Let go of the database; rows that were not committed are gone."""
        self._engine.dispose()

    def _pages(self) -> Iterator[sa.Row[Any]]:
        with self._engine.connect() as db:
            if not sa.inspect(db).has_table(ROWS.name):
                return
        last = 0
        while True:
            query = (
                sa.select(ROWS)
                .where(ROWS.c.run == self.run, ROWS.c.number > last)
                .order_by(ROWS.c.number)
                .limit(_PAGE)
            )
            with self._engine.connect() as db:
                found = db.execute(query).all()
            yield from found
            if len(found) < _PAGE:
                return
            last = found[-1].number

    def _fence(self, db: sa.Connection) -> None:
        """Have transactions of one run follow each other; SQLite's have begun with a lock already."""
        if self._engine.dialect.name == "postgresql":
            number = int.from_bytes(hashlib.sha256(self.run.encode()).digest()[:4], "big", signed=True)
            db.execute(sa.text("SELECT pg_advisory_xact_lock(:ours, :run)"), {"ours": _LOCK, "run": number})


def chained(before: bytes, number: int, lease: int, at: float, kind: str, key: str, body: str) -> bytes:
    """Return the chain value of a row: SHA-256 over the one before and each field after its length."""
    found = hashlib.sha256(b"consilium/journal/v1\0" + before)
    for field in (str(number), str(lease), repr(float(at)), kind, key, body):
        data = field.encode()
        found.update(len(data).to_bytes(8, "big") + data)
    return found.digest()


def connect(url: str, *, to_write: bool = True) -> sa.Engine:
    """Return a database for journals.

    SQLite: write-ahead log, every commit synced to the disk (``synchronous=FULL``), one connection.

    Raises:
        ConfigError: it is no URL, its driver is not installed, or it holds a password, which would be seen.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise ConfigError("the journal's URL cannot be read; e.g. postgresql+psycopg://host/name") from None
    if parsed.password is not None:
        raise ConfigError("the journal's URL holds a password: put it into ~/.pgpass, mode 0600, instead")
    backend = parsed.get_backend_name()
    if backend not in {"sqlite", "postgresql"}:
        raise ConfigError(f"a journal in {backend} is not supported; there are sqlite and postgresql")
    try:
        if backend == "postgresql":
            return sa.create_engine(parsed, pool_pre_ping=True)
        engine = sa.create_engine(parsed, poolclass=StaticPool, connect_args={"check_same_thread": False})
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the journal's database needs the package {error.name}: pip install 'consilium[postgres]'"
        ) from None
    sa.event.listen(engine, "connect", _prepare_sqlite)
    begin = "BEGIN IMMEDIATE" if to_write else "BEGIN"
    sa.event.listen(engine, "begin", lambda db: db.exec_driver_sql(begin))
    return engine


def only_run(engine: sa.Engine) -> str:
    """Return the run whose journal is in a file of its own; "" if there is none."""
    with engine.connect() as db:
        if not sa.inspect(db).has_table(ROWS.name):
            return ""
        return str(db.execute(sa.select(ROWS.c.run).order_by(ROWS.c.number).limit(1)).scalar() or "")


def sqlite_url(path: Path) -> str:
    """Return the URL of a journal in a file."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def _prepare_sqlite(connection: Any, record: object) -> None:  # noqa: ARG001  an event of SQLAlchemy's
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")


def _last_lease(db: sa.Connection, run: str) -> int:
    found = db.execute(sa.select(sa.func.max(LEASES.c.lease)).where(LEASES.c.run == run)).scalar()
    return int(found or 0)


def _json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"), sort_keys=True, allow_nan=False)
