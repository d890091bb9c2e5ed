"""What a run came to, as the dictionary that ``summary.json``, the report and the table are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from collab.collaboration import metric_of
from collab.metrics import is_better
from collab.terms import SubtaskTerms, wire_of
from protocol.errors import DataError
from server import measured
from server.conductor import Conductor
from server.coverage import statements
from server.finale import Outcome
from server.soft_label_learner import SoftLabelLearner

FILE_NAME = "summary.json"
SCHEMA = 1
_MAX_BYTES = 256 * 2**20

Json = dict[str, Any]


def build_summary(
    conductor: Conductor, outcomes: Mapping[str, Outcome], *, engine: str, wall_s: float, ended: str
) -> Json:
    """Return the summary of a run; what needs data that the server has not is filled in by a simulation."""
    c, machine = conductor.collaboration, conductor.machine
    accounts = conductor.courier.accounts
    up, down = sum(a.bytes_up for a in accounts.values()), sum(a.bytes_down for a in accounts.values())
    return {
        "schema": SCHEMA,
        "run_id": conductor.run,
        "name": c.name,
        "engine": engine,
        "seed": c.seed,
        "rounds": machine.round,
        "ended": ended,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "versions": {name: _version(name) for name in ("consilium", "flwr", "torch", "numpy")},
        "subtasks": {name: _subtask(conductor, name, outcomes[name]) for name in sorted(c.subtasks)},
        "sites": {site: _site(conductor, site, outcomes) for site in sorted(accounts)},
        "totals": {
            "bytes": up + down,
            "bytes_up": up,
            "bytes_down": down,
            "simulated_s": conductor.courier.now_s,
            "wall_s": wall_s,
        },
        "allocations": _allocations(conductor),
        "coverage": [one.as_json() for one in statements(machine, c)],
        "notes": conductor.notes,
    }


def set_baseline(
    summary: Json,
    subtask: str,
    name: str,
    measured: Mapping[str, float | None],
    own: Mapping[str, float | None],
) -> None:
    """Put a baseline that a simulation measured into the summary: global, own, and own at each site."""
    entry = summary["subtasks"][subtask]
    entry["baselines"][name] = dict(measured)
    for site, value in own.items():
        if site in entry["gains"]:
            entry["gains"][site][name] = value


def as_text(value: Json) -> str:
    """Return ``value`` as JSON without NaN."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def write_json(value: Json, path: Path) -> None:
    """Write ``value`` as JSON without NaN, whole or not at all."""
    draft = path.with_suffix(".part")
    draft.write_text(as_text(value), encoding="utf-8")
    draft.replace(path)


def read_summary(folder: Path) -> Json:
    """Return the summary of a run's folder; ``DataError`` if there is none that can be read."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the folder of a run that has ended")
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path}: larger than a summary can be")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{path}: is not JSON") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise DataError(f"{path}: is not a summary of schema {SCHEMA}")
    return value


def _subtask(conductor: Conductor, name: str, outcome: Outcome) -> Json:
    c = conductor.collaboration
    terms, metric = c.subtasks[name], metric_of(c.subtasks[name])
    learner = conductor.learners[name]
    curve = [asdict(point) for point in conductor.curves.get(name, [])]
    reached = _reached(metric, terms.target, curve)
    final = outcome.merged("final")
    return {
        "kind": terms.kind,
        "metric": metric,
        "exchange": terms.exchange,
        "methods": _chosen(terms),
        "global_model": _has_global(terms),
        "importance": terms.importance,
        "target": terms.target,
        "collaboration": {"global": final.get(metric), "own": measured.mean(outcome, "own", metric)},
        "collaboration_metrics": {"global": final, "own": measured.means(outcome, "own")},
        "fusion": {
            "rule": outcome.rule,
            "weights": outcome.weights(),
            "global": outcome.merged("fused").get(metric),
            "metrics": outcome.merged("fused"),
        },
        "calibration": measured.calibration(outcome, learner.temperature),
        "baselines": measured.alone(outcome, metric),
        "gains": {
            site: {
                "own": outcome.at(site, "own").get(metric),
                "alone": outcome.at(site, "alone").get(metric),
                "standard_error": outcome.standard_error(site, metric),
                "test_examples": measured.examples(outcome, site),
            }
            for site in sorted(outcome.sites)
        },
        "models": dict(learner.prepared.models),
        "rounds_to_target": reached and reached["round"],
        "seconds_to_target": reached and reached["simulated_s"],
        "student": _student(learner) if isinstance(learner, SoftLabelLearner) else None,
        "curve": curve,
    }


def _chosen(terms: SubtaskTerms) -> dict[str, str | None]:
    """Return the names of the methods that took part; None where there is none."""
    weights = terms.exchange == "weights"
    votes = terms.soft_labels if not weights or terms.distillation.ensemble else None
    return {
        "composition": terms.composition,
        "wire": wire_of(terms).form,
        "aggregation": terms.aggregation.rule if weights else None,
        "architectures": terms.architectures if weights else None,
        "personal": terms.personal.rule if terms.personal else None,
        "combine": votes.combine.rule if votes else None,
    }


def _has_global(terms: SubtaskTerms) -> bool:
    """Say whether the method makes a global model, even if this run came to none."""
    keeps = terms.personal is not None and terms.personal.keeps_layers
    return terms.exchange != "prototypes" and not keeps


def _site(conductor: Conductor, site: str, outcomes: Mapping[str, Outcome]) -> Json:
    account = conductor.courier.accounts[site]
    asked = sum(row["site"] == site for row in _allocations(conductor))
    own = {n: o.at(site, "own") for n, o in sorted(outcomes.items()) if site in o.sites}
    alone = {n: o.at(site, "alone") for n, o in sorted(outcomes.items()) if site in o.sites}
    return {
        "assignments": asked,
        "bytes_up": account.bytes_up,
        "bytes_down": account.bytes_down,
        "simulated_s": account.seconds,
        "metrics": {n: {"own": own[n], "alone": alone[n] or None} for n in own},
    }


def _allocations(conductor: Conductor) -> list[Json]:
    rows = []
    for cohort in [*conductor.machine.history, *conductor.machine.cohorts.values()]:
        for task in cohort.tasks.values():
            row = task.send.model_dump(
                include={"round", "attempt", "site", "subtask", "model", "score", "reason"}
            )
            seconds = None if task.answered_s is None else task.answered_s - cohort.opened_s
            rows.append(row | {"outcome": task.outcome, "detail": task.detail, "seconds": seconds})
            if len(cohort.group) > 1:
                rows[-1]["together"] = list(task.of)
    return sorted(rows, key=lambda r: (r["round"], r["subtask"], r["site"], r["attempt"]))


def _reached(metric: str, target: float | None, curve: list[Json]) -> Json | None:
    def good(value: float | None) -> bool:
        return (
            value is not None and target is not None and (value == target or is_better(metric, value, target))
        )

    return next((point for point in curve if good(point["value"])), None)


def _student(learner: SoftLabelLearner) -> Json:
    student = learner.student
    return {
        "accepted": student is not None,
        "model": learner.terms.student,
        "temperature": str(student.sharpening) if student else None,
        "round": student.round if student else None,
        "validation": student.validation if student else None,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
