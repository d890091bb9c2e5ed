"""Say "none of these": a threshold under the surest label, chosen by sums over the sites' validation rows.

A row is out of scope if the confidence of its first choice is below the threshold. In-scope rows tell
in sums how many would be right at each threshold, out-of-scope rows how many would be refused; sums
merge, so no site shows a row. Thresholds are bins of log-odds, fine where models are sure.

    An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction
        Stefan Larson et al. EMNLP-IJCNLP 2019.

Legend of shapes: N rows, C labels, B thresholds.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import Arrays, ArraySpec, check, check_finite
from protocol.errors import ArraysError, ConfigError

Floats = NDArray[np.float64]
Criterion = Literal["accuracy", "balanced"]

OUTSIDE: Final = -1
_LIMIT: Final = 12.0
_NUM_BINS: Final = 961  # a quarter of a tenth of log-odds each


def thresholds() -> Floats:
    """Return the confidences that may be a threshold, ascending [B]; the first, 0, refuses nothing."""
    return np.concatenate([[0.0], 1.0 / (1.0 + np.exp(-np.linspace(-_LIMIT, _LIMIT, _NUM_BINS - 1)))])


def statistics(
    confidence_N: NDArray[Any], right_N: NDArray[Any], outside_N: NDArray[Any]
) -> dict[str, Floats]:
    """Return a site's sums [B] over its validation rows.

    Args:
        confidence_N: of the first choice among the labels, 0 to 1.
        right_N: whether that choice is right; not looked at where ``outside_N``.
        outside_N: whether the row is out of scope.

    Returns:
        ``right`` and ``refused``: in-scope rows right, and out-of-scope rows refused, at each threshold;
        ``rows`` [2]: how many rows are in scope and out of it.

    Raises:
        ArraysError: shapes do not match, or a confidence is not between 0 and 1.
    """
    confidence_N, outside_N = np.asarray(confidence_N, np.float64), np.asarray(outside_N, np.bool_)
    right_N = np.asarray(right_N, np.bool_) & ~outside_N
    if confidence_N.ndim != 1 or not confidence_N.shape == right_N.shape == outside_N.shape:
        raise ArraysError(f"confidences have shape {confidence_N.shape}, rows {outside_N.shape}")
    check_finite({"confidences": confidence_N})
    if ((confidence_N < 0.0) | (confidence_N > 1.0 + 1e-9)).any():
        raise ArraysError("a confidence is not between 0 and 1")
    return {
        "right": right_N.sum() - _below(confidence_N[right_N]),
        "refused": _below(confidence_N[outside_N]),
        "rows": np.array([float((~outside_N).sum()), float(outside_N.sum())]),
    }


def spec() -> dict[str, ArraySpec]:
    """Return what a site's sums look like."""
    shape = thresholds().shape
    each = {name: ArraySpec(shape, "float64") for name in ("right", "refused")}
    return {**each, "rows": ArraySpec((2,), "float64")}


def check_statistics(found: Arrays, rows: int) -> None:
    """Raise ``ArraysError`` for sums that a site's ``rows`` validation rows cannot have."""
    check(found, spec())
    check_finite(found)
    inside, outside = found["rows"]
    sound = inside >= 0 and outside >= 0 and inside + outside == rows
    # A higher threshold refuses more: fewer rows in scope are right, more outside are refused.
    falls = (np.diff(found["right"]) <= 0).all() and (np.diff(found["refused"]) >= 0).all()
    bounded = found["right"].min() >= 0 and found["right"].max() <= inside
    if not (
        sound and falls and bounded and found["refused"].min() >= 0 and found["refused"].max() <= outside
    ):
        raise ArraysError("sums of refusals are not those of the site's rows")


def fit(merged: Arrays, criterion: Criterion) -> float:
    """Return the threshold that is best on the merged rows, the lowest of equals.

    Args:
        merged: the sum of the sites' statistics.
        criterion: "accuracy" over all rows, as published; or "balanced", the mean of the accuracy in scope
            and the recall out of scope, which does not depend on how many rows of each there are.

    Raises:
        ArraysError: the sums have other shapes, or there are no rows on one side.
        ConfigError: another criterion.
    """
    check(merged, spec())
    inside, outside = (float(n) for n in merged["rows"])
    if min(inside, outside) < 1:
        raise ArraysError("a threshold needs validation rows in scope and out of scope")
    if criterion == "accuracy":
        score_B = merged["right"] + merged["refused"]
    elif criterion == "balanced":
        score_B = merged["right"] / inside + merged["refused"] / outside
    else:
        raise ConfigError(f"criterion is '{criterion}', allowed: accuracy, balanced")
    return float(thresholds()[int(np.argmax(score_B))])


def decide(probabilities_NC: NDArray[Any], threshold: float) -> NDArray[np.int64]:
    """Return each row's label, or ``OUTSIDE`` where the surest is below the threshold."""
    choice_N = np.asarray(probabilities_NC).argmax(axis=1)
    confidence_N = np.asarray(probabilities_NC).max(axis=1)
    return np.where(confidence_N < threshold, OUTSIDE, choice_N).astype(np.int64)


def _below(confidence_N: Floats) -> Floats:
    """Return how many confidences lie below each threshold [B]."""
    return np.searchsorted(np.sort(confidence_N), thresholds(), side="left").astype(np.float64)
