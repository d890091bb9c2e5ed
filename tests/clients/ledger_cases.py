"""A ledger in a folder, and a connection that fails when it is told to. Not a test."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients.ledger import Ledger, Result

LONG = 100_000  # bytes that lie in a file of their own
DAY_S = 86_400.0
KIND = "train.weights"
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


def commit(
    book: Ledger,
    run: str,
    name: bytes,
    given: Result,
    memory: Mapping[str, bytes | None],
    parent: bytes | None = None,
    *,
    kind: str = KIND,
    lease: int = 99,
) -> None:
    """Keep a result from a version, or from the one that the memory has."""
    if parent is None:
        row = book._db.execute("SELECT head FROM heads WHERE run = ?", (run,)).fetchone()
        parent = row[0] if row else b""
    book.commit(run, kind, name, given, memory, parent=parent, lease=lease)


def blobs(folder: Path) -> set[str]:
    """The names of the files of what is long."""
    return {path.name for path in (folder / "blobs").iterdir()}


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
