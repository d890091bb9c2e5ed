"""One run of the benchmark of allocation on the local engine: rounds alone, then the models on test rows.

The rounds are the product's (``server.conductor``); what ends a run beside them is left out, since fusing
and finishing twenty sites' own models takes longer than the rounds and tells nothing of the allocator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from flwr.serverapp import Grid

from clients.app import app as client_app
from collab import metrics, objective
from collab.cohort import Task
from collab.collaboration import Collaboration, metric_of
from collab.feedback import Beliefs, Contributed, Measured
from collab.rng import generator
from protocol.arrays import digest
from protocol.errors import RunError
from protocol.messages import EvaluationRequest
from protocol.records import pack
from server.conductor import Conductor
from server.courier import Letter
from server.discovery import discover
from server.federation import to_toml, with_sets
from server.finale import merge_stats
from server.journal.content import Content
from server.journal.disk import Disk
from server.learner import Learner
from server.learners import make
from server.preparation import prepare
from server.record import Record as RunRecord
from server.simulated_courier import SimulatedCourier
from server.spool import Spool
from simulations.benchmarks.allocation_sites import Job, Size, collaboration_of
from simulations.local_engine import run_locally

Record = dict[str, Any]
DETAILS: Final = ("round", "simulated_s", "bytes", "value", "num_examples")


class Shuffled(Beliefs):
    """Beliefs that are told every measurement under another subtask's and other sites' names.

    Seconds, and who answered, stay true: they are no measurement of what a contribution was worth.
    """

    def __init__(self, seed: int, subtasks: tuple[str, ...]) -> None:
        super().__init__()
        self._seed, self._names = seed, subtasks

    def measured(self, subtask: str, round_: int, given: tuple[Contributed, ...], found: Measured) -> None:
        """Tell it of another subtask; losses and credits of other sites."""
        rng = generator(self._seed, "benchmark", "shuffled", round_)
        other = dict(zip(self._names, rng.permutation(len(self._names)), strict=True))[subtask]
        mixed = replace(found, losses=_mixed(found.losses, rng), credits=_mixed(found.credits, rng))
        places = rng.permutation(len(given))
        moved = tuple(replace(one, site=given[k].site) for one, k in zip(given, places, strict=True))
        super().measured(self._names[other], round_, moved, mixed)


def _mixed(of_site: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
    sites = sorted(of_site)
    return {site: of_site[sites[k]] for site, k in zip(sites, rng.permutation(len(sites)), strict=True)}


class Rehearsal:
    """The rounds of one run, and what they left: for what the benchmarks measure afterwards."""

    def __init__(self, grid: Grid, collaboration: Collaboration, folder: Path) -> None:
        self.notes: list[str] = []
        self.collaboration = collaboration
        nodes, self.capabilities = discover(grid, collaboration, self.notes)
        self.courier = SimulatedCourier(grid, nodes, collaboration.sites, collaboration.seed)
        prepared = prepare(self.courier, collaboration, self.capabilities, self.notes)
        record = RunRecord(Content(folder / "contributions", Disk()))
        self.learners: dict[str, Learner] = {
            name: make(collaboration, with_sets(collaboration, one), "run", Spool(record))
            for name, one in prepared.items()
        }
        self.conductor = Conductor(
            collaboration, "run", self.courier, self.learners, record, self._hear, self.notes
        )
        self.until_s = float("inf")

    def conduct(self, until_s: float = float("inf")) -> None:
        """Carry the rounds out, up to the first that ends after so many simulated seconds."""
        self.until_s = until_s
        try:
            self.conductor.conduct(self.capabilities)
        except _TimeIsUp:
            self.conductor.ended = "the time is up"
        except RunError as error:
            self.notes.append(str(error))

    def _hear(self, news: Mapping[str, Any]) -> None:
        if news["type"] == "round" and news["simulated_s"] >= self.until_s:
            raise _TimeIsUp

    def on_test(self, subtask: str) -> Record:
        """Return the metrics, and the loss over the constant answer's, of the final model on test rows."""
        learner = self.learners[subtask]
        final = learner.final()
        if final is None:  # nobody ever contributed: the initial model
            model = next(iter(learner.prepared.models.values()))
            final = model, learner.prepared.fresh_arrays(model)
        letters = [
            Letter(
                site,
                "evaluate.model",
                pack(self._request(learner, site, final[0]), final[1]),
                subtask,
                None,
                False,
            )
            for site in learner.prepared.sites
        ]
        merged = merge_stats(self.courier, letters, learner.prepared, self.notes)
        return metrics.summarise(merged) | {"relative_loss": objective.relative_losses(merged, {})[0]}

    def _request(self, learner: Learner, site: str, model: str) -> EvaluationRequest:
        subtask = learner.prepared.subtask
        return EvaluationRequest(run="run", round=0, subtask=subtask, site=site, model=model, rows="test")


class _TimeIsUp(Exception):  # noqa: N818 - no error
    """Thrown through the conductor when a run has had its time."""


def rehearse(collaboration: Collaboration, report: Callable[[Rehearsal], Record]) -> Record:
    """Call ``report(rehearsal)`` inside a local federation of the collaboration's sites."""
    found: list[Record] = []

    def serve(grid: Grid) -> None:
        with TemporaryDirectory() as scratch:
            one = Rehearsal(grid, collaboration, Path(scratch))
            found.append(report(one))

    config = {"collaboration": to_toml(collaboration)}
    run_locally(serve, client_app, num_nodes=len(collaboration.sites), run_config=config)
    return found[0]


def measure(job: Job, size: Size, folder: Path) -> Record:
    """Return the figures of one run: every subtask's curve on validation rows, and its end on test rows."""
    torch.set_num_threads(1)
    collaboration = collaboration_of(job, size, folder)

    def report(one: Rehearsal) -> Record:
        if job.shuffled:
            one.conductor.machine.roster.beliefs = Shuffled(job.seed, tuple(sorted(collaboration.subtasks)))
        one.conduct()
        return {
            "policy": job.policy,
            "name": job.name,
            "seed": job.seed,
            "federation": job.federation,
            "subtasks": {name: _entry(one, name) for name in sorted(collaboration.subtasks)},
            "digests": {name: _digest(one.learners[name]) for name in sorted(collaboration.subtasks)},
            **_costs(one),
        }

    return rehearse(collaboration, report)


def _entry(one: Rehearsal, name: str) -> Record:
    terms = one.collaboration.subtasks[name]
    points = one.conductor.curves.get(name, [])
    test = one.on_test(name)
    return {
        "target": terms.target,
        "curve": [{key: getattr(point, key) for key in DETAILS} for point in points],
        "test": test[metric_of(terms)],
        "relative_loss": test["relative_loss"],
    }


def _digest(learner: Learner) -> str | None:
    final = learner.final()
    return None if final is None else digest(final[1])


def _costs(one: Rehearsal) -> Record:
    machine = one.conductor.machine
    tasks = [t for c in [*machine.history, *machine.cohorts.values()] for t in c.tasks.values()]
    accounts = one.courier.accounts.values()
    given = [t for t in tasks if t.outcome == "contributed"]
    return {
        "rounds": machine.round,
        "simulated_s": max(p.simulated_s for c in one.conductor.curves.values() for p in c),
        "ended": one.conductor.ended,
        "bytes": sum(a.bytes_up + a.bytes_down for a in accounts),
        "asked": len(tasks),
        "contributed": len(given),
        # A site is paid for what it gave, not for being asked.
        "payment": sum(t.send.payment for t in given),
        "asking_price": sum(_asking(one, t) for t in given),
        "worked_s": sum(a.seconds for a in accounts),
    }


def _asking(one: Rehearsal, task: Task) -> float:
    site = one.collaboration.sites[task.send.site]
    return site.price * one.conductor.machine.roster.work_s(task.send.site, tuple(task.of)) * task.send.budget
