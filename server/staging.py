"""Many files put in place as one: built aside, then moved; a run that was cut off is finished by the next.

``FOLDER/.building`` is being written and counts for nothing. Renamed to ``FOLDER/.ready`` it is whole, and
its files are moved to their places, those that count last last.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import UserError
from protocol.files import FOLDER_MODE, make_folder, sync_folder, write_new

_BUILDING, _READY = ".building", ".ready"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which is made if it is not there, for this process alone.

    Raises:
        UserError: another process holds it.
        OSError: it cannot be made or opened.
    """
    if not folder.exists():
        folder.mkdir(mode=FOLDER_MODE, parents=True)
        folder.chmod(FOLDER_MODE)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is writing there; wait for it") from None
        yield
    finally:
        os.close(descriptor)


def finish(folder: Path, last: str, kept: Collection[str]) -> None:
    """Move what is ready into place, and throw away what was never ready.

    Args:
        folder: where the files belong.
        last: the file, relative to ``folder``, that is moved when all others are in place.
        kept: names of files that are never replaced.
    """
    ready = folder / _READY
    if ready.is_dir():
        files = [path for path in sorted(ready.rglob("*")) if path.is_file()]
        for path in sorted(files, key=lambda path: path == ready / last):
            target = folder / path.relative_to(ready)
            _make_folders(target.parent, folder)
            if target.name not in kept or not target.exists():
                path.replace(target)
                sync_folder(target.parent)
        sync_folder(folder)
        shutil.rmtree(ready)
    if (folder / _BUILDING).exists():
        shutil.rmtree(folder / _BUILDING)


def publish(folder: Path, files: Mapping[str, bytes], last: str, kept: Collection[str]) -> None:
    """Write ``files`` (path relative to ``folder``: bytes), all of them or, for whoever comes next, none."""
    building = folder / _BUILDING
    make_folder(building)
    for name, data in files.items():
        path = building / name
        _make_folders(path.parent, building)
        write_new(path, data)
    for path in sorted(building.rglob("*")):
        if path.is_dir():
            sync_folder(path)
    sync_folder(building)
    building.rename(folder / _READY)
    sync_folder(folder)
    finish(folder, last, kept)


def _make_folders(path: Path, root: Path) -> None:
    if path == root or path.is_dir():
        return
    _make_folders(path.parent, root)
    make_folder(path)
    sync_folder(path.parent)
