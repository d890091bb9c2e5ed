"""What a site remembers across restarts: its results, its memory, and what it was asked for.

A result and the memory that the work left behind are written in one transaction, before the result is given
away. So a site that is asked again gives the same bytes, and never trains twice from the same state. SQLite
with synchronous=FULL; what is long lies in a file of its own, named by its digest, written before its row.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import EquivocationError, RunError
from protocol.files import sync_folder

_IN_ROW = 64 * 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    run TEXT, asked BLOB, kind TEXT, task TEXT, answer TEXT, parts BLOB, at REAL, bytes INTEGER,
    PRIMARY KEY (run, asked));
CREATE TABLE IF NOT EXISTS memory (run TEXT, key TEXT, value BLOB, PRIMARY KEY (run, key));
CREATE TABLE IF NOT EXISTS asks (
    run TEXT, kind TEXT, task TEXT, lease INTEGER, asked BLOB, PRIMARY KEY (run, kind, task, lease));
CREATE TABLE IF NOT EXISTS leases (run TEXT PRIMARY KEY, lease INTEGER);
"""
_MIB = 2**20


@dataclass(frozen=True)
class Result:
    """What the site answered: the kind of its seal, and the parts of the message."""

    kind: str
    task: str
    parts: tuple[bytes, ...]


class Ledger:
    """The site's book, in a folder of its own.

    Args:
        folder: where it is kept.
        max_results_mib: how much room results may take; the oldest are forgotten first, and then the memory
            of runs of which no result is left.
    """

    def __init__(self, folder: Path, max_results_mib: int) -> None:
        self._blobs = folder / "blobs"
        self._blobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._max_bytes = max_results_mib * _MIB
        self._db = sqlite3.connect(folder / "site.db", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the book."""
        self._db.close()

    def fence(self, run: str, lease: int) -> None:
        """Note the number of the server's process that speaks; a lower one than before has been replaced.

        Raises:
            RunError: it has.
        """
        row = self._db.execute("SELECT lease FROM leases WHERE run = ?", (run,)).fetchone()
        known = row[0] if row else 0
        if lease < known:
            raise RunError(f"run '{run}': a message of process {lease}, and {known} has taken its place")
        if lease > known:
            self._db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?)", (run, lease))

    def note_ask(self, run: str, kind: str, task: str, lease: int, asked: bytes) -> None:
        """Note what an assignment asked for.

        Raises:
            EquivocationError: the same process of the server asked something else under the same id.
        """
        key = (run, kind, task, lease)
        row = self._db.execute(
            "SELECT asked FROM asks WHERE run = ? AND kind = ? AND task = ? AND lease = ?", key
        ).fetchone()
        if row is None:
            self._db.execute("INSERT INTO asks VALUES (?, ?, ?, ?, ?)", (*key, asked))
        elif row[0] != asked:
            raise EquivocationError(f"the server asks for two things as one {kind[:64]} of {task[:400]!r}")

    def result(self, run: str, asked: bytes) -> Result | None:
        """Return what was answered to a message of this digest; None if nothing was, or it is forgotten."""
        row = self._db.execute(
            "SELECT answer, task, parts FROM results WHERE run = ? AND asked = ?", (run, asked)
        ).fetchone()
        if row is None:
            return None
        try:
            return Result(row[0], row[1], tuple(self._read(p) for p in _split(row[2])))
        except OSError:
            return None  # its file is gone: the work is done again

    def memory(self, run: str) -> dict[str, bytes]:
        """Return the site's memory of a run."""
        rows = self._db.execute("SELECT key, value FROM memory WHERE run = ?", (run,)).fetchall()
        return {key: self._read(value) for key, value in rows}

    def commit(
        self, run: str, kind: str, asked: bytes, result: Result, memory: Mapping[str, bytes | None]
    ) -> None:
        """Keep a result and what the work changed in the memory, both or neither."""
        kept = [self._write(part) for part in result.parts]
        changed = {key: None if value is None else self._write(value) for key, value in memory.items()}
        self._make_room(sum(map(len, result.parts)))
        self._db.execute("BEGIN IMMEDIATE")
        try:
            row = (
                run,
                asked,
                kind,
                result.task,
                result.kind,
                _join(kept),
                time.time(),
                sum(map(len, result.parts)),
            )
            self._db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            for key, value in changed.items():
                self._db.execute("DELETE FROM memory WHERE run = ? AND key = ?", (run, key))
                if value is not None:
                    self._db.execute("INSERT INTO memory VALUES (?, ?, ?)", (run, key, value))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def _make_room(self, coming: int) -> None:
        """Forget the oldest results until what is coming fits, then what no row names any more."""
        (total,) = self._db.execute("SELECT COALESCE(SUM(bytes), 0) FROM results").fetchone()
        if total + coming <= self._max_bytes:
            return
        rows = self._db.execute("SELECT run, asked, bytes FROM results ORDER BY at").fetchall()
        for run, asked, size in rows:
            self._db.execute("DELETE FROM results WHERE run = ? AND asked = ?", (run, asked))
            total -= size
            if total + coming <= self._max_bytes * 3 // 4:
                break
        for table in ("memory", "asks", "leases"):
            self._db.execute(f"DELETE FROM {table} WHERE run NOT IN (SELECT run FROM results)")  # noqa: S608
        self._sweep()

    def _sweep(self) -> None:
        used = {
            p[1:]
            for (row,) in self._db.execute("SELECT parts FROM results")
            for p in _split(row)
            if p[:1] == b"F"
        }
        used |= {v[1:] for (v,) in self._db.execute("SELECT value FROM memory") if v[:1] == b"F"}
        for path in self._blobs.iterdir():
            if path.name.encode() not in used:
                path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> bytes:
        """Return what stands in a row for some bytes: themselves, or the name of their file."""
        if len(data) <= _IN_ROW:
            return b"R" + data
        name = hashlib.sha256(data).hexdigest()
        path = self._blobs / name
        if not path.exists():
            aside = self._blobs / f".{name}.{os.getpid()}"
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            sync_folder(self._blobs)
        return b"F" + name.encode()

    def _read(self, kept: bytes) -> bytes:
        return kept[1:] if kept[:1] == b"R" else (self._blobs / kept[1:].decode()).read_bytes()


def _join(parts: Iterable[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _split(joined: bytes) -> Sequence[bytes]:
    found, at = [], 0
    while at < len(joined):
        end = at + 8 + int.from_bytes(joined[at : at + 8], "big")
        found.append(joined[at + 8 : end])
        at = end
    return found
