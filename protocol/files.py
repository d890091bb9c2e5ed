"""Small files that matter: read within bounds, written whole or not at all, for their owner alone."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import ConfigError, UserError

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_SHARED = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a small regular file.

    Raises:
        UserError: it is missing, cannot be read, is no regular file, or has more than ``max_bytes``.
    """
    return _read(path, max_bytes, private=False)


def read_private(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a small file that holds a secret.

    Raises:
        UserError: as ``read_bounded``; or it is a symbolic link, or not its owner's alone to read and write.
    """
    return _read(path, max_bytes, private=True)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet, mode 0600 whatever the umask, and sync it to the disk.

    Raises:
        OSError: it exists, if only as a link, or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` in place of the file at ``path``: after a crash there is the old one or the new one.

    Raises:
        OSError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write_new(aside, data)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder that must not exist yet, mode 0700 whatever the umask."""
    path.mkdir(mode=FOLDER_MODE)
    path.chmod(FOLDER_MODE)


def sync_folder(path: Path) -> None:
    """Sync a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, max_bytes: int, *, private: bool) -> bytes:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_NOFOLLOW if private else 0)
    try:
        descriptor = os.open(path, flags)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise UserError(f"{path}: is no regular file")
            if private and state.st_mode & _SHARED:
                mode = stat.S_IMODE(state.st_mode)
                raise UserError(
                    f"{path}: others can read or write it (mode {mode:03o}); do: chmod 600 {path}"
                )
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: is a symbolic link; a secret must be a file of its own") from None
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > max_bytes:
        raise UserError(f"{path}: more than {max_bytes} bytes; it is not what it should be")
    return data


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold a lock on a file: one process at a time, and none once it has ended, however it dies.

    Raises:
        ConfigError: another process holds it; ``what`` says what that uses.
    """
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{what}: another process uses this kit already") from None
        yield
