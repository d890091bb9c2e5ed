"""Measures of allocation over runs: time to all targets under censoring, the worst subtask, fairness.

A run is what ``allocation_runs.measure`` returns. ``value / target`` is a subtask's share of its target:
all metrics of the benchmark grow as they get better.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Run = Mapping[str, Any]
Floats = NDArray[np.float64]
LEVEL: Final = 0.95


@dataclass(frozen=True)
class Reached:
    """When every subtask was at its target, or the last moment at which it was seen that not all were."""

    at: float
    censored: bool


def reached(run: Run, key: str, targets: Mapping[str, float]) -> Reached:
    """Return the simulated seconds or the round (``key``) until all were at their targets."""
    found = [_first(entry["curve"], key, targets[name]) for name, entry in run["subtasks"].items()]
    if None in found:
        return Reached(float(run["simulated_s" if key == "simulated_s" else "rounds"]), censored=True)
    return Reached(max(at for at in found if at is not None), censored=False)


def _first(curve: Sequence[Mapping[str, Any]], key: str, target: float) -> float | None:
    return next((float(p[key]) for p in curve if p["value"] is not None and p["value"] >= target), None)


@dataclass(frozen=True)
class Survival:
    """Kaplan-Meier's estimate; ``median`` is None where fewer than half reached their targets.

    ``restricted_mean`` is the area under the curve up to ``horizon``: the mean of min(time, horizon).
    """

    median: float | None
    restricted_mean: float
    horizon: float
    events: int
    censored: int


def kaplan_meier(times: Sequence[Reached], horizon: float) -> Survival:
    """Return the product-limit estimate (Kaplan and Meier, JASA 1958) over runs censored on the right."""
    share, last, area, median = 1.0, 0.0, 0.0, None
    for at in sorted({x.at for x in times if not x.censored}):
        area += share * (min(at, horizon) - min(last, horizon))
        last = at
        at_risk = sum(x.at >= at for x in times)
        share *= 1.0 - sum(x.at == at and not x.censored for x in times) / at_risk
        if median is None and share <= 0.5 + 1e-9:  # a product of fractions that is a half may miss it
            median = at
    area += share * max(horizon - min(last, horizon), 0.0)
    events = sum(not x.censored for x in times)
    return Survival(median, area, horizon, events, len(times) - events)


def minimum_auc(run: Run, targets: Mapping[str, float], horizon_s: float) -> float:
    """Return the mean over time up to ``horizon_s`` of the worst subtask's share of its target, at most 1."""
    return _over_time(run, targets, horizon_s)[0]


def share_auc(run: Run, targets: Mapping[str, float], horizon_s: float) -> Floats:
    """Return each subtask's share of its target, at most 1, mean over the same time, in order of name."""
    return _over_time(run, targets, horizon_s)[1]


def _over_time(run: Run, targets: Mapping[str, float], horizon_s: float) -> tuple[float, Floats]:
    """A subtask has its last value until the next, and 0 before the first."""
    order = {name: k for k, name in enumerate(sorted(run["subtasks"]))}
    steps = sorted(
        (p["simulated_s"], order[name], min(p["value"] / targets[name], 1.0))
        for name, entry in run["subtasks"].items()
        for p in entry["curve"]
        if p["value"] is not None and p["simulated_s"] <= horizon_s
    )
    now_K, areas_K, worst, last = np.zeros(len(order)), np.zeros(len(order)), 0.0, 0.0
    for at, place, value in [*steps, (horizon_s, 0, 0.0)]:
        areas_K += now_K * (at - last)
        worst += float(now_K.min()) * (at - last)
        now_K[place], last = value, at
    return worst / horizon_s, areas_K / horizon_s


def final_shares(run: Run, targets: Mapping[str, float]) -> Floats:
    """Return each subtask's value on test rows over its target, in order of name."""
    return np.array([entry["test"] / targets[name] for name, entry in sorted(run["subtasks"].items())])


def jain(values: Floats) -> float:
    """Return (Σx)² / (n Σx²): 1 for equal values, 1/n for a single one above 0.

    Jain, Chiu and Hawe, DEC Research Report TR-301, 1984.
    """
    squares = float(np.square(values).sum())
    return float(values.sum()) ** 2 / (len(values) * squares) if squares else 1.0


@dataclass(frozen=True)
class Difference:
    """A mean of per-seed differences with its interval of 95 % (Student's t over seeds)."""

    mean: float
    low: float
    high: float
    better: int
    pairs: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def paired(a: Mapping[int, float], b: Mapping[int, float], *, lower: bool = False) -> Difference | None:
    """Return a − b over the seeds that both have; ``lower``: less is better. None without a seed."""
    differences = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    if not differences:
        return None
    mean, n = statistics.mean(differences), len(differences)
    spread = statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.inf
    half = float(student.ppf(0.5 + LEVEL / 2, n - 1)) * spread if n > 1 else math.inf
    better = sum(d < 0 if lower else d > 0 for d in differences)
    return Difference(mean, mean - half, mean + half, better, n)


def by_seed(runs: Sequence[Run], name: str, value: Callable[[Run], float]) -> dict[int, float]:
    """Return the figure of each seed's run of the policy that the tables call ``name``."""
    return {run["seed"]: value(run) for run in runs if run["name"] == name}


def bootstrap(
    values: Sequence[float], rng: np.random.Generator, draws: int = 10_000
) -> tuple[float, float, float]:
    """Return the mean over seeds and its percentile interval of 95 % (Efron, Annals of Statistics 1979)."""
    values_S = np.asarray(values, dtype=np.float64)
    means_D = values_S[rng.integers(0, len(values_S), (draws, len(values_S)))].mean(axis=1)
    low, high = np.quantile(means_D, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(values_S.mean()), float(low), float(high)
