"""The record of a run: what its code asks of the world is answered from the journal first, then live.

A resumed run is the same program run again. Whatever it cannot know by itself (an answer that came, the time
it came at, who was there) or should not do twice (merging, distilling) it first looks for in the record; as
long as the journal has rows they are handed out, in order, and nothing is sent. The first time that there is
none the run goes live, and what had been sent and not answered is sent again. So there is no other state to
save, and none to forget: a decision that came out otherwise would be found at its row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import Arrays
from protocol.codec import decode, encode
from protocol.records import MAX_ARRAY_BYTES
from server.journal.content import Content
from server.journal.disk import Disk
from server.journal.store import Journal, JournalError, Row

Json = dict[str, Any]
Kept = dict[str, Any]
ENDED = "ended"
_BITS = ("release", "python", "torch", "numpy", "machine", "instructions", "device", "threads")
_AS_IT_BEGAN = "resume it with the release and the files that it began with, on the same kind of machine"


class DivergedError(JournalError):
    """The run, run again, came to something else than its journal says."""

    code = "diverged"


class Record:
    """What a run has been through, and what it goes through now.

    Args:
        content: holds arrays and what else is long.
        journal: None for what needs no record: a rehearsal, a plan.
        rows: what the journal holds already.
        disk: the seam.
    """

    def __init__(
        self,
        content: Content | None = None,
        journal: Journal | None = None,
        rows: Iterable[Row] = (),
        disk: Disk | None = None,
    ) -> None:
        self._disk = disk or Disk()
        self._content, self._journal, self._rows = content, journal, iter(rows)
        self._next: Row | None = next(self._rows, None)
        self._lock: IO[str] | None = None
        self._on_live: list[Callable[[], None]] = []
        self.is_live = self._next is None
        self.replayed_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def content(self) -> Content:
        """Where arrays and what else is long lie."""
        if self._content is None:
            raise ValueError("this record keeps nothing")
        return self._content

    @property
    def keeps(self) -> bool:
        """Whether what is noted can be read again."""
        return self._journal is not None

    @property
    def lease(self) -> int:
        """The number of this process among those that have worked on the run."""
        return self._journal.lease if self._journal is not None else 1

    @property
    def next_kind(self) -> str:
        """The kind of the row that is handed out next; "" if there is none."""
        return self._next.kind if self._next is not None else ""

    def make_folder(self, path: Path) -> None:
        """Make a folder, and those around it that are not there, to last; raises as ``write``."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        try:
            self._disk.make_folder(path)
            self._disk.sync_folder(path.parent)
        except OSError as error:
            raise JournalError(f"{path}: cannot be made ({error.strerror}); make room") from None

    def write(self, path: Path, data: bytes) -> None:
        """Write what else a run leaves: after a crash there is the old file or the new one.

        Raises:
            JournalError: it cannot be written.
        """
        try:
            self._disk.put(path, data)
        except OSError as error:
            raise JournalError(f"{path}: cannot be written ({error.strerror}); make room") from None

    def outcome(self) -> Json | None:
        """Return what the run ended with; None if it has not ended."""
        kind, body = self._journal.last() if self._journal is not None else ("", {})
        return body if kind == ENDED else None

    def end(self, body: Mapping[str, Any]) -> None:
        """Note that the run has ended, once all that it leaves has been written; keep nothing else."""
        self.same(ENDED, "", body)
        self.commit()
        if self._content is not None:
            self._content.clear()

    def leases(self) -> list[Json]:
        """Who has worked on the run; see ``Journal.leases``."""
        return self._journal.leases() if self._journal is not None else []

    def changes(self) -> list[str]:
        """Return a note where the processes of a run differ in what its bits depend on."""
        what = self._differs()
        note = f"resumed with another {what}: the bits of a run without a crash are not promised"
        return [note] if what else []

    def diverged(self, what: str, difference: str = "") -> DivergedError:
        """Return the error that says what is not as in the journal, what to do, and what may be the cause."""
        differs = self._differs()
        more = "; ".join(filter(None, [difference, differs and f"now with another {differs}"]))
        return DivergedError(f"{what}; {_AS_IT_BEGAN}" + (f" ({more})" if more else ""))

    def _differs(self) -> str:
        """Return what the processes of a run differ in, of what its bits depend on."""
        who = self.leases()
        return ", ".join(key for key in _BITS if len({str(one.get(key)) for one in who}) > 1)

    def when_live(self, do: Callable[[], None]) -> None:
        """Have something done when the journal's rows are used up; at once if they are."""
        if self.is_live:
            do()
        else:
            self._on_live.append(do)

    def replayed(self, kind: str, key: str = "") -> Json | None:
        """Return what the journal says next; None if the run is live, and has to find out itself.

        Raises:
            DivergedError: the journal says something of another kind, or about something else.
        """
        if self._next is None:
            self.go_live()
            return None
        row = self._next
        if (row.kind, row.key) != (kind, key):
            raise self.diverged(
                f"row {row.number} of the journal is '{row.kind}' of {row.key or 'the run'}, and now the run "
                f"comes to '{kind}' of {key or 'the run'}"
            )
        self._next = next(self._rows, None)
        self.replayed_rows += 1
        return row.body

    def go_live(self) -> None:
        """Begin to ask the world; done once, when there is nothing left to hand out."""
        if not self.is_live:
            self.is_live = True
            if self._content is not None:
                self._content.check()
                self._content.sweep_all()  # what the process before had written ahead of its rows
            for do in self._on_live:
                do()
            self._on_live.clear()

    def note(self, kind: str, key: str, body: Mapping[str, Any]) -> Json:
        """Add what the run has found out; durable with the next ``commit``."""
        if self._journal is None:
            return dict(body)
        return self._journal.append(kind, key, body)

    def same(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        """Note what follows from what was noted before; of a journal, check that it follows still.

        Raises:
            DivergedError: it does not.
        """
        said = self.replayed(kind, key)
        if said is None:
            self.note(kind, key, body)
        elif said != plain(body):
            what = f"'{kind}' of {key or 'the run'} is not what the journal says"
            raise self.diverged(what, _difference(said, body))

    def commit(self) -> None:
        """Have all that was noted on the disk; then remove what has no use any more."""
        if self._journal is not None and self._journal.unwritten:
            self._journal.commit()
            self.content.sweep()

    def put_arrays(self, arrays: Arrays) -> Kept:
        """Keep arrays; return where they are, and their names in order: sums over them depend on it."""
        return {"at": self.content.put(encode(arrays)), "names": list(arrays)}

    def arrays(self, kept: Kept, *, replayed: bool = False) -> dict[str, NDArray[Any]]:
        """Return arrays that were kept; ``replayed`` ones count as kept anew."""
        if replayed:
            self.content.use(kept["at"])
        found = decode(self.content.read(kept["at"]), MAX_ARRAY_BYTES)
        return {name: np.array(found[name]) for name in kept["names"]}  # to be changed, as those first made

    def hold(self, lock: IO[str]) -> None:
        """Keep a lock until the record is closed."""
        self._lock = lock

    def close(self) -> None:
        """Let go of the journal; what was not committed is gone."""
        if self._journal is not None:
            self._journal.close()
        if self._lock is not None:
            self._lock.close()


def plain(body: Mapping[str, Any]) -> Json:
    """Return what a row holds of it, as that is read."""
    found: Json = json.loads(json.dumps(body, sort_keys=True, allow_nan=False))
    return found


def _difference(said: Json, body: Mapping[str, Any]) -> str:
    now = plain(body)
    key = next((k for k in sorted({*said, *now}) if said.get(k) != now.get(k)), "")
    return f"{key}: the journal has {said.get(key)!r:.200}, now it is {now.get(key)!r:.200}"
