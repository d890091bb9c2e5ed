"""The one seam through which a journal touches the disk, so that a test can fail or drop any write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from protocol.files import sync_folder

T = TypeVar("T")
_MODE = 0o600


class Disk:
    """Real files. Each method is one step: a crash may fall before or after it, never within.

    A file's bytes are on the disk once ``sync`` has returned, its name once ``sync_folder`` of its folder
    has, a transaction once ``commit`` has. Each may raise ``OSError``; ``commit`` also what the database
    raises.
    """

    # Content that is not longer stands in the row that names it: a file would cost four syncs.
    in_row = 8 * 2**10

    def write(self, path: Path, data: bytes) -> None:
        """Make a file anew; its bytes may still be in memory alone."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    def sync(self, path: Path) -> None:
        """Have a file's bytes on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name, in the place of what had it."""
        source.replace(target)

    def sync_folder(self, path: Path) -> None:
        """Have a folder's names on the disk."""
        sync_folder(path)

    def make_folder(self, path: Path) -> None:
        """Make a folder that may be there."""
        path.mkdir(mode=0o700, exist_ok=True)

    def remove(self, path: Path) -> None:
        """Remove a file that may be gone."""
        path.unlink(missing_ok=True)

    def commit(self, transaction: Callable[[], T]) -> T:
        """Carry a transaction of the database out; it is durable, whole, once this returns."""
        return transaction()

    def put(self, path: Path, data: bytes) -> None:
        """Write a file so that after a crash there is the old one or the new one, under its name."""
        aside = path.with_name(f".{path.name}.aside")
        self.write(aside, data)
        self.sync(aside)
        self.rename(aside, path)
        self.sync_folder(path.parent)
