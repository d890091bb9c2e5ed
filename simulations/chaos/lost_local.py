"""k of n sites lost in mid-round, in this process: the whole server on the simulated clock, exactly.

From the moment at which the round is decided the lost give no answer that belongs to a round, as sites with
``dropout = 1`` do. What is asked of all at the end of a run they still answer: that clock has no patience.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from clients.app import app as client_app
from collab.collaboration import Collaboration
from collab.rng import generator
from collab.settings import parse
from collab.terms import SiteProfile
from protocol.errors import ConsiliumError, RunError
from server.federation import Terms, federate, to_toml
from simulations.chaos.collaboration import site_names
from simulations.chaos.sites_lost import LOST_ROUND, Case, Lost, case, judge, result_of
from simulations.local_engine import run_locally
from simulations.simulate import ready

PLACE = "in process"
SIZES = (10, 30, 100)


class Profiles(dict[str, SiteProfile]):
    """The profiles of simulated sites, of which some are lost from a round on."""

    def __init__(self, profiles: Mapping[str, SiteProfile], lost: frozenset[str]) -> None:
        super().__init__(profiles)
        self._lost, self._has_begun = lost, False

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take an event of the run; a round is decided before anybody is asked."""
        if event.get("type") == "decided" and event["round"] >= LOST_ROUND:
            self._has_begun = True

    def __getitem__(self, site: str) -> SiteProfile:
        profile = super().__getitem__(site)
        gone = self._has_begun and site in self._lost
        return profile.model_copy(update={"dropout": 1.0}) if gone else profile


def cases(seed: int) -> Iterator[Case]:
    """Yield, for each size, one site, all but one, two numbers between; and all but one with no minimum."""
    for n in SIZES:
        sites = site_names(n)
        drawn = generator(seed, n, "how many are lost").integers(2, n - 1, size=2)
        for k in sorted({1, n - 1, *map(int, drawn)}):
            yield case(PLACE, sites, k, seed)
        yield case(PLACE, sites, n - 1, seed, min_coverage=0.0)


def carry_out(case_: Case, folder: Path) -> Lost:
    """Carry a case out in ``folder``; whatever happens is in the result."""
    result = result_of(case_)
    result.run = f"lost-{result.k}-of-{result.n}-{round(100 * case_.min_coverage)}"
    collaboration = _collaboration(case_)
    profiles = Profiles(collaboration.sites, case_.lost)
    losing = collaboration.model_copy(update={"sites": profiles})

    def serve(grid: Grid) -> None:
        terms = Terms(result.run, folder / result.run, "simulated", "local")
        with suppress(RunError):  # it stopped: whether it had to, and what it said, its log tells
            federate(grid, losing, terms, profiles.on_event)

    try:
        config = {"collaboration": to_toml(collaboration)}
        run_locally(serve, client_app, num_nodes=len(case_.sites), run_config=config)
        judge(case_, folder / result.run, result)
    except ConsiliumError as error:
        result.why = str(error)
    return result


def _collaboration(case_: Case) -> Collaboration:
    tables: dict[str, Any] = {
        "name": "lost",
        "seed": case_.seed,
        "rounds": LOST_ROUND + 1,
        "subtasks": {
            "digits": {
                "kind": "tabular_classification",
                "models": ["linear"],
                "train": {"lr": 0.1, "batch_size": 16, "local_epochs": 1},
            }
        },
        "allocation": {"policy": "everyone"},
        "coordination": case_.coordination,
        "data": {"digits": {"format": "sklearn", "name": "digits"}},
        "sites": {site: {"device": "cpu"} for site in case_.sites},
    }
    return ready(parse(tables, "sites lost"), Path())
