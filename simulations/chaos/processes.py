"""The processes of a federation: find one, strike it, and watch how many work on a run at a time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from protocol.errors import RunError
from simulations.chaos.plan import MODULES, Target
from simulations.deployed import Deployed
from simulations.descendants import descendants, running, working_in

_LOOK_S = 0.05
_APPEARS_S = 120.0  # a worker imports torch; a site's pauses between two starts grow


def pid_of(at: Deployed, target: Target, sites: Sequence[str]) -> int | None:
    """Return the id of the process; None while there is none."""
    if target.kind == "supervisor":
        process = at.processes["server"]
        return process.pid if process.poll() is None else None
    name = "server" if target.site is None else sites[target.site]
    found = at.pids(name, MODULES[target.kind])
    return found[0] if len(found) == 1 else None


def await_pid(
    at: Deployed, target: Target, sites: Sequence[str], is_over: Callable[[], bool], other_than: int = 0
) -> int | None:
    """Wait until the process is there, and is another than before; None if ``is_over`` comes true first.

    Raises:
        RunError: it does not appear.
    """
    until = time.monotonic() + _APPEARS_S
    while (pid := pid_of(at, target, sites)) is None or pid == other_than:
        if is_over():
            return None
        if time.monotonic() > until:
            raise RunError(at.story(f"no {target.kind} appears in {_APPEARS_S:.0f} s"))
        time.sleep(_LOOK_S)
    return pid


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that has gone is past it."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def family_of(at: Deployed) -> set[int]:
    """Return the processes below the supervisor."""
    root = at.processes["server"].pid
    return descendants([root]) - {root}


def gone_after(pids: set[int], within_s: float) -> float | None:
    """Return after how many seconds none of the processes runs any more; None if some still do."""
    begun = time.monotonic()
    while pids & running().keys():
        if time.monotonic() > begun + within_s:
            return None
        time.sleep(_LOOK_S / 5)
    return time.monotonic() - begun


class Watch:
    """Counts, as long as it is entered, how many processes work on a run at a time; ``most`` is the most.

    All processes that work in the folder are looked at, so one that has lost its parent counts as well.
    """

    def __init__(self, folder: Path, module: str = MODULES["serve"]) -> None:
        self._folder, self._mark = folder, f"-m\0{module}\0".encode()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most = 0
        self.looks = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def count(self) -> int:
        """Return how many there are now; a child that one has just forked is not another."""
        found = {pid for pid in working_in(self._folder) if self._mark in _command(pid)}
        parents = running()
        return sum(parents.get(pid) not in found for pid in found if pid in parents)

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_S):
            self.most = max(self.most, self.count())
            self.looks += 1


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
