"""Paired comparison of two models on the same rows, as sums that merge.

Shape suffixes: N rows, K outputs (classes, or 1). d is a's loss minus b's on one row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.metrics import PROBABILITY_FLOOR
from protocol.arrays import Arrays

Floats = NDArray[np.float64]

# The loss of one row whose mean a metric is (for ``rmse``: whose mean's root).
LOSSES: Mapping[str, str] = MappingProxyType(
    {"log_loss": "log_loss", "accuracy": "error", "rmse": "squared_error", "mae": "absolute_error"}
)


def compare(a_NK: Floats, b_NK: Floats, y_N: NDArray[Any]) -> dict[str, Floats]:
    """Return n [1] and, for each loss, Σd and Σd² [2]. ``b_NK`` may be one row for all."""
    sums: dict[str, Floats] = {"n": np.array([float(len(y_N))])}
    for name, function in (_CLASSES if a_NK.shape[1] > 1 else _VALUE).items():
        d_N = function(a_NK, y_N) - function(np.broadcast_to(b_NK, a_NK.shape), y_N)
        sums[name] = np.array([d_N.sum(), np.square(d_N).sum()])
    return sums


def difference(sums: Arrays, loss: str) -> tuple[float, float]:
    """Return the mean of d and its standard error; the error is infinite below two rows."""
    n, (total, squares) = float(sums["n"][0]), sums[loss]
    if n < 2:
        return (float(total) / n if n else 0.0), math.inf
    mean = float(total) / n
    variance = max(0.0, (float(squares) - n * mean**2) / (n - 1))
    return mean, math.sqrt(variance / n)


def beats(sums: Arrays, losses: tuple[str, ...], standard_errors: float = 2.0) -> bool:
    """Return whether a is better than b by that many standard errors in every one of ``losses``.

    Without rows (``sums`` is empty) nothing is better than anything.
    """
    if not sums:
        return False
    found = [difference(sums, loss) for loss in losses]
    return all(mean + standard_errors * error < 0 for mean, error in found)


def _log_loss(p_NC: Floats, y_N: NDArray[Any]) -> Floats:
    chosen_N = p_NC[np.arange(len(y_N)), y_N.astype(np.int64)]
    loss_N: Floats = -np.log(np.clip(chosen_N, PROBABILITY_FLOOR, 1.0))
    return loss_N


def _error(p_NC: Floats, y_N: NDArray[Any]) -> Floats:
    wrong_N: Floats = (p_NC.argmax(axis=1) != y_N).astype(np.float64)
    return wrong_N


def _squared(z_N1: Floats, y_N: NDArray[Any]) -> Floats:
    squared_N: Floats = np.square(z_N1[:, 0] - y_N)
    return squared_N


def _absolute(z_N1: Floats, y_N: NDArray[Any]) -> Floats:
    absolute_N: Floats = np.abs(z_N1[:, 0] - y_N)
    return absolute_N


_CLASSES = {"log_loss": _log_loss, "error": _error}
_VALUE = {"squared_error": _squared, "absolute_error": _absolute}
