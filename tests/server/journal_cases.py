"""A journal in each database that it may be in, and ways to tamper with it. Not a test."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from server.journal.database import at_url, in_file
from server.journal.disk import Disk
from server.journal.store import START, Journal, chained
from server.journal.tables import FILE_NAME, ROWS


@dataclass
class Database:
    """Where one test keeps its journal; every engine of it is a connection of its own, as a process has."""

    folder: Path
    url: str | None = None
    run: str = field(default_factory=lambda: f"run-{secrets.token_hex(4)}")
    engines: list[sa.Engine] = field(default_factory=list)

    def engine(self) -> sa.Engine:
        """Connect once more."""
        made = at_url(self.url) if self.url else in_file(self.folder / FILE_NAME)
        self.engines.append(made)
        return made

    def journal(self, disk: Disk | None = None, clock: Callable[[], float] = lambda: 1.5) -> Journal:
        """Return the journal as another process has it, without a lease."""
        return Journal(self.engine(), self.run, disk or Disk(), clock)

    def written(self, *bodies: Mapping[str, Any]) -> Journal:
        """Return a journal with these rows, each committed by itself."""
        journal = self.journal()
        journal.take_lease()
        for number, body in enumerate(bodies, start=1):
            journal.append("kind", f"key-{number}", body)
            journal.commit()
        return journal

    def execute(self, statement: sa.Executable) -> None:
        """Do something to the rows that no journal does."""
        with self.engine().begin() as db:
            db.execute(statement)

    def close(self) -> None:
        """Let go of all connections."""
        for engine in self.engines:
            engine.dispose()


def rechain(engine: sa.Engine, run: str) -> None:
    """Number the rows anew and give each the chain value that it would have: what a forger does."""
    with engine.begin() as db:
        rows = db.execute(sa.select(ROWS).where(ROWS.c.run == run).order_by(ROWS.c.number)).all()
        db.execute(ROWS.delete().where(ROWS.c.run == run))
        chain = START
        for number, row in enumerate(rows, start=1):
            chain = chained(chain, number, row.lease, row.at, row.kind, row.key, row.body)
            db.execute(ROWS.insert().values(**{**row._asdict(), "number": number, "chain": chain}))


def forge(folder: Path, number: int, to: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Replace the body of a row of the journal in a folder, with a chain that agrees."""
    engine = in_file(folder / FILE_NAME)
    try:
        with engine.begin() as db:
            run, body = db.execute(sa.select(ROWS.c.run, ROWS.c.body).where(ROWS.c.number == number)).one()
            text = json.dumps(to(json.loads(body)))
            db.execute(ROWS.update().where(ROWS.c.number == number).values(body=text))
        rechain(engine, run)
    finally:
        engine.dispose()
