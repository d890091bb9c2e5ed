"""What a site remembers across restarts: its results, its memory, and what it was asked for.

A result, the memory that the work left behind and the name of that version are written in one transaction,
before the result is given away. So a site that is asked again gives the same bytes, and never trains twice
from the same state. A question names the version that its work starts from; what a site did since and the
server never took is undone first. A process of the server that takes another's place goes on with the run,
and so does the memory. SQLite with synchronous=FULL; what is long lies in a file of its own, named by its
digest, written before its row.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clients import ledger_room, versions
from clients.blobs import IN_ROW, Blobs
from clients.ledger_form import join, join_keys, opened, split
from protocol.errors import EquivocationError, RunError, StateError
from protocol.work import moves

_MIB = 2**20
_NOTED_S = 3600.0  # how exactly it is known when a run was heard of last


@dataclass(frozen=True)
class Result:
    """What the site answered: the kind of its seal, and the parts of the message."""

    kind: str
    task: str
    parts: tuple[bytes, ...]


@dataclass(frozen=True)
class Known:
    """A result that answers a question, and the version of the site's memory after it."""

    result: Result
    version: bytes


class Ledger:
    """The site's book, in a folder of its own. One thread may write results while another asks.

    Args:
        folder: where it is kept.
        max_results_mib: how much room results may take, with what they changed and what was there before;
            ``clients.ledger_room`` says what is forgotten first. Whatever there is room for, no more than
            the memory of the last run stays of runs of which nothing has been heard for eight days: until
            then a message of such a run could still be accepted.
        clock: gives the Unix time in seconds.
    """

    def __init__(self, folder: Path, max_results_mib: int, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # a connection has one transaction, whichever thread began it
        self._blobs = Blobs(folder / "blobs")
        self._max_bytes = max_results_mib * _MIB
        self._db = opened(folder / "site.db")
        self.tend()
        self._sweep()  # what a process that was killed had written ahead of its rows

    def close(self) -> None:
        """Close the book."""
        with self._lock:
            self._db.close()

    def tend(self) -> None:
        """Forget what is of runs that are over."""
        with self._lock:
            with self._all_or_nothing() as db:
                gone = ledger_room.forget_over(db, self._clock())
            if gone:
                self._sweep()

    def fence(self, run: str, lease: int) -> None:
        """Note the number of the server's process that speaks; a lower one than before has been replaced.

        Raises:
            RunError: it has been replaced.
        """
        now = self._clock()
        with self._all_or_nothing() as db:
            row = db.execute("SELECT lease, heard FROM leases WHERE run = ?", (run,)).fetchone()
            known, heard = row or (0, 0.0)
            _check_lease(run, lease, known)
            if lease > known or abs(now - heard) > _NOTED_S:
                db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (run, lease, now))

    def note_ask(self, run: str, kind: str, task: str, asked: bytes) -> None:
        """Note what an assignment asked for.

        Raises:
            EquivocationError: the server, by whichever process, asked something else under the same id.
        """
        key = (run, kind, task)
        with self._lock:
            row = self._db.execute(
                "SELECT asked FROM asks WHERE run = ? AND kind = ? AND task = ?", key
            ).fetchone()
            if row is None:
                self._db.execute("INSERT INTO asks VALUES (?, ?, ?, ?)", (*key, asked))
        if row is not None and row[0] != asked:
            raise EquivocationError(f"the server asks for two things as one {kind[:64]} of {task[:400]!r}")

    def result(self, run: str, asked: bytes) -> Result | None:
        """Return what was answered to a work of this name; None if nothing was, or it is forgotten."""
        with self._lock:
            row = self._db.execute(
                "SELECT answer, task, parts FROM results WHERE run = ? AND asked = ?", (run, asked)
            ).fetchone()
        if row is None:
            return None
        try:
            return Result(row[0], row[1], tuple(self._blobs.read(p) for p in split(row[2])))
        except OSError:
            return None  # its file is gone or damaged: the work is done again

    def recall(self, run: str, kind: str, asked: bytes, previous: bytes = versions.EMPTY) -> Known | None:
        """Return the answer to a question that starts from version ``previous``; None if it is still to do.

        An answer counts if the work started from that version, or has gone into it since. In the first case
        the memory is then of the version that the work left behind, as if it had been done again.

        Raises:
            StateError: the site does not have that version, or has given an answer that it no longer has.
        """
        with self._lock:
            found = self.result(run, asked)
            parent = versions.parent(self._db, run, asked)
            if not moves(kind):
                if found and parent is not None and versions.is_behind(self._db, run, parent, previous):
                    return Known(found, previous)
            elif versions.is_behind(self._db, run, asked, previous):
                if found is None:
                    raise StateError(f"run '{run}': what was answered to this {kind} is no longer kept here")
                return Known(found, previous)
            elif found is not None and parent == previous and self._has_changes(run, asked):
                with self._all_or_nothing() as db:
                    versions.turn(db, run, asked)
                return Known(found, asked)
            versions.way(self._db, run, previous)
            return None

    def turn(self, run: str, version: bytes) -> None:
        """Have the memory be of a version.

        Raises:
            StateError: the site does not have that version.
        """
        with self._lock:
            if versions.head(self._db, run) != version:
                with self._all_or_nothing() as db:
                    versions.turn(db, run, version)

    def memory(self, run: str, version: bytes | None = None) -> dict[str, bytes]:
        """Return the site's memory of a run, turned to ``version`` first if one is given.

        Raises:
            RunError: a file of it is gone or damaged; a site does not go on as if it had had none.
            StateError: the site does not have that version.
        """
        with self._lock:
            if version is not None:
                self.turn(run, version)
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
        *,
        parent: bytes = versions.EMPTY,
        lease: int = 1,
    ) -> None:
        """Keep a result and what the work changed in the memory, both or neither.

        Args:
            run: the run.
            kind: of the question; of one that moves no memory (``protocol.work.moves``) no change is kept.
            asked: the name of the work.
            result: what is answered.
            memory: what the work changed: keys and their values now, None for one that is gone.
            parent: the version that the work started from.
            lease: the number of the server's process that it was done for.

        Raises:
            RunError: that process has been replaced.
            StateError: the memory is of another version by now.
        """
        changes = memory if moves(kind) else {}
        with self._lock:  # all the time: nobody else sweeps what no row names yet
            undo = versions.stored(self._db, run, changes)
            size = sum(map(len, result.parts)) + sum(len(value or b"") for value in changes.values())
            size += sum(self._blobs.size(value) for value in undo.values() if value is not None)
            self._make_room(run, size)  # first: it removes files that no row names yet
            self._loose += size  # until it stands in a row
            kept = join(self._blobs.keep(part) for part in result.parts)
            changed = {k: None if value is None else self._blobs.keep(value) for k, value in changes.items()}
            with self._all_or_nothing() as db:
                self._check(run, asked, parent, lease)
                gone = versions.forget_line(db, run, asked)
                row = (run, asked, parent, kind, result.task, result.kind, size)
                long = (join_keys(changed), join_keys(undo), kept)
                db.execute("INSERT INTO results VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, *long))
                if moves(kind):
                    versions.change(db, run, changed)
                    versions.set_head(db, run, asked)
                db.execute("INSERT OR IGNORE INTO leases VALUES (?, ?, ?)", (run, lease, self._clock()))
            self._loose += gone - size
            if self._loose > self._max_bytes // 8:
                self._sweep()

    def _check(self, run: str, asked: bytes, parent: bytes, lease: int) -> None:
        known = self._db.execute("SELECT lease FROM leases WHERE run = ?", (run,)).fetchone() or (0,)
        _check_lease(run, lease, known[0])
        if (now := versions.head(self._db, run)) != parent:
            raise StateError(
                f"run '{run}': work from version {versions.shown(parent)} of this site's memory ended when "
                f"that was of version {versions.shown(now)}"
            )
        if versions.is_behind(self._db, run, asked, parent):
            raise StateError(f"run '{run}': work on what this site has answered before")

    def _has_changes(self, run: str, asked: bytes) -> bool:
        """Return whether what a work changed is all there; if not, the work is done again."""
        try:
            for value in versions.changes_of(self._db, run, asked).values():
                self._blobs.read(value or b"R")
        except OSError:
            return False
        return True

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

    def _make_room(self, run: str, coming: int) -> None:
        """Forget results until what is coming fits, then the files that no row names any more."""
        with self._all_or_nothing() as db:
            gone = ledger_room.make_room(db, run, coming, self._max_bytes)
        if gone:
            self._sweep()

    def _sweep(self) -> None:
        """Remove the files that no row names."""
        with self._lock:
            rows = self._db.execute("SELECT changes, undo, parts FROM results WHERE bytes > ?", (IN_ROW,))
            used = {part[1:] for row in rows for joined in row for part in split(joined) if part[:1] == b"F"}
            used |= {v[1:] for (v,) in self._db.execute("SELECT value FROM memory") if v[:1] == b"F"}
        self._blobs.sweep(used)
        self._loose = 0


def _check_lease(run: str, lease: int, known: int) -> None:
    if lease < known:
        raise RunError(f"run '{run}': a message of process {lease}, and {known} has taken its place")
