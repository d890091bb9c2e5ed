"""The record of a run: what its code asks of the world is answered from the journal first, then live.

A resumed run is the same program run again. Whatever it cannot know by itself (an answer that came, the time
it came at, who was there) or should not do twice (merging, distilling) it first looks for in the record; as
long as the journal has rows they are handed out, in order, and nothing is sent. The first time that there is
none the run goes live, and what had been sent and not answered is sent again. So there is no other state to
save, and none to forget: a decision that came out otherwise would be found at its row.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from protocol.arrays import Arrays
from protocol.bundle import bundle_digest, make_bundle
from protocol.codec import decode, encode
from protocol.errors import ConfigError
from protocol.records import MAX_ARRAY_BYTES
from server.journal.content import FOLDER, Content
from server.journal.database import at_url, in_file
from server.journal.disk import Disk
from server.journal.elsewhere import choose, find, keep
from server.journal.place import check_local, lock
from server.journal.store import FORM, Journal, JournalError, Row, why
from server.journal.tables import FILE_NAME, only_run

Json = dict[str, Any]
Kept = dict[str, Any]
BEGUN, ENDED = "begun", "ended"
_LOCK_NAME = "journal.lock"
_BITS = ("release", "python", "torch", "numpy", "machine", "device", "threads")
_AS_IT_BEGAN = "resume it with the release and the files that it began with"


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
        folder: the run's, with what it leaves.
    """

    def __init__(
        self,
        content: Content | None = None,
        journal: Journal | None = None,
        rows: Iterable[Row] = (),
        disk: Disk | None = None,
        folder: Path | None = None,
    ) -> None:
        self._disk, self._folder = disk or Disk(), folder
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
        self._settle()
        self.same(ENDED, "", body)
        self.commit()
        if self._content is not None:
            self._content.clear()

    def _settle(self) -> None:
        """Have all on the disk that the run leaves: once it has ended, nothing can make it again."""
        if self._folder is None:
            return
        try:
            for path in _left(self._folder):
                self._disk.sync_folder(path) if path.is_dir() else self._disk.sync(path)
        except OSError as error:
            raise JournalError(f"{self._folder}: cannot be synced ({error.strerror})") from None

    def leases(self) -> list[Json]:
        """Who has worked on the run; see ``Journal.leases``."""
        return self._journal.leases() if self._journal is not None else []

    def changes(self) -> list[str]:
        """Return a note where the processes of a run differ in what its bits depend on."""
        who = self.leases()
        differs = [key for key in _BITS if len({str(one.get(key)) for one in who}) > 1]
        if not differs:
            return []
        what = ", ".join(differs)
        return [f"resumed with another {what}: the bits of a run without a crash are not promised"]

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
            raise DivergedError(
                f"row {row.number} of the journal is '{row.kind}' of {row.key or 'the run'}, and now the run "
                f"comes to '{kind}' of {key or 'the run'}; {_AS_IT_BEGAN}"
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
        elif said != _plain(body):
            what = f"'{kind}' of {key or 'the run'} is not what the journal says"
            raise DivergedError(f"{what}; {_AS_IT_BEGAN} ({_difference(said, body)})")

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


def open_record(
    folder: Path, run: str, terms: Mapping[str, Any], *, disk: Disk | None = None, url: str | None = None
) -> Record:
    """Open the record of a run to go on with it, or begin one.

    Args:
        folder: the run's, with its content and, unless there is a ``url``, its journal.
        run: the run.
        terms: what the run is carried out with; a run that goes on must have begun with the same.
        disk: the seam.
        url: a database to keep the journal in instead; see ``server.journal.database``. A run that goes on
            may leave it out.

    Raises:
        ConfigError: the run began with other terms, or with its journal elsewhere; or the folder lies on a
            network.
        OpenElsewhereError: another process works on the run.
        JournalError: the journal cannot be written.
        DataError: it is damaged.
    """
    disk = disk or Disk()
    check_local(folder)
    with ExitStack() as stack:
        try:
            held = stack.enter_context(lock(folder / _LOCK_NAME))
            engine, name = _database(folder, run, url, disk)
            stack.callback(engine.dispose)
            journal = Journal(engine, name, disk)
            journal.take_lease(environment())
            found = Record(Content(folder / FOLDER, disk), journal, journal.rows(), disk, folder)
            _begin(found, run, terms)
            disk.sync_folder(folder)  # the journal's own name
        except (OSError, SQLAlchemyError) as error:
            raise JournalError(f"{folder}: its journal cannot be opened ({why(error)})") from None
        if found.outcome() is not None:
            found.content.clear()  # a crash may have come between the end and this
        found.hold(held)
        stack.pop_all()
    return found


def _database(folder: Path, run: str, url: str | None, disk: Disk) -> tuple[Engine, str]:
    """Return the database of a run's journal, and its name there; a folder keeps to the one it began with."""
    path, elsewhere = folder / FILE_NAME, find(folder)
    if elsewhere is not None:
        if url not in (None, elsewhere.url):
            raise ConfigError(f"{folder}: its journal is at {elsewhere.url}; give that URL, or none")
        return at_url(elsewhere.url), elsewhere.name
    if url is None:
        engine = in_file(path)
        if (other := only_run(engine)) not in ("", run):
            engine.dispose()
            raise ConfigError(f"{folder}: holds the journal of run '{other}'; give it that name again")
        return engine, run
    if path.exists():
        raise ConfigError(f"{folder}: its journal is {path}; give no URL")
    engine, place = at_url(url), choose(run, url)
    engine.connect().close()  # what cannot be reached is not written down
    keep(folder, place, disk)
    return engine, place.name


def _begin(record: Record, run: str, terms: Mapping[str, Any]) -> None:
    """Note what a run begins with; of one that goes on, check that it is the same."""
    said, now = record.replayed(BEGUN), _plain(terms)
    if said is None:
        record.note(BEGUN, "", {"form": FORM, "run": run, "terms": now})
        record.commit()
    elif said.get("form") != FORM:
        raise ConfigError(f"run '{run}': its journal is of another release; resume it with that one")
    elif said["run"] != run:
        raise ConfigError(f"run '{run}': its folder holds the journal of run '{said['run']}'; rename it")
    elif said["terms"] != now:
        differs = " and ".join(sorted(k for k in now if said["terms"].get(k) != now[k]))
        raise ConfigError(f"run '{run}' began with another {differs}; give this one another name")


def _left(folder: Path) -> Iterator[Path]:
    """Yield what a run leaves in its folder, each folder after what is in it; not what the journal syncs."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name.startswith("journal.") or path.name == FOLDER:
            continue
        if path.is_dir():
            yield from _left(path)
        elif path.is_file():
            yield path
    yield folder


def holds_record(folder: Path) -> bool:
    """Return whether a folder is a run's: it holds the lock of a journal."""
    return (folder / _LOCK_NAME).is_file()


def environment() -> Json:
    """Return what the bits of a run depend on beside its terms, as far as one can tell."""
    cuda = torch.cuda.is_available()
    return {
        "pid": os.getpid(),
        "release": bundle_digest(make_bundle())[:16],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
    }


def _plain(body: Mapping[str, Any]) -> Json:
    found: Json = json.loads(json.dumps(body, sort_keys=True, allow_nan=False))
    return found


def _difference(said: Json, body: Mapping[str, Any]) -> str:
    now = _plain(body)
    key = next((k for k in sorted({*said, *now}) if said.get(k) != now.get(k)), "")
    return f"{key}: the journal has {said.get(key)!r:.200}, now it is {now.get(key)!r:.200}"
