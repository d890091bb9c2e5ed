"""The objective over all subtasks, Σ λ_k f_k^α, and what its gradient says about each.

f_k is a subtask's validation loss over that of the best constant answer on the same rows (class
frequencies, or the mean), so losses of unlike tasks share a scale: 1 has learnt nothing, 0 is perfect.
α = 1 is the plain sum; a larger α counts the worst subtask for more, and α → ∞ is min-max. The
derivative after f_k is α λ_k f_k^(α-1): that is a subtask's weight in allocation. After Siew et al.,
"Fair Training of Multiple Federated Learning Models on Resource Constrained Network Devices"
(FedFairMMFL), IEEE/ACM ToN 2025, arXiv 2404.13841.

A subtask that has a target is done once it is there, and what counts of it is the way that is left:
f_k is then the distance of its metric to the target over that of the best constant answer. A loss that
cannot fall much further, as where labels are noisy, would else claim the sites for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from collab import metrics
from protocol.arrays import Arrays

# A loss above this share of the constant answer's is a model that diverged; more would drown the others.
WORST = 10.0
# And a metric that is further from its target than the constant answer's by as much again is as bad.
WORST_WAY = 2.0
# A subtask that is solved keeps a little weight: 0 to a power is no weight at all.
BEST = 1e-3
# How much of the last value stays: one round's validation is noisy.
SMOOTHING = 0.7
_LEAST = 1e-9


def fair_weight(loss: float, alpha: float) -> float:
    """Return f^(α-1) for f = ``loss``; 1 whatever the loss for α = 1."""
    return float(min(max(loss, BEST), WORST) ** (alpha - 1.0))


def total(importances: Mapping[str, float], losses: Mapping[str, float], alpha: float) -> float:
    """Return Σ λ_k f_k^α over the subtasks that were measured."""
    return float(sum(importances[k] * min(max(f, 0.0), WORST) ** alpha for k, f in losses.items()))


def smoothed(before: float | None, now: float) -> float:
    """Return the smoothed f_k; the first value counts in full."""
    now = min(max(now, 0.0), WORST)
    return now if before is None else SMOOTHING * before + (1.0 - SMOOTHING) * now


def to_go(metric: str, value: float | None, target: float | None, constant: float | None) -> float | None:
    """Return what is left of the way from the constant answer's ``constant`` to ``target``.

    It is 0 at the target and beyond, 1 at the constant answer, and ``WORST_WAY`` at most.

    None where one of the figures is not known, or the constant answer is already at the target.
    """
    if value is None or target is None or constant is None or not metrics.is_better(metric, target, constant):
        return None
    return min(max((value - target) / (constant - target), 0.0), WORST_WAY)


def is_there(metric: str, value: float | None, target: float | None) -> bool:
    """Return whether ``value`` is as good as ``target``; never where one of them is not known."""
    if value is None or target is None:
        return False
    return value == target or metrics.is_better(metric, value, target)


def constant_metrics(merged: Arrays) -> dict[str, float]:
    """Return what the best constant answer on these rows has of each metric, where that can be told.

    For a classification it answers the class frequencies, which name the most frequent class.
    """
    rows = metrics.num_examples(merged)
    if not rows:
        return {}
    if "log_loss" not in merged:
        return {"rmse": math.sqrt(_constant(merged, rows)), "r2": 0.0}
    counts_C = merged["confusion"].sum(axis=1)
    seen, most = int((counts_C > 0).sum()), float(counts_C.max() / counts_C.sum())
    return {
        "accuracy": most,
        "balanced_accuracy": 1.0 / seen,
        "auroc": 0.5,
        "f1": 2.0 * most / (1.0 + most) / seen,
        "log_loss": _constant(merged, rows),
    }


def worth_of(sites: int) -> float:
    """Return what a cohort of ``sites`` equal sites is worth over a single one: Σ 1/j.

    A further site makes a mean of updates less noisy by less and less: what it adds is taken to be its
    part of the mean, 1/j for the j-th. So gains of cohorts of unlike sizes can be compared.
    """
    return sum(1.0 / j for j in range(1, sites + 1))


def relative_losses(merged: Arrays, of_site: Mapping[str, Arrays]) -> tuple[float | None, dict[str, float]]:
    """Return f_k of merged statistics, and each site's mean loss over the same reference.

    The reference is the loss of the best constant answer on all rows: entropy in nats for a
    classification, variance for a regression. Where all rows have one label it is ln 2, as for a coin.
    Without rows the first is None.
    """
    rows = metrics.num_examples(merged)
    if not rows:
        return None, {}
    reference = _constant(merged, rows)
    found = {site: _mean_loss(stats) / reference for site, stats in of_site.items()}
    return min(_mean_loss(merged) / reference, WORST), {s: min(f, WORST) for s, f in found.items()}


def _mean_loss(statistics: Arrays) -> float:
    name = "log_loss" if "log_loss" in statistics else "squared_error"
    return float(statistics[name][0]) / max(metrics.num_examples(statistics), 1)


def _constant(statistics: Arrays, rows: int) -> float:
    if "log_loss" in statistics:
        counts_C = statistics["confusion"].sum(axis=1)
        shares_C = counts_C[counts_C > 0] / counts_C.sum()
        entropy = float(-(shares_C * np.log(shares_C)).sum())
        return entropy if entropy > _LEAST else float(np.log(2.0))
    total, squares = (float(value) for value in statistics["target"])
    variance = squares / rows - (total / rows) ** 2
    return variance if variance > _LEAST * max(squares / rows, _LEAST) else 1.0
