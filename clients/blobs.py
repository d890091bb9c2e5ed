"""The ledger's long values: each in a file named by its digest, which stands in the row in its place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from protocol.files import sync_folder

IN_ROW = 64 * 1024  # what is no longer stands in the row itself
_ROW, _FILE = b"R", b"F"


class Blobs:
    """A folder of them.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, data: bytes) -> bytes:
        """Return what stands in a row for some bytes: themselves, or the name of their file."""
        if len(data) <= IN_ROW:
            return _ROW + data
        name = hashlib.sha256(data).hexdigest()
        path = self.folder / name
        if not path.exists():
            aside = self.folder / f".{name}.{os.getpid()}"
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            sync_folder(self.folder)
        return _FILE + name.encode()

    def read(self, kept: bytes) -> bytes:
        """Return the bytes that ``keep`` was given; raises ``OSError`` if their file is gone or damaged."""
        if kept[:1] == _ROW:
            return kept[1:]
        path = self.folder / kept[1:].decode()
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != path.name:
            path.unlink(missing_ok=True)  # so that the same bytes can be written again
            raise OSError(f"{path.name}: holds something else")
        return data

    def size(self, kept: bytes) -> int:
        """Return how many bytes what stands in a row stands for; 0 if their file is gone."""
        if kept[:1] != _FILE:
            return len(kept) - 1
        with suppress(OSError):
            return (self.folder / kept[1:].decode()).stat().st_size
        return 0

    def sweep(self, used: AbstractSet[bytes]) -> None:
        """Remove the files of other names."""
        for path in self.folder.iterdir():
            if path.name.encode() not in used:
                path.unlink(missing_ok=True)
