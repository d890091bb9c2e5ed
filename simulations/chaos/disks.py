"""Disks under a run's journal: one fails at a step, one shows what a crash at any step leaves."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

from server.journal.disk import Disk, T

Fault = Literal["ENOSPC", "EIO", "short", "EIO after"]
FAULTS: Final[tuple[Fault, ...]] = ("ENOSPC", "EIO", "short", "EIO after")
_IN_ROW = 64  # so that what is tested lies in files


class Loose(NamedTuple):
    """Something that was written and not synced: whose sync makes it last, and what undoes it in a copy."""

    waits_for: Path
    undo: Callable[[Path], None]


@dataclass
class WatchedDisk(Disk):
    """Counts its steps, and knows what has not been synced yet: a power cut may lose any end of that.

    Args:
        folder: the run's; all that is written lies in it.
    """

    folder: Path
    in_row: int = _IN_ROW
    steps: list[str] = field(default_factory=list)
    loose: list[Loose] = field(default_factory=list)
    _removed: tuple[Loose, dict[Path, bytes]] | None = None

    def write(self, path: Path, data: bytes) -> None:
        """Make a file anew: until it is synced, none of it may be there, or a part."""
        self._step("write", lambda: super(WatchedDisk, self).write(path, data))
        self.loose.append(Loose(path, lambda root: _cut(self._in(root, path), b"")))
        self.loose.append(Loose(path, lambda root: _cut(self._in(root, path), data[: len(data) // 2])))

    def sync(self, path: Path) -> None:
        """Have a file's bytes on the disk."""
        self._step("sync", lambda: super(WatchedDisk, self).sync(path))
        self._lasts(path)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name: until the folder is synced, it may have the old one."""
        before = target.read_bytes() if target.exists() else None
        self._step("rename", lambda: super(WatchedDisk, self).rename(source, target))

        def undo(root: Path) -> None:
            self._in(root, target).replace(self._in(root, source))
            if before is not None:
                self._in(root, target).write_bytes(before)

        self.loose = [Loose(target if w == source else w, u) for w, u in self.loose]
        self.loose.append(Loose(target.parent, undo))

    def sync_folder(self, path: Path) -> None:
        """Have a folder's names on the disk."""
        self._step("sync folder", lambda: super(WatchedDisk, self).sync_folder(path))
        self._lasts(path)

    def make_folder(self, path: Path) -> None:
        """Make a folder: until the one around it is synced, it may not be there."""
        self._step("make folder", lambda: super(WatchedDisk, self).make_folder(path))
        self.loose.append(Loose(path.parent, lambda root: shutil.rmtree(self._in(root, path))))

    def remove(self, path: Path) -> None:
        """Remove a file: until its folder is synced, it may be there."""
        before = path.read_bytes() if path.exists() else None
        self._step("remove", lambda: super(WatchedDisk, self).remove(path))
        if before is None:
            return
        if self._removed is None or self.loose[-1:] != [self._removed[0]]:  # removed together, lost together
            files: dict[Path, bytes] = {}
            one = Loose(path.parent, lambda root: _put_all({self._in(root, p): d for p, d in files.items()}))
            self._removed = (one, files)
            self.loose.append(one)
        self._removed[1][path] = before

    def commit(self, transaction: Callable[[], T]) -> T:
        """Carry a transaction out."""
        return self._step("commit", transaction)

    def lose(self, root: Path, kept: int) -> None:
        """Take back, in a copy of the folder, what was not synced, but for the first ``kept`` of it."""
        for one in reversed(self.loose[kept:]):
            one.undo(root)

    def _step(self, name: str, do: Callable[[], T]) -> T:
        self.steps.append(name)
        return do()

    def _lasts(self, path: Path) -> None:
        self.loose = [one for one in self.loose if one.waits_for != path]

    def _in(self, root: Path, path: Path) -> Path:
        return root / path.relative_to(self.folder)


@dataclass
class CrashedDisk(WatchedDisk):
    """Shows, before and after each of its steps, the folder as a process that dies there leaves it.

    ``look(number, place)`` is called with the step's number and ``before`` or ``after``.
    """

    look: Callable[[int, str], None] = lambda *_: None

    def _step(self, name: str, do: Callable[[], T]) -> T:
        number = len(self.steps)
        self.look(number, "before")
        found = super()._step(name, do)
        self.look(number, "after")
        return found


class Killed(BaseException):
    """The process dies here; nothing of ours catches it."""


@dataclass
class KillingDisk(WatchedDisk):
    """Dies before its step number ``at``, if it comes to so many."""

    at: int = 0

    def _step(self, name: str, do: Callable[[], T]) -> T:
        if len(self.steps) == self.at:
            raise Killed
        return super()._step(name, do)


@dataclass
class FailingDisk(WatchedDisk):
    """Fails at its step number ``at``, and at none after it.

    ``ENOSPC`` and ``EIO`` do nothing, ``short`` writes half, ``EIO after`` does all and says that it failed.
    """

    at: int = 0
    fault: Fault = "ENOSPC"

    def write(self, path: Path, data: bytes) -> None:
        """Make a file anew, or half of it."""
        if self.fault == "short" and len(self.steps) == self.at:
            Disk.write(self, path, data[: len(data) // 2])
        super().write(path, data)

    def _step(self, name: str, do: Callable[[], T]) -> T:
        if len(self.steps) != self.at:
            return super()._step(name, do)
        if self.fault == "EIO after":
            super()._step(name, do)
            raise OSError(errno.EIO, "EIO")
        self.steps.append(name)
        raise OSError(errno.EIO if self.fault == "EIO" else errno.ENOSPC, self.fault)


def _cut(path: Path, part: bytes) -> None:
    if path.exists():
        path.write_bytes(part)


def _put_all(files: Mapping[Path, bytes]) -> None:
    for path, data in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
