"""Bytes by their SHA-256: what a journal's rows speak of and, unless it is short, do not hold.

A file is written aside, synced, renamed, and its folder synced, before a row may name it. What is named no
more is removed once the row that says so is on the disk; what a crash left without a row, when it is opened.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from server.journal.disk import Disk
from server.journal.store import JournalError

FOLDER = "content"
_HERE = "="
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ASIDE = re.compile(r"\.[0-9a-f]{64}\.aside")


class Content:
    """Files of one run, each named by its digest.

    Args:
        folder: where they lie; it is made when the first one is written.
        disk: the seam.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder, self._disk = folder, disk
        self._uses: Counter[str] = Counter()
        self._dropped: set[str] = set()

    @property
    def longest_text(self) -> int:
        """What text may stand in a row as it is, in bytes."""
        return 8 * self._disk.in_row

    def put(self, data: bytes) -> str:
        """Keep bytes, durable when this returns; return a reference to them. They have one use more.

        Raises:
            JournalError: they cannot be written.
        """
        if len(data) <= self._disk.in_row:
            return _HERE + base64.b64encode(data).decode()
        ref = hashlib.sha256(data).hexdigest()
        if not self._uses[ref]:  # what is there without a use may be what a crash left half written
            path = self._path(ref)
            try:
                self._make_folder()
                self._disk.put(path, data)
            except OSError as error:
                raise JournalError(f"{path}: cannot be written ({error.strerror}); make room") from None
        self.use(ref)
        return ref

    def use(self, ref: str) -> None:
        """Count one use more of bytes, of which ``check`` says whether they are there."""
        if ref.startswith(_HERE):
            return
        self._path(ref)
        self._uses[ref] += 1
        self._dropped.discard(ref)

    def drop(self, ref: str) -> None:
        """Count one use less; without any, ``sweep`` removes them."""
        if not self._uses[ref]:
            return
        self._uses[ref] -= 1
        if not self._uses[ref]:
            del self._uses[ref]
            self._dropped.add(ref)

    def has(self, ref: str) -> bool:
        """Return whether the bytes are there."""
        return ref.startswith(_HERE) or self._path(ref).is_file()

    def read(self, ref: str) -> bytes:
        """Return the bytes.

        Raises:
            JournalError: they are gone, or are not what their name says.
        """
        if ref.startswith(_HERE):
            try:
                return base64.b64decode(ref[1:], validate=True)
            except ValueError:
                raise JournalError(f"{self._folder}: a reference in the journal is damaged") from None
        path = self._path(ref)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise JournalError(f"{path}: cannot be read ({error.strerror}); the run cannot go on") from None
        if hashlib.sha256(data).hexdigest() != ref:
            raise JournalError(f"{path}: is damaged; the run cannot go on from it")
        return data

    def check(self) -> None:
        """Raise ``JournalError`` if bytes are gone that have a use."""
        for ref in sorted(self._uses):
            if not self.has(ref):
                raise JournalError(f"{self._path(ref)}: is gone; the run cannot go on")

    def sweep(self) -> None:
        """Remove what has no use any more; the rows that say so must be on the disk."""
        for ref in sorted(self._dropped):
            self._remove(self._path(ref))
        self._dropped.clear()

    def sweep_all(self) -> None:
        """Remove everything that has no use: what a crash had left."""
        kept = {self._path(ref) for ref in self._uses}
        for path in sorted(self._files()):
            if path not in kept:
                self._remove(path)
        self._dropped.clear()

    def clear(self) -> None:
        """Remove everything: the run has ended."""
        self._uses.clear()
        self.sweep_all()

    def _remove(self, path: Path) -> None:
        with suppress(OSError):  # it takes room and nothing else; a process that goes on tries again
            self._disk.remove(path)

    def _files(self) -> Iterable[Path]:
        """Return what ``put`` may have written, finished or not; what else lies there is not ours."""
        there = self._folder.iterdir() if self._folder.is_dir() else ()
        return (path for path in there if _DIGEST.fullmatch(path.name) or _ASIDE.fullmatch(path.name))

    def _path(self, ref: str) -> Path:
        if not _DIGEST.fullmatch(ref):  # a reference comes from a row: it is no path to anywhere else
            raise JournalError(f"{self._folder}: a reference in the journal is no digest")
        return self._folder / ref

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            self._disk.make_folder(self._folder)
            self._disk.sync_folder(self._folder.parent)
