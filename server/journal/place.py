"""Where a journal lies: a file that one process at a time may write, on a disk of this machine."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from protocol.errors import ConfigError
from server.journal.store import JournalError

_MOUNTS: Final = Path("/proc/self/mountinfo")
# SQLite's locks, and ours, are only as good as the file system's; over a network they are not.
NETWORKED: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "ceph", "9p"}
    | {"lustre", "gpfs", "beegfs", "pvfs2", "glusterfs", "ocfs2", "gfs2"}
)


class OpenElsewhereError(JournalError):
    """Another process writes this journal."""

    code = "open_elsewhere"


def check_local(folder: Path, mounts: Path = _MOUNTS) -> None:
    """Raise ``ConfigError`` if a folder lies on a network file system, as far as this system tells."""
    kind = file_system(folder, mounts)
    if kind is not None and (kind in NETWORKED or kind.startswith("fuse.")):
        raise ConfigError(
            f"{folder}: lies on {kind}, where locks do not hold between machines; "
            "choose a folder on a disk of this machine"
        )


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the kind of file system that a folder lies on, such as ``ext4``; None where it is not told."""
    try:
        lines = mounts.read_bytes().split(b"\n")
    except OSError:
        return None
    where, best, kind = os.fsencode(folder.resolve()), -1, None
    for line in lines:
        mount, _, rest = line.partition(b" - ")
        fields = mount.split(b" ")
        if len(fields) < 5 or not rest:
            continue
        point = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), fields[4])
        inside = where == point or where.startswith(point.rstrip(b"/") + b"/")
        if inside and len(point) >= best:  # of mounts at one place the last one counts
            best, kind = len(point), rest.split(b" ")[0].decode(errors="replace")
    return kind


def lock(path: Path) -> IO[str]:
    """Lock a journal for this process, until the file is closed or the process ends, however it does.

    Raises:
        OpenElsewhereError: another process has it; the message names it.
        OSError: the file cannot be made or locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    file = os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except BlockingIOError:
        who = file.read(32).strip() or "unknown"
        file.close()
        raise OpenElsewhereError(
            f"{path.parent}: process {who} works on this run; end it first, also if it is only stopped"
        ) from None
    except OSError:
        with suppress(OSError):  # what could not be written is tried again
            file.close()
        raise
    return file
