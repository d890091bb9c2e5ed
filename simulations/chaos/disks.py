"""Disks that fail at one step, and what a crash or a power cut leaves of what was written on them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from server.journal.disk import Disk, T

How = Literal["before", "after", "ENOSPC", "EIO", "short", "EIO after"]
HOW: Final[tuple[How, ...]] = ("before", "after", "ENOSPC", "EIO", "short", "EIO after")


class Killed(BaseException):
    """The process dies here. Nothing of ours may catch it."""


@dataclass
class Loose:
    """Something that was written and not synced: what would undo it, and whose sync makes it last."""

    waits_for: Path
    undo: Callable[[], None]


@dataclass
class FaultyDisk(Disk):
    """A disk that fails at its step number ``at``.

    ``before`` and ``after`` are where a process is killed; ``ENOSPC`` and ``EIO`` fail the step, ``short`` leaves
    half of what was to be written, ``EIO after`` does the step and says that it failed.
    """

    at: int | None = None
    how: How = "before"
    in_row: int = 64  # so that what is tested lies in files
    steps: list[str] = field(default_factory=list)
    loose: list[Loose] = field(default_factory=list)

    def write(self, path: Path, data: bytes) -> None:
        """Make a file anew."""
        before = path.read_bytes() if path.exists() else None

        def undo() -> None:
            if before is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(before)

        def torn() -> None:
            found = self._where(path)
            if found.exists():
                found.write_bytes(data[: len(data) // 2])

        self._step(
            f"write {path.suffix or 'content'}", lambda: super(FaultyDisk, self).write(path, data), torn
        )
        self._moved.pop(path, None)
        self.loose += [Loose(path, undo if before is not None else lambda: None), Loose(path, torn)]

    def sync(self, path: Path) -> None:
        """Have a file's bytes on the disk."""
        self._step("sync", lambda: super(FaultyDisk, self).sync(path))
        self.loose = [one for one in self.loose if one.waits_for != path]

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name."""
        before = target.read_bytes() if target.exists() else None

        def undo() -> None:
            if target.exists():
                target.replace(source)
            if before is not None:
                target.write_bytes(before)

        self._step("rename", lambda: super(FaultyDisk, self).rename(source, target))
        self._moved[source] = target
        self.loose.append(Loose(target.parent, undo))

    def sync_folder(self, path: Path) -> None:
        """Have a folder's names on the disk."""
        self._step("sync_folder", lambda: super(FaultyDisk, self).sync_folder(path))
        self.loose = [one for one in self.loose if one.waits_for != path]

    def make_folder(self, path: Path) -> None:
        """Make a folder."""

        def undo() -> None:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

        self._step("make_folder", lambda: super(FaultyDisk, self).make_folder(path))
        self.loose.append(Loose(path.parent, undo))

    def remove(self, path: Path) -> None:
        """Remove a file."""
        before = path.read_bytes() if path.exists() else None
        self._step("remove", lambda: super(FaultyDisk, self).remove(path))
        if before is not None:
            self.loose.append(Loose(path.parent, lambda: _restore(path, before)))

    def commit(self, transaction: Callable[[], T]) -> T:
        """Carry a transaction out."""
        return self._step("commit", transaction)

    def cut_power(self, kept: int) -> None:
        """Lose what was not synced, but for the first ``kept`` of it: the disk had got so far."""
        for one in reversed(self.loose[kept:]):
            one.undo()

    def __post_init__(self) -> None:
        self._moved: dict[Path, Path] = {}

    def _where(self, path: Path) -> Path:
        return self._moved.get(path, path)

    def _step(self, name: str, do: Callable[[], T], torn: Callable[[], None] | None = None) -> T:
        number = len(self.steps)
        self.steps.append(name)
        if number != self.at:
            return do()
        if self.how == "before":
            raise Killed
        if self.how in ("ENOSPC", "EIO"):
            raise OSError(getattr(errno, self.how), self.how)
        found = do()
        if self.how == "after":
            raise Killed
        if self.how == "short":
            if torn is not None:
                torn()
            raise OSError(errno.ENOSPC, "ENOSPC")
        raise OSError(errno.EIO, "EIO")


def _restore(path: Path, data: bytes) -> None:
    path.write_bytes(data)
