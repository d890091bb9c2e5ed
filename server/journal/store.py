"""The journal's rows in a database: append-only, each chained to the one before, fenced by a lease.

A row's ``chain`` is the SHA-256 of the one before it and of all that the row says, so a row that was changed,
taken out or put in between is found. Who opens a journal to write it takes the next lease; from then on
nothing that an earlier writer appends is accepted, whether it was thought dead or only stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from protocol.errors import DataError, RunError
from server.journal.disk import Disk, T
from server.journal.tables import KEY, KIND, LEASES, META, ROWS

FORM: Final = 1
START: Final = b"\0" * 32
_PAGE: Final = 64
_PAGE_LENGTH: Final = 16 * 2**20  # a row may hold the small answers of all sites
# A database takes no text of more than 1 GB; no run comes near this.
_MOST: Final = 512 * 2**20
_LOCK: Final = 0x436F6E73  # PostgreSQL's advisory locks are numbers; this one is ours


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
        engine: the database; see ``server.journal.database``.
        run: the run, by its name there.
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
                META.create_all(db)
                self._fence(db)
                lease = _last_lease(db, self.run) + 1
                row = {"run": self.run, "lease": lease, "at": self._clock()}
                db.execute(LEASES.insert().values(**row, who=_json(who or {})))
                return lease

        self.lease = self._written(transaction)
        with self._reading() as db:
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
        with self._reading() as db:
            if not sa.inspect(db).has_table(LEASES.name):
                return []
            query = sa.select(LEASES).where(LEASES.c.run == self.run).order_by(LEASES.c.lease)
            return [{"lease": r.lease, "at": r.at, **json.loads(r.who)} for r in db.execute(query)]

    def append(self, kind: str, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Add a row; it is on the disk after the next ``commit``. Return its body as it will be read."""
        text, at, number = _json(body), self._clock(), self._number + 1
        if len(kind) > KIND or len(key) > KEY or len(text) > _MOST:
            raise JournalError(f"run '{self.run}': what follows is too long for a row of its journal")
        chain = chained(self._chain, number, self.lease, at, kind, key, text)
        row = {"run": self.run, "number": number, "lease": self.lease, "at": at}
        self._pending.append({**row, "kind": kind, "key": key, "body": text, "chain": chain})
        self._number, self._chain = number, chain
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
            raise JournalError(f"run '{self.run}': its journal cannot be written ({why(error)})") from None

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as db:
                yield db
        except sa.exc.SQLAlchemyError as error:
            raise JournalError(f"run '{self.run}': its journal cannot be read ({why(error)})") from None

    def rows(self) -> Iterator[Row]:
        """Yield what is on the disk, in order; the chain is checked.

        A journal whose last rows were cut off is a shorter one: as if the run had been killed earlier.

        Raises:
            DataError: a row is missing or was changed; the message names the first one.
            JournalError: the database cannot be read.
        """
        chain, pages, number = START, self._pages(), 0
        while True:
            number += 1
            try:
                found = next(pages, None)
                row = None if found is None else _checked(found, number, chain)
            except (AttributeError, TypeError, ValueError, RecursionError):
                raise DataError(
                    f"run '{self.run}': row {number} of its journal is not the one that was written"
                ) from None
            if row is None:
                return
            chain = row.chain
            yield row

    def last(self) -> tuple[str, dict[str, Any]]:
        """Return kind and body of the last row on the disk; "" and {} if there is none."""
        with self._reading() as db:
            query = sa.select(ROWS.c.kind, ROWS.c.body).where(ROWS.c.run == self.run)
            found = db.execute(query.order_by(ROWS.c.number.desc()).limit(1)).first()
        return (found.kind, json.loads(found.body)) if found else ("", {})

    def close(self) -> None:
        """Let go of the database; rows that were not committed are gone."""
        self._engine.dispose()

    def _pages(self) -> Iterator[sa.Row[Any]]:
        with self._reading() as db:
            if not sa.inspect(db).has_table(ROWS.name):
                return
        rest: tuple[sa.ColumnElement[bool], ...] = (ROWS.c.run == self.run,)
        while True:
            sizes = sa.select(ROWS.c.number, sa.func.length(ROWS.c.body)).where(*rest)
            with self._reading() as db:
                query = sizes.order_by(ROWS.c.number).limit(_PAGE)
                ahead = [(int(number), int(length)) for number, length in db.execute(query)]
                upto = (ROWS.c.number <= _page_end(ahead),) if ahead else (sa.false(),)
                found = db.execute(sa.select(ROWS).where(*rest, *upto).order_by(ROWS.c.number)).all()
            if not found:
                return
            yield from found
            rest = (ROWS.c.run == self.run, ROWS.c.number > found[-1].number)

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


def _checked(found: sa.Row[Any], number: int, chain: bytes) -> Row:
    """Return a row as it was written; raise ``ValueError`` if it is another one."""
    expected = chained(chain, number, found.lease, found.at, found.kind, found.key, found.body)
    if found.number != number or found.chain != expected:
        raise ValueError
    body = json.loads(found.body)
    if not isinstance(body, dict):
        raise TypeError
    return Row(number, found.lease, found.at, found.kind, found.key, body, expected)


def _page_end(ahead: Sequence[tuple[int, int]]) -> int:
    """Return the number of the last row that is read at once with the first, by their lengths."""
    end, total = ahead[0][0], 0
    for number, length in ahead:
        total += length
        if total > _PAGE_LENGTH:
            break
        end = max(end, number)
    return end


def why(error: Exception) -> str:
    """Return the first line of what a database, or the disk, says went wrong: no line holds a row."""
    said = getattr(error, "orig", None) or getattr(error, "strerror", None) or type(error).__name__
    return (str(said).splitlines() or [""])[0][:200]


def _last_lease(db: sa.Connection, run: str) -> int:
    found = db.execute(sa.select(sa.func.max(LEASES.c.lease)).where(LEASES.c.run == run)).scalar()
    return int(found or 0)


def _json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"), sort_keys=True, allow_nan=False)
