"""What a site remembers across restarts: its results, its memory, and what it was asked for.

A result and the memory that the work left behind are written in one transaction, before the result is given
away. So a site that is asked again gives the same bytes, and never trains twice from the same state. SQLite
with synchronous=FULL; what is long lies in a file of its own, named by its digest, written before its row.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import EquivocationError, RunError
from protocol.files import sync_folder
from protocol.seal import MAX_VALID_S

_IN_ROW = 64 * 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    run TEXT, asked BLOB, kind TEXT, task TEXT, answer TEXT, parts BLOB, at REAL, bytes INTEGER,
    PRIMARY KEY (run, asked));
CREATE TABLE IF NOT EXISTS memory (run TEXT, key TEXT, value BLOB, PRIMARY KEY (run, key));
CREATE TABLE IF NOT EXISTS asks (
    run TEXT, kind TEXT, task TEXT, lease INTEGER, asked BLOB, PRIMARY KEY (run, kind, task, lease));
CREATE TABLE IF NOT EXISTS leases (run TEXT PRIMARY KEY, lease INTEGER, heard REAL);
"""
_MIB = 2**20
# A run that nothing was heard of for this long is over: no message of it is accepted any more.
_OVER_S = MAX_VALID_S + 86_400.0
_NOTED_S = 3600.0  # how exactly that is kept


@dataclass(frozen=True)
class Result:
    """What the site answered: the kind of its seal, and the parts of the message."""

    kind: str
    task: str
    parts: tuple[bytes, ...]


class Ledger:
    """The site's book, in a folder of its own. One thread may write results while another asks.

    Args:
        folder: where it is kept.
        max_results_mib: how much room results may take. The oldest are forgotten first, and then what else
            is known of runs of which no result is left and nothing has been heard for eight days: until
            then a message of such a run could still be accepted.
        clock: gives the Unix time in seconds.
    """

    def __init__(self, folder: Path, max_results_mib: int, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # a connection has one transaction, whichever thread began it
        self._blobs = folder / "blobs"
        self._blobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._max_bytes = max_results_mib * _MIB
        self._db = sqlite3.connect(folder / "site.db", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._sweep()  # what a process that was killed had written ahead of its rows

    def close(self) -> None:
        """Close the book."""
        with self._lock:
            self._db.close()

    def fence(self, run: str, lease: int) -> None:
        """Note the number of the server's process that speaks; a lower one than before has been replaced.

        Raises:
            RunError: it has.
        """
        now = self._clock()
        with self._lock:
            row = self._db.execute("SELECT lease, heard FROM leases WHERE run = ?", (run,)).fetchone()
            known, heard = row or (0, 0.0)
            if lease < known:
                raise RunError(f"run '{run}': a message of process {lease}, and {known} has taken its place")
            if lease > known or abs(now - heard) > _NOTED_S:
                self._db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (run, lease, now))

    def note_ask(self, run: str, kind: str, task: str, lease: int, asked: bytes) -> None:
        """Note what an assignment asked for.

        Raises:
            EquivocationError: the same process of the server asked something else under the same id.
        """
        key = (run, kind, task, lease)
        with self._lock:
            row = self._db.execute(
                "SELECT asked FROM asks WHERE run = ? AND kind = ? AND task = ? AND lease = ?", key
            ).fetchone()
            if row is None:
                self._db.execute("INSERT INTO asks VALUES (?, ?, ?, ?, ?)", (*key, asked))
        if row is not None and row[0] != asked:
            raise EquivocationError(f"the server asks for two things as one {kind[:64]} of {task[:400]!r}")

    def result(self, run: str, asked: bytes) -> Result | None:
        """Return what was answered to a message of this digest; None if nothing was, or it is forgotten."""
        with self._lock:
            row = self._db.execute(
                "SELECT answer, task, parts FROM results WHERE run = ? AND asked = ?", (run, asked)
            ).fetchone()
        if row is None:
            return None
        try:
            return Result(row[0], row[1], tuple(self._read(p) for p in _split(row[2])))
        except OSError:
            return None  # its file is gone or damaged: the work is done again

    def memory(self, run: str) -> dict[str, bytes]:
        """Return the site's memory of a run.

        Raises:
            RunError: a file of it is gone or damaged; a site does not go on as if it had had none.
        """
        with self._lock:
            rows = self._db.execute("SELECT key, value FROM memory WHERE run = ?", (run,)).fetchall()
        try:
            return {key: self._read(value) for key, value in rows}
        except OSError:
            raise RunError(f"run '{run}': a file of this site's memory in {self._blobs} is lost") from None

    def commit(
        self, run: str, kind: str, asked: bytes, result: Result, memory: Mapping[str, bytes | None]
    ) -> None:
        """Keep a result and what the work changed in the memory, both or neither."""
        size = sum(map(len, result.parts))
        self._make_room(run, size)  # first: it removes files that no row names yet
        kept = [self._write(part) for part in result.parts]
        changed = {key: None if value is None else self._write(value) for key, value in memory.items()}
        row = (run, asked, kind, result.task, result.kind, _join(kept), self._clock(), size)
        with self._all_or_nothing() as db:
            db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            for key, value in changed.items():
                self._put_aside(run, key)
                db.execute("DELETE FROM memory WHERE run = ? AND key = ?", (run, key))
                if value is not None:
                    db.execute("INSERT INTO memory VALUES (?, ?, ?)", (run, key, value))
        if self._loose > self._max_bytes // 8:
            self._sweep()

    @contextmanager
    def _all_or_nothing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def _put_aside(self, run: str, key: str) -> None:
        """Count what lies in files of a memory that is replaced: a sweep each time would read all rows."""
        old = self._db.execute("SELECT value FROM memory WHERE run = ? AND key = ?", (run, key)).fetchone()
        if old is not None and old[0][:1] == b"F":
            with suppress(OSError):
                self._loose += (self._blobs / old[0][1:].decode()).stat().st_size

    def _make_room(self, run: str, coming: int) -> None:
        """Forget the oldest results until what is coming fits, then what no row names any more."""
        with self._all_or_nothing() as db:
            (total,) = db.execute("SELECT COALESCE(SUM(bytes), 0) FROM results").fetchone()
            if total + coming <= self._max_bytes:
                return
            oldest = db.execute("SELECT run, asked, bytes FROM results ORDER BY at").fetchall()
            for its_run, asked, size in oldest:
                db.execute("DELETE FROM results WHERE run = ? AND asked = ?", (its_run, asked))
                total -= size
                if total + coming <= self._max_bytes * 3 // 4:
                    break
            heard_of = "SELECT run FROM results UNION SELECT run FROM leases WHERE heard > ?"
            for table in ("memory", "asks", "leases"):
                over = f"DELETE FROM {table} WHERE run <> ? AND run NOT IN ({heard_of})"  # noqa: S608
                db.execute(over, (run, self._clock() - _OVER_S))
        self._sweep()

    def _sweep(self) -> None:
        """Remove the files that no row names."""
        with self._lock:
            rows = self._db.execute("SELECT parts FROM results WHERE bytes > ?", (_IN_ROW,))
            used = {part[1:] for (parts,) in rows for part in _split(parts) if part[:1] == b"F"}
            used |= {v[1:] for (v,) in self._db.execute("SELECT value FROM memory") if v[:1] == b"F"}
        for path in self._blobs.iterdir():
            if path.name.encode() not in used:
                path.unlink(missing_ok=True)
        self._loose = 0

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
        if kept[:1] == b"R":
            return kept[1:]
        path = self._blobs / kept[1:].decode()
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != path.name:
            path.unlink(missing_ok=True)  # so that the same bytes can be written again
            raise OSError(f"{path.name}: holds something else")
        return data


def _join(parts: Iterable[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _split(joined: bytes) -> Sequence[bytes]:
    found, at = [], 0
    while at < len(joined):
        end = at + 8 + int.from_bytes(joined[at : at + 8], "big")
        found.append(joined[at + 8 : end])
        at = end
    return found
