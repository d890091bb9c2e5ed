"""k of n sites lost in mid-round, for real: their ``site up`` is killed while they train.

A killed site belongs to the run for 90 s more (``server/errands.py``), so what is asked of all sites at the
end of a run would wait for it. The case is over when the round has closed and, where the run goes on, the
next has opened; then the run is stopped, and the sites are started again.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import tomlkit

from protocol.errors import ConsiliumError, RunError
from server.contact import ask
from server.orders import LIVE, read_json
from server.runlog import read
from simulations.chaos.collaboration import terms
from simulations.chaos.plan import MOST_TRIES
from simulations.chaos.processes import send
from simulations.chaos.sites_lost import (
    LOST_ROUND,
    SLACK_S,
    Case,
    Closing,
    Lost,
    case,
    closing,
    judge,
    result_of,
)
from simulations.chaos.traces import order_of
from simulations.deployed import Deployed

LOST_OF = {3: (1, 2), 5: (1, 2, 4)}  # how many sites are lost, by how many there are
_TERMS = {"grace_s": 8.0, "deadline_s": 40.0}  # so that no site that is there is too slow for its grace
_EPOCHS = 200  # a training must last so long that a kill finds it under way
_WAIT_S = 180.0
_STORY = 6000


def cases(sites: Sequence[str], seed: int) -> Iterator[Case]:
    """Yield the cases for a federation of these sites."""
    for k in LOST_OF[len(sites)]:
        yield case("real", sites, k, seed, slack_s=SLACK_S, **_TERMS)


@dataclass(frozen=True)
class Loss:
    """Carries cases out in a federation whose sites are connected; they are so again afterwards."""

    at: Deployed
    tables: dict[str, Any] | None = None  # of a collaboration file; the coordination is the case's

    def carry_out(self, case_: Case) -> Lost:
        """Carry a case out; whatever happens is in the result."""
        result = result_of(case_)
        try:
            for number in range(1, MOST_TRIES + 1):
                result.run = f"lost-{result.k}-of-{result.n}-{number}"
                if self._try(case_, result.run):
                    break
            judge(case_, self.at.server / "runs" / result.run, result)
            if result.why:
                result.why = self.at.story(result.why)[:_STORY]
        except (ConsiliumError, OSError) as error:
            result.why = str(error)[:_STORY]
        return result

    def _try(self, case_: Case, run: str) -> bool:
        """Run once; return False if one of the lost had given its contribution before it was killed."""
        tables = dict(self.tables or terms(len(case_.sites), epochs=_EPOCHS))
        tables["rounds"] = LOST_ROUND + 1
        tables["coordination"] = {"sites": len(case_.sites), **case_.coordination}
        self.at.wait(lambda: set(case_.sites) <= self.at.online(), "all sites are connected", _WAIT_S)
        ask(self.at.server, "submit", given={"run": run, "collaboration": tomlkit.dumps(tables)})
        try:
            self.at.wait(
                lambda: all(self._trains(run, s) for s in case_.lost) or self._closed(run),
                f"those that are to be lost train in round {LOST_ROUND}",
                _WAIT_S,
            )
            self._kill(case_)
            self.at.wait(lambda: self._is_seen(run), "the round has closed", _WAIT_S + case_.deadline_s)
        finally:
            self._restore(case_, run)
        return not case_.lost & set(self._closing(run).given)

    def _trains(self, run: str, site: str) -> bool:
        work = read_json(self.at.server / "state" / f"status-{run}.json").get("sites", {}).get(site, {})
        parts = str(work.get("task", "")).split("/")
        at_work = work.get("state") == "working" and str(work.get("kind", "")).startswith("train.")
        return at_work and len(parts) > 1 and parts[1] == str(LOST_ROUND)

    def _kill(self, case_: Case) -> None:
        """Kill the command of each lost site; its children end with it."""
        killed = [self.at.processes.pop(site) for site in sorted(case_.lost)]
        for process in killed:
            send(process.pid, signal.SIGKILL)
        for process in killed:
            process.wait()

    def _closing(self, run: str) -> Closing:
        with suppress(ConsiliumError):  # no log yet, or a line of it is being written
            return closing(list(read(self.at.server / "runs" / run)))
        return Closing()

    def _closed(self, run: str) -> bool:
        return self._closing(run).closed_s is not None

    def _is_seen(self, run: str) -> bool:
        """Whether all is there that is looked at: how the round closed, and that the next has opened."""
        found, order = self._closing(run), order_of(self.at, run)
        is_over = order is not None and order.state not in LIVE
        return is_over or (found.closed_s is not None and (found.goes_on or bool(found.abort)))

    def _restore(self, case_: Case, run: str) -> None:
        """End the run and start the lost sites again."""
        for site in case_.lost - self.at.processes.keys():
            self.at.start_site(site)
        order = order_of(self.at, run)
        if order is not None and order.state in LIVE:
            ask(self.at.server, "stop", {"run": run})
        self.at.wait(lambda: self._is_over(run), f"{run} has ended", _WAIT_S)

    def _is_over(self, run: str) -> bool:
        order = order_of(self.at, run)
        if order is None:
            raise RunError(f"{run}: there is no order")
        return order.state not in LIVE
