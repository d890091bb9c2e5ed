"""The processes below a process: find them, and see that they end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_POLL_S = 0.05


def running() -> dict[int, int]:
    """Every running process and its parent; one that has ended and waits for its parent does not run."""
    rows = _from_proc() if (_PROC / "self" / "stat").exists() else _from_ps()
    return {int(pid): int(parent) for pid, state, parent in rows if not state.startswith("Z")}


def descendants(roots: Iterable[int]) -> set[int]:
    """The process ids among `roots` and below them that are running."""
    parents = running()
    family = set(roots) & parents.keys()
    while children := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= children
    return family


def working_in(folder: Path) -> set[int]:
    """The running processes whose working folder it is, whoever started them; none where /proc is not."""
    found = set()
    for link in _PROC.glob("[0-9]*/cwd"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if link.readlink() == folder.resolve():
                found.add(int(link.parent.name))
    return found & running().keys()


def end(pids: AbstractSet[int], within_s: float) -> None:
    """Wait until these processes have ended; kill those that have not after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while (left := pids & running().keys()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _from_proc() -> list[list[str]]:
    """Process id, state and parent of each process, on Linux."""
    rows = []
    for file in _PROC.glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            text = file.read_text(encoding="utf-8", errors="replace")
            rows.append([file.parent.name, *text.rpartition(")")[2].split()[:2]])
    return rows


def _from_ps() -> list[list[str]]:
    """The same on other systems."""
    command = ["ps", "-A", "-o", "pid=,stat=,ppid="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return [line.split() for line in listed.splitlines()]
