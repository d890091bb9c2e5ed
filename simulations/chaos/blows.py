"""Blows: a trial's signals, and what is started again by hand because nothing of ours looks after it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulations.chaos.plan import ORPHANS_S, Target, Trial
from simulations.chaos.processes import await_pid, family_of, gone_after, send
from simulations.deployed import Deployed


@dataclass
class Struck:
    """What a blow came to.

    Attributes:
        at: Unix seconds of the last signal that disturbed (of SIGCONT, where one was stopped); None if the
            run had ended before.
        orphans_s: how long children of a killed supervisor lived on; None where none was killed.
        survivors: how many did not end.
    """

    at: float | None = None
    orphans_s: float | None = None
    survivors: int = 0


@dataclass(frozen=True)
class Striker:
    """Carries out a trial's signals in a federation. ``is_over`` says whether the run has ended."""

    at: Deployed
    sites: Sequence[str]
    is_over: Callable[[], bool]

    def strike(self, trial: Trial) -> Struck:
        """Strike now; return when all signals have been sent and the supervisor is there.

        Raises:
            RunError: a process that is looked after does not appear again.
        """
        pids = [await_pid(self.at, target, self.sites, self.is_over) for target in trial.targets]
        found = [pid for pid in pids if pid is not None]
        if len(found) < len(pids) or self.is_over():
            return Struck()
        if trial.form == "stop":
            return self._stop(found, trial.stop_s)
        struck = self._kill(trial.targets, found)
        if trial.form == "resume":
            self._again(trial, found[0], struck)
        return struck

    def _stop(self, pids: Sequence[int], stop_s: float) -> Struck:
        for pid in pids:
            send(pid, signal.SIGSTOP)
        try:
            time.sleep(stop_s)
        finally:
            for pid in pids:
                send(pid, signal.SIGCONT)
        return Struck(time.time())

    def _kill(self, targets: Sequence[Target], pids: Sequence[int]) -> Struck:
        struck = Struck()
        supervised = any(target.kind == "supervisor" for target in targets)
        family = family_of(self.at) if supervised else set()
        for pid in pids:
            send(pid, signal.SIGKILL)
        struck.at = time.time()
        if supervised:
            self._replace_supervisor(family, struck)
        return struck

    def _replace_supervisor(self, family: set[int], struck: Struck) -> None:
        """See its children end, then start another, as an init system would."""
        self.at.processes["server"].wait(ORPHANS_S)
        gone_s = gone_after(family, ORPHANS_S)
        struck.orphans_s = max(struck.orphans_s or 0.0, ORPHANS_S if gone_s is None else gone_s)
        if gone_s is None:
            struck.survivors += 1
            for pid in family:
                send(pid, signal.SIGKILL)
        self.at.start_server()

    def _again(self, trial: Trial, killed: int, struck: Struck) -> None:
        """Kill what has taken the place of what was killed, a moment after it was there."""
        pid = await_pid(self.at, trial.targets[0], self.sites, self.is_over, other_than=killed)
        if pid is None:
            struck.at = None  # the run ended in between: it was not killed twice
            return
        time.sleep(trial.gap_s)
        second = self._kill(trial.targets, [pid])
        struck.at = second.at
        lived = [s for s in (struck.orphans_s, second.orphans_s) if s is not None]
        struck.orphans_s = max(lived, default=None)
        struck.survivors += second.survivors
