"""What a site remembers across restarts: its results, its memory, and what it was asked for.

A result and the memory that the work left behind are written in one transaction, before the result is given
away. So a site that is asked again gives the same bytes, and never trains twice from the same state. When a
process of the server takes another's place, it begins its run anew: so does the memory, and each result that
it asks for again changes it again as the work had done. SQLite with synchronous=FULL; what is long lies in a
file of its own, named by its digest, written before its row.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clients.blobs import IN_ROW, Blobs
from protocol.errors import EquivocationError, RunError
from protocol.seal import MAX_VALID_S

_FORM = 2
# What is long stands last: SQLite does not read it for what stands before it.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    run TEXT, asked BLOB, kind TEXT, task TEXT, answer TEXT, at REAL, bytes INTEGER, lease INTEGER,
    changes BLOB, parts BLOB, PRIMARY KEY (run, asked));
CREATE INDEX IF NOT EXISTS results_bytes ON results (bytes);
CREATE TABLE IF NOT EXISTS memory (run TEXT, key TEXT, value BLOB, PRIMARY KEY (run, key));
CREATE TABLE IF NOT EXISTS asks (
    run TEXT, kind TEXT, task TEXT, lease INTEGER, asked BLOB, PRIMARY KEY (run, kind, task, lease));
CREATE TABLE IF NOT EXISTS leases (run TEXT PRIMARY KEY, lease INTEGER, heard REAL);
"""
_ORDER = """
SELECT run, asked, bytes FROM results
JOIN (SELECT run, MAX(at) AS latest FROM results GROUP BY run) USING (run)
ORDER BY run = ?, latest, run, at"""
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
        max_results_mib: how much room results may take. Those of other runs than the one at hand are
            forgotten first, run by run, then its oldest, and then what else is known of runs of which no
            result is left and nothing has been heard for eight days: until then a message of such a run
            could still be accepted.
        clock: gives the Unix time in seconds.
    """

    def __init__(self, folder: Path, max_results_mib: int, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # a connection has one transaction, whichever thread began it
        self._blobs = Blobs(folder / "blobs")
        self._max_bytes = max_results_mib * _MIB
        self._db = sqlite3.connect(folder / "site.db", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        if self._db.execute("PRAGMA user_version").fetchone() != (_FORM,):
            self._db.execute("DROP TABLE IF EXISTS results")  # the server of this release asks anew
        self._db.executescript(f"{_SCHEMA}PRAGMA user_version = {_FORM};")
        self._sweep()  # what a process that was killed had written ahead of its rows

    def close(self) -> None:
        """Close the book."""
        with self._lock:
            self._db.close()

    def fence(self, run: str, lease: int) -> bool:
        """Note the number of the server's process that speaks; a lower one than before has been replaced.

        Returns:
            Whether it is a new one: the site's memory of the run is empty then.

        Raises:
            RunError: it has been replaced.
        """
        now = self._clock()
        with self._all_or_nothing() as db:
            row = db.execute("SELECT lease, heard FROM leases WHERE run = ?", (run,)).fetchone()
            known, heard = row or (0, 0.0)
            _check_lease(run, lease, known)
            if lease > known:
                db.execute("DELETE FROM memory WHERE run = ?", (run,))
            if lease > known or abs(now - heard) > _NOTED_S:
                db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (run, lease, now))
        return bool(lease > known)

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
            return Result(row[0], row[1], tuple(self._blobs.read(p) for p in _split(row[2])))
        except OSError:
            return None  # its file is gone or damaged: the work is done again

    def recall(self, run: str, asked: bytes, lease: int) -> tuple[Result | None, bool]:
        """Return the result for a process of the server, and whether the site's memory changed by that.

        What the work changed is changed again, once for each process: the memory is then as if the site
        had done the work again.
        """
        with self._lock:
            found = self.result(run, asked)
            row = self._db.execute(
                "SELECT changes FROM results WHERE run = ? AND asked = ? AND lease < ?", (run, asked, lease)
            ).fetchone()
            if found is None or row is None:
                return found, False
            changes = _changes(row[0])
            try:
                for value in changes.values():
                    self._blobs.read(value or b"R")
            except OSError:
                return None, False  # a file is gone or damaged: the work is done again
            with self._all_or_nothing() as db:
                self._change(run, changes)
                db.execute("UPDATE results SET lease = ? WHERE run = ? AND asked = ?", (lease, run, asked))
            return found, bool(changes)

    def memory(self, run: str) -> dict[str, bytes]:
        """Return the site's memory of a run.

        Raises:
            RunError: a file of it is gone or damaged; a site does not go on as if it had had none.
        """
        with self._lock:
            rows = self._db.execute("SELECT key, value FROM memory WHERE run = ?", (run,)).fetchall()
        try:
            return {key: self._blobs.read(value) for key, value in rows}
        except OSError:
            raise RunError(
                f"run '{run}': a file of this site's memory in {self._blobs.folder} is lost"
            ) from None

    def commit(
        self,
        run: str,
        kind: str,
        asked: bytes,
        result: Result,
        memory: Mapping[str, bytes | None],
        lease: int = 1,
    ) -> None:
        """Keep a result and what the work changed in the memory, both or neither.

        Raises:
            RunError: the process of the server that asked for it has been replaced.
        """
        size = sum(map(len, result.parts)) + sum(len(value or b"") for value in memory.values())
        self._make_room(run, size)  # first: it removes files that no row names yet
        kept = _join(self._blobs.keep(part) for part in result.parts)
        changed = {key: None if value is None else self._blobs.keep(value) for key, value in memory.items()}
        pairs = _join(part for key, value in changed.items() for part in (key.encode(), value or b""))
        row = (run, asked, kind, result.task, result.kind, self._clock(), size, lease, pairs, kept)
        with self._all_or_nothing() as db:
            known = db.execute("SELECT lease FROM leases WHERE run = ?", (run,)).fetchone() or (0,)
            _check_lease(run, lease, known[0])
            db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._change(run, changed)
        if self._loose > self._max_bytes // 8:
            self._sweep()

    def _change(self, run: str, changes: Mapping[str, bytes | None]) -> None:
        for key, value in changes.items():
            self._put_aside(run, key)
            self._db.execute("DELETE FROM memory WHERE run = ? AND key = ?", (run, key))
            if value is not None:
                self._db.execute("INSERT INTO memory VALUES (?, ?, ?)", (run, key, value))

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
        if old is not None:
            self._loose += self._blobs.size(old[0])

    def _make_room(self, run: str, coming: int) -> None:
        """Forget results until what is coming fits, then what no row names any more.

        Whole other runs go first: one that goes on may begin anew, and would ask for its oldest first.
        """
        with self._all_or_nothing() as db:
            (total,) = db.execute("SELECT COALESCE(SUM(bytes), 0) FROM results").fetchone()
            if total + coming <= self._max_bytes:
                return
            last = None
            for its_run, asked, size in db.execute(_ORDER, (run,)).fetchall():
                if total + coming <= self._max_bytes * 3 // 4 and (its_run == run or its_run != last):
                    break
                db.execute("DELETE FROM results WHERE run = ? AND asked = ?", (its_run, asked))
                total, last = total - size, its_run
            heard_of = "SELECT run FROM results UNION SELECT run FROM leases WHERE heard > ?"
            for table in ("memory", "asks", "leases"):
                over = f"DELETE FROM {table} WHERE run <> ? AND run NOT IN ({heard_of})"  # noqa: S608
                db.execute(over, (run, self._clock() - _OVER_S))
        self._sweep()

    def _sweep(self) -> None:
        """Remove the files that no row names."""
        with self._lock:
            rows = self._db.execute("SELECT changes, parts FROM results WHERE bytes > ?", (IN_ROW,))
            used = {part[1:] for row in rows for joined in row for part in _split(joined) if part[:1] == b"F"}
            used |= {v[1:] for (v,) in self._db.execute("SELECT value FROM memory") if v[:1] == b"F"}
        self._blobs.sweep(used)
        self._loose = 0


def _check_lease(run: str, lease: int, known: int) -> None:
    if lease < known:
        raise RunError(f"run '{run}': a message of process {lease}, and {known} has taken its place")


def _changes(joined: bytes) -> dict[str, bytes | None]:
    """Return what a work changed: keys, and what stands in a row for their values; None for one that went."""
    found = _split(joined)
    return {key.decode(): value or None for key, value in zip(found[::2], found[1::2], strict=True)}


def _join(parts: Iterable[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _split(joined: bytes) -> Sequence[bytes]:
    found, at = [], 0
    while at < len(joined):
        end = at + 8 + int.from_bytes(joined[at : at + 8], "big")
        found.append(joined[at + 8 : end])
        at = end
    return found
