"""What a collaboration is compared with in a simulation, on the same rows and budgets.

``pooled``: one model on all sites' train rows together, which no real collaboration may have.
``fedavg_smallest``: FedAvg among everybody with the smallest model, as a plain framework would do.
Each site alone is measured inside the run itself, at the sites.

A subtask that comes after others has the same inputs in all of them: ``pooled`` and each site alone take
what the run's own final upstream models say, so what differs is this subtask's training and nothing before
it. ``fedavg_smallest`` is another run, and chains the models that it made itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict

from clients.site import from_scenario
from clients.state import SiteState
from clients.work import UPSTREAM, Desk, epochs_per_round, raw_outputs
from collab import metrics
from collab.collaboration import Collaboration, metric_of, models_of
from collab.data.preprocess import Preprocessing, measure, merge
from collab.models.contract import from_arrays, memory_mib
from collab.rng import generator
from collab.settings import validate
from collab.terms import SubtaskTerms
from collab.training import Rows, train_early_stopped
from server.description import describe
from server.models import read_upstream
from simulations import attacks

# What a subtask's table may say that plain FedAvg does not have.
_NOT_PLAIN = (
    *("distillation", "fusion", "coordination", "target", "wire", "composition"),
    *("architectures", "personal", "prototypes", "teacher"),
)


@dataclass(frozen=True)
class Baseline:
    """The metric that decides: on the union of test rows, and at each site."""

    value: float | None
    own: Mapping[str, float | None]

    @property
    def measured(self) -> dict[str, float | None]:
        """The entry of a summary: global, and the mean of own over the sites."""
        known = [v for v in self.own.values() if v is not None]
        return {"global": self.value, "own": float(np.mean(known)) if known else None}


def pooled(collaboration: Collaboration, name: str, folder: Path | None = None) -> Baseline:
    """Train the subtask's largest model on all train rows together, early stopped on all validation rows.

    Raises:
        UpstreamError: the subtask comes after others, and no ``folder`` of a run with their models is given.
    """
    desks = _desks(collaboration, name, folder)
    train, validation = (_union(desks, side) for side in ("train", "validation"))
    desk = next(iter(desks.values()))
    terms = collaboration.subtasks[name]
    module = desk.fresh(_largest(desk, terms))
    budget = collaboration.rounds * epochs_per_round(desk.subtask, len(train))
    rng = generator(collaboration.seed, name, "pooled")
    best = train_early_stopped(module, train, validation, desk.kind, terms.train, rng, epochs=budget)
    from_arrays(module, best)
    stats = {}
    for site, place in desks.items():
        rows = _rows(place, "test")
        if len(rows):
            outputs_NK, y_N = raw_outputs(place, module, rows), rows.y.cpu().numpy()
            stats[site] = (
                metrics.classification_statistics(outputs_NK, y_N)
                if desk.kind.output == "classes"
                else metrics.regression_statistics(outputs_NK[:, 0], y_N)
            )
    metric = metric_of(terms)
    own = {site: metrics.summarise(found).get(metric) for site, found in stats.items()}
    return Baseline(metrics.summarise(metrics.merge(list(stats.values()))).get(metric), own)


def smallest_common(collaboration: Collaboration) -> Collaboration:
    """Return the same collaboration as plain FedAvg: everybody, weights, the smallest model of each list.

    Byzantine sites attack it too; a site whose attack is on soft labels alone has none on weights.
    """
    tables = collaboration.model_dump(mode="json", exclude_none=True)
    on_weights = attacks.IN_THE_DATA | attacks.BY_EXCHANGE["weights"]
    for profile in tables["sites"].values():
        if profile.get("attack") not in on_weights:
            profile.pop("attack", None)
    tables["decomposition"] = {
        name: table for name, table in tables["decomposition"].items() if table["by"] != "affinity"
    }
    tables["allocation"] = {"policy": "everyone"}
    tables["fusion"] = {"rule": "own_pool"}
    tables["coordination"] = {**tables["coordination"], "min_coverage": 0.0}
    for name, table in tables["subtasks"].items():
        desk = next(iter(_desks(collaboration, name).values()))
        models = models_of(collaboration.subtasks[name])
        smallest = min(models, key=lambda m: m.memory_mib or memory_mib(desk.fresh(m.name)))
        table.update(
            exchange="weights",
            models=[smallest.model_dump(exclude_none=True)],
            aggregation={"rule": "fedavg"},
        )
        for key in _NOT_PLAIN:
            table.pop(key, None)
    return validate(Collaboration, tables, "fedavg_smallest")


def from_summary(summary: Mapping[str, Any], name: str) -> Baseline:
    """Return what a run came to as a baseline of another."""
    entry = summary["subtasks"][name]
    own = {site: gain["own"] for site, gain in entry["gains"].items()}
    return Baseline(entry["collaboration"]["global"], own)


def scratch_folder() -> TemporaryDirectory[str]:
    """Return a folder for the run of a baseline; it goes when the block ends."""
    return TemporaryDirectory(prefix="consilium-baseline-")


def _desks(collaboration: Collaboration, name: str, folder: Path | None = None) -> dict[str, Desk]:
    """Return a desk a site with its preprocessing and, of the run in ``folder``, the upstream models."""
    subtask, above = describe(collaboration, name), {}
    if subtask.upstream and folder is not None:
        above = read_upstream(folder, [one.name for one in subtask.upstream])
        told = (one.model_copy(update={"settled": above[one.name][0]}) for one in subtask.upstream)
        subtask = subtask.model_copy(update={"upstream": tuple(told)})
    desks = {
        site: Desk(from_scenario(collaboration, site), SiteState(RecordDict()), subtask)
        for site in collaboration.sites_of(name)
    }
    statistics = merge([measure(desk.raw().train) for desk in desks.values()])
    ready = subtask.model_copy(update={"preprocessing": Preprocessing.fit(statistics).model_dump_json()})
    for desk in desks.values():
        for above_name, (settled, arrays) in above.items():
            desk.state.put(above_name, settled.digest, arrays, role=UPSTREAM)
    return {site: Desk(desk.site, desk.state, ready) for site, desk in desks.items()}


def _rows(desk: Desk, side: str) -> Rows:
    return desk.rows(getattr(desk.raw(), side))


def _union(desks: Mapping[str, Desk], side: str) -> Rows:
    parts = [_rows(desk, side) for desk in desks.values()]
    device = parts[0].x.device
    return Rows(torch.cat([p.x.to(device) for p in parts]), torch.cat([p.y.to(device) for p in parts]))


def _largest(desk: Desk, terms: SubtaskTerms) -> str:
    if terms.exchange == "soft_labels" and terms.distillation.student:
        return terms.distillation.student
    models = models_of(terms)
    return max(models, key=lambda m: m.memory_mib or memory_mib(desk.fresh(m.name))).name
