"""Trials on a federation of real processes that stays up: each is a new run, and one blow in it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import tomlkit

from protocol.errors import ConsiliumError, RunError
from server.contact import ask
from server.orders import LIVE
from simulations.chaos.blows import Striker, Struck
from simulations.chaos.plan import EARLIER, LIMIT_RUNS, LIMIT_S, MOST_TRIES, ORPHANS_S, Trial
from simulations.chaos.processes import Watch
from simulations.chaos.traces import marks, model_digests, order_of, recovered_after, trainings
from simulations.deployed import Deployed

_LOOK_S = 0.05
_READY_S = 180.0
_STORY = 6000  # characters of a failure's story that are kept


@dataclass(frozen=True)
class Calm:
    """The undisturbed run: its seconds from submission to end, its models and its trainings."""

    seconds: float
    digests: Mapping[str, str]
    trainings: int


@dataclass
class Result:
    """What a trial came to; ``why`` is empty if it keeps the pass rule. Seconds where nothing else is said.

    Attributes:
        state: how the run ended.
        recover_s: from the blow until the run came further than ever before.
        extra_s: the run's time beyond the undisturbed one.
        repeated: trainings begun beyond those of the undisturbed run.
        starts: processes that have worked on the run.
        most_serves: how many did at one moment, at most.
        tries: runs that it took until the blow came before the end.
    """

    number: int
    seed: int
    name: str
    form: str
    kinds: tuple[str, ...]
    struck_share: float
    run: str = ""
    tries: int = 0
    state: str = ""
    bit_equal: bool = False
    recover_s: float | None = None
    extra_s: float | None = None
    repeated: int | None = None
    starts: int = 0
    most_serves: int = 0
    orphans_s: float | None = None
    why: str = ""

    @property
    def passed(self) -> bool:
        """Whether it keeps the pass rule."""
        return not self.why

    def as_json(self) -> dict[str, Any]:
        """Return it as a table."""
        return asdict(self) | {"passed": self.passed}


@dataclass
class Arena:
    """A federation in which trials are carried out.

    Args:
        at: its processes.
        terms: the collaboration of every run; what it decides must not depend on time.
        sites: its sites, all connected.
        prefix: begins the names of all runs.
    """

    at: Deployed
    terms: Mapping[str, Any]
    sites: Sequence[str]
    prefix: str = "chaos"
    calm: Calm = field(default_factory=lambda: Calm(0.0, {}, 0))
    broken: str = ""

    def undisturbed(self) -> Calm:
        """Run twice with nothing disturbed; keep the second, when all is loaded.

        Raises:
            RunError: a run does not finish, or they end with other bits.
        """
        found = [self._calm_run(f"{self.prefix}-calm-{n}") for n in (1, 2)]
        if not found[0].digests or found[0].digests != found[1].digests:
            raise RunError(self.at.story("two undisturbed runs ended with other models"))
        self.calm = found[1]
        return self.calm

    def carry_out(self, trial: Trial) -> Result:
        """Carry a trial out; whatever happens is in the result."""
        kinds = tuple(target.kind for target in trial.targets)
        result = Result(trial.number, trial.seed, trial.name, trial.form, kinds, trial.at)
        if self.broken:
            result.why = f"not carried out: the federation could not be repaired after {self.broken}"
            return result
        try:
            while not self._try(trial, result):
                result.struck_share *= EARLIER
        except (ConsiliumError, OSError) as error:
            result.why = str(error)[:_STORY]
            self._repair(result)
        return result

    def _try(self, trial: Trial, result: Result) -> bool:
        """Run once; return False if the run had ended before the blow, and another is to be made."""
        result.tries += 1
        result.run = f"{self.prefix}-{trial.number}-{result.tries}"
        self._await_ready()
        with Watch(self.at.folder) as watch:
            self._submit(result.run)
            until = time.monotonic() + result.struck_share * self.calm.seconds
            while time.monotonic() < until and not self._is_over(result.run):
                time.sleep(_LOOK_S)
            striker = Striker(self.at, self.sites, lambda: self._is_over(result.run))
            struck = striker.strike(trial)
            self._await_end(result.run)
        if struck.at is None and result.tries < MOST_TRIES:
            return False
        result.most_serves = watch.most
        self._judge(trial, result, struck)
        return True

    def _judge(self, trial: Trial, result: Result, struck: Struck) -> None:
        order = order_of(self.at, result.run)
        if order is None:
            raise RunError(self.at.story(f"{result.run}: its order is gone"))
        at_sites = {self.sites[t.site] for t in trial.targets if t.site is not None}
        result.state, result.starts, result.orphans_s = order.state, order.starts, struck.orphans_s
        result.bit_equal = (
            model_digests(self.at.server / "runs" / result.run) == self.calm.digests
            and order.state == "finished"
        )
        result.repeated = trainings(self.at, result.run, self.sites) - self.calm.trainings
        result.extra_s = order.since - order.submitted_at - self.calm.seconds
        if struck.at is not None:
            result.recover_s = recovered_after(marks(self.at, result.run), struck.at, order.since, at_sites)
        if faults := "; ".join(_faults(result, struck)):
            result.why = self.at.story(faults)[:_STORY]

    def _calm_run(self, run: str) -> Calm:
        self._await_ready()
        self._submit(run)
        self._await_end(run)
        order = order_of(self.at, run)
        if order is None or order.state != "finished":
            raise RunError(self.at.story(f"the undisturbed run {run} did not finish"))
        digests = model_digests(self.at.server / "runs" / run)
        return Calm(order.since - order.submitted_at, digests, trainings(self.at, run, self.sites))

    def _submit(self, run: str) -> None:
        given = {"run": run, "collaboration": tomlkit.dumps(dict(self.terms)), "baselines": False}
        ask(self.at.server, "submit", given=given)

    def _is_over(self, run: str) -> bool:
        order = order_of(self.at, run)
        return order is not None and order.state not in LIVE

    def _await_end(self, run: str) -> None:
        limit_s = LIMIT_S + LIMIT_RUNS * self.calm.seconds
        self.at.wait(lambda: self._is_over(run), f"run {run} has ended", limit_s)

    def _await_ready(self) -> None:
        """Wait until every site is connected and has a worker that waits for work."""
        sites = set(self.sites)
        self.at.wait(lambda: sites <= self.at.online(), "all sites are connected", _READY_S)
        self.at.wait(lambda: all(self.at.pids(site, "clients.worker") for site in sites), "workers", _READY_S)

    def _repair(self, result: Result) -> None:
        """After a failure: start what has ended, and stop the run, so that the next trial can be made."""
        for name, process in list(self.at.processes.items()):
            if process.poll() is not None and name != "server":
                self.at.start_site(name)
        try:
            if self.at.processes["server"].poll() is not None:
                self.at.start_server()
            if not self._is_over(result.run):
                ask(self.at.server, "stop", {"run": result.run})
                self._await_end(result.run)
            self._await_ready()
        except (ConsiliumError, OSError) as error:
            self.broken = result.name
            result.why = f"{result.why}\nand it could not be repaired: {error}"[: 2 * _STORY]


def _faults(result: Result, struck: Struck) -> list[str]:
    """Return what breaks the pass rule."""
    found = []
    if result.state != "finished":
        found.append(f"the run ended as {result.state}")
    elif not result.bit_equal:
        found.append("its models are not those of the undisturbed run")
    if result.most_serves > 1:
        found.append(f"{result.most_serves} processes worked on it at one moment")
    if struck.survivors:
        found.append(f"children of a killed supervisor were alive after {ORPHANS_S:.0f} s")
    if struck.at is None:
        found.append(f"in {MOST_TRIES} runs the blow came when the run had ended")
    return found
