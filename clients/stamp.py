"""Tell whether a file is still the one that was read: by path, times, size and inode, not by its bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from collab.data.config import DataConfig
from collab.data.limits import MAX_MEMBERS
from collab.data.locate import locate
from protocol.errors import DataError

Stamp = tuple[str, ...]


def of_file(path: Path) -> Stamp:
    """Return what tells a file from what it was.

    The time of the last change of its inode is part of it: a file whose old date was put back has changed.

    Raises:
        OSError: it is not there.
    """
    real = path.resolve()
    return (str(real), _told(real.stat()))


def of_folder(path: Path) -> Stamp:
    """Return what tells a folder from what it was: the stamps of all files below it, as one hash.

    Raises:
        OSError: a file cannot be looked at.
        DataError: there are more than any data block may have.
    """
    hashed = sha256()
    for count, found in enumerate(sorted(_files(path), key=lambda entry: entry.path)):
        if count > MAX_MEMBERS:
            raise DataError(f"{path.name}: holds more than {MAX_MEMBERS:,} files")
        hashed.update(f"{found.path}\0{_told(found.stat())}\n".encode(errors="surrogateescape"))
    return (str(path.resolve()), hashed.hexdigest())


def of_data(config: DataConfig, base: Path) -> tuple[Stamp, ...]:
    """Return the stamps of all files that a data block names; scikit-learn's own data never change.

    Raises:
        OSError, DataError: a file is not there.
    """
    accept = config.format == "images"
    named = (config.path, config.labels_path, config.split.test_path, config.split.test_labels_path)
    places = [locate(path, base, accept_folder=accept) for path in named if path is not None]
    return tuple(of_folder(place) if place.is_dir() else of_file(place) for place in places)


def _told(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns} {found.st_ctime_ns} {found.st_size} {found.st_dev} {found.st_ino}"


def _files(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    # As image_members looks at a folder: links to files count, links to folders are not followed.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.is_file():
                yield entry
