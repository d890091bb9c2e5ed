"""Metrics as statistics that merge by addition, so the average over sites is right by construction.

A site computes sums on its own rows; whoever merges them adds the arrays and summarises once.
Ratios (recall, F1, R²) and ranks (AUROC) are thus those of the union of rows, not means of the
sites' figures. Legend of shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab import binned_metrics as binned
from collab.plugins import unknown
from protocol.arrays import Arrays, ArraySpec, Spec, check_finite, check_spec, spec_of
from protocol.errors import ArraysError, ConfigError, DataError

Floats = NDArray[np.float64]

METRICS: Mapping[str, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "auroc", "f1", "log_loss", "ece"),
    "regression": ("rmse", "mae", "r2"),
}
LOWER_IS_BETTER = frozenset({"log_loss", "ece", "rmse", "mae"})

# A lower probability counts as this in the log loss: a softmax that underflowed costs 16 nats, not infinity.
PROBABILITY_FLOOR = 1e-7
# Below this share of the raw second moment the targets' variance is rounding error.
_RELATIVE_VARIANCE_FLOOR = 1e-12
# Sums beyond this are no measurement, and adding them would overflow.
_LARGEST_SUM = 1e200


def is_better(metric: str, a: float, b: float) -> bool:
    """Return whether ``a`` is strictly better than ``b``; ``ConfigError`` if nothing is called ``metric``."""
    known = {name for names in METRICS.values() for name in names}
    if metric not in known:
        raise ConfigError(unknown(f"metric '{metric}'", metric, known))
    return a < b if metric in LOWER_IS_BETTER else a > b


def statistics_spec(output: str, classes: int) -> Spec:
    """Return what the statistics of a "classification" of C ``classes``, or a "regression", look like."""
    histogram = (classes, binned.AUROC_BINS)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "regression": {"squared_error": (2,), "absolute_error": (1,), "target": (2,)},
        "classification": {
            "confusion": (classes, classes),
            "log_loss": (2,),
            "calibration": (3, binned.ECE_BINS),
            "auroc_positives": histogram,
            "auroc_negatives": histogram,
        },
    }
    if output not in shapes:
        raise ConfigError(unknown(f"output '{output}'", output, shapes))
    found = {"num_examples": (1,), **shapes[output]}
    return {name: ArraySpec(shape, "float64") for name, shape in found.items()}


def classification_statistics(probabilities_NC: NDArray[Any], y_N: NDArray[Any]) -> dict[str, Floats]:
    """Return the sums that every metric of a classifier follows from; N may be 0.

    Args:
        probabilities_NC: rows that sum to 1.
        y_N: integer labels, 0 to C - 1.

    Returns:
        ``num_examples`` [1]; ``confusion`` [C, C], true class first; ``log_loss`` [2], sum and sum
        of squares in nats; ``calibration`` and ``auroc_*`` as in ``binned_metrics``.

    Raises:
        ArraysError: shapes do not match or a probability is not finite.
        DataError: a label is not one of the C classes.
    """
    probabilities_NC, y_N = np.asarray(probabilities_NC, np.float64), np.asarray(y_N)
    _check_classification(probabilities_NC, y_N)
    (rows, classes), y_N = probabilities_NC.shape, y_N.astype(np.int64)
    predicted_N = probabilities_NC.argmax(axis=1)
    confusion = np.bincount(y_N * classes + predicted_N, minlength=classes * classes)
    loss_N = -np.log(np.clip(probabilities_NC[np.arange(rows), y_N], PROBABILITY_FLOOR, 1.0))
    positives_CB, negatives_CB = binned.score_histograms(probabilities_NC, y_N)
    return {
        "num_examples": np.array([rows], np.float64),
        "confusion": confusion.reshape(classes, classes).astype(np.float64),
        "log_loss": _sum_and_squares(loss_N),
        "calibration": binned.calibration(probabilities_NC.max(axis=1), predicted_N == y_N),
        "auroc_positives": positives_CB,
        "auroc_negatives": negatives_CB,
    }


def regression_statistics(predictions_N: NDArray[Any], y_N: NDArray[Any]) -> dict[str, Floats]:
    """Return the sums that every metric of a regression follows from; N may be 0.

    Returns:
        ``num_examples`` [1] and ``absolute_error`` [1]; of ``squared_error`` and ``target`` the sum
        and the sum of squares, [2].

    Raises:
        ArraysError: shapes differ, are not [N], or a value is not finite.
    """
    predictions_N, y_N = np.asarray(predictions_N, np.float64), np.asarray(y_N, np.float64)
    if predictions_N.ndim != 1 or predictions_N.shape != y_N.shape:
        raise ArraysError(f"predictions {predictions_N.shape} and targets {y_N.shape} must both be [N]")
    check_finite({"predictions": predictions_N, "targets": y_N})
    error_N = predictions_N - y_N
    return {
        "num_examples": np.array([len(y_N)], np.float64),
        "squared_error": _sum_and_squares(np.square(error_N)),
        "absolute_error": np.array([np.abs(error_N).sum()]),
        "target": _sum_and_squares(y_N),
    }


def target_moments(statistics: Arrays) -> tuple[float, float] | None:
    """Return mean and standard deviation of a regression's target; None if there is none that varies."""
    if "target" not in statistics or num_examples(statistics) < 2:
        return None
    total, squares = statistics["target"]
    mean = float(total) / num_examples(statistics)
    deviation = float(np.sqrt(max(float(squares) / num_examples(statistics) - mean**2, 0.0)))
    return (mean, deviation) if deviation > 1e-9 * max(1.0, abs(mean)) else None


def merge(statistics: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Return the sum of ``statistics``, added in the order given; ``{}`` for none.

    Raises:
        ArraysError: two of them have other names, shapes or dtypes.
    """
    if not statistics:
        return {}
    merged = {name: array.copy() for name, array in statistics[0].items()}
    for other in statistics[1:]:
        check_spec(other, spec_of(merged))
        for name in merged:
            merged[name] += other[name]
    return merged


def num_examples(statistics: Arrays) -> int:
    """Return how many examples ``statistics`` sum over; 0 for the empty merge."""
    return round(float(statistics["num_examples"][0])) if statistics else 0


def check_sums(statistics: Arrays, expected: int) -> None:
    """Refuse statistics that no rows can have, once their shapes have been checked.

    Raises:
        ArraysError: other than ``expected`` examples, a negative sum of what cannot be negative, or a
            log loss beyond what the probability floor allows.
    """
    n = num_examples(statistics)
    if n != expected:
        raise ArraysError(f"statistics are of {n} examples, the message says {expected}")
    for name, array in statistics.items():
        signed = array[1:] if name == "target" else array
        if (signed < 0).any() or (array > _LARGEST_SUM).any():
            raise ArraysError(f"statistics '{name}' hold a sum that no rows have")
    if "confusion" in statistics:
        worst = -np.log(PROBABILITY_FLOOR)
        if statistics["confusion"].sum() != n or statistics["log_loss"][0] > 1.001 * n * worst:
            raise ArraysError("statistics of a classifier do not fit its number of examples")


def summarise(statistics: Arrays) -> dict[str, float]:
    """Return the metrics by name; one that is undefined on these rows is left out, never NaN."""
    if num_examples(statistics) < 1:
        return {}
    if "confusion" in statistics:
        return _summarise_classification(statistics)
    return _summarise_regression(statistics)


def mean_and_se(statistics: Arrays, metric: str) -> tuple[float, float]:
    """Return the mean over examples of the loss or score behind ``metric``, and its standard error.

    For ``rmse`` this is the squared error: a root of a mean has no standard error of its own.
    The error is infinite below two examples, so nothing is ever concluded from one.

    Raises:
        ConfigError: ``metric`` is not the mean of a quantity per example, or not of these statistics.
        DataError: there are no examples.
    """
    sums = _sums_per_example(statistics)
    if metric not in sums:
        raise ConfigError(unknown(f"mean per example '{metric}'", metric, sums))
    count = num_examples(statistics)
    if count < 1:
        raise DataError(f"no examples: '{metric}' is undefined without any")
    total, squares = sums[metric]
    mean = total / count
    variance = max(squares / count - mean**2, 0.0)
    return mean, float(np.sqrt(variance / (count - 1))) if count > 1 else float("inf")


def _check_classification(probabilities_NC: Floats, y_N: NDArray[Any]) -> None:
    if probabilities_NC.ndim != 2 or y_N.shape != probabilities_NC.shape[:1]:
        raise ArraysError(f"probabilities {probabilities_NC.shape}, labels {y_N.shape}: not [N, C] and [N]")
    check_finite({"probabilities": probabilities_NC})
    classes = probabilities_NC.shape[1]
    if y_N.size and (y_N.dtype.kind not in "iu" or y_N.min() < 0 or y_N.max() >= classes):
        raise DataError(f"labels must be integers from 0 to {classes - 1}")


def _summarise_classification(statistics: Arrays) -> dict[str, float]:
    confusion, count = statistics["confusion"], float(statistics["num_examples"][0])
    hits_C, true_C, predicted_C = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    seen_C, either_C = true_C > 0, true_C + predicted_C > 0
    found = {
        "accuracy": hits_C.sum() / count,
        "balanced_accuracy": _mean(hits_C[seen_C] / true_C[seen_C]),
        "auroc": binned.auroc(statistics["auroc_positives"], statistics["auroc_negatives"]),
        "f1": _mean(2 * hits_C[either_C] / (true_C + predicted_C)[either_C]),
        "log_loss": statistics["log_loss"][0] / count,
        "ece": binned.expected_calibration_error(statistics["calibration"]),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _summarise_regression(statistics: Arrays) -> dict[str, float]:
    count, residual = float(statistics["num_examples"][0]), float(statistics["squared_error"][0])
    found = {"rmse": float(np.sqrt(residual / count)), "mae": float(statistics["absolute_error"][0]) / count}
    total, squares = (float(value) for value in statistics["target"])
    spread = squares - total**2 / count
    if spread > _RELATIVE_VARIANCE_FLOOR * squares:
        found["r2"] = 1.0 - residual / spread
    return found


def _sum_and_squares(values_N: Floats) -> Floats:
    return np.array([values_N.sum(), np.square(values_N).sum()])


def _sums_per_example(statistics: Arrays) -> dict[str, tuple[float, float]]:
    """Return (sum, sum of squares) of each metric that is a mean over examples."""
    if "confusion" in statistics:
        hits = float(np.trace(statistics["confusion"]))
        loss, squares = statistics["log_loss"]
        return {"accuracy": (hits, hits), "log_loss": (float(loss), float(squares))}
    if "squared_error" in statistics:
        squared, fourth = (float(value) for value in statistics["squared_error"])
        return {"mae": (float(statistics["absolute_error"][0]), squared), "rmse": (squared, fourth)}
    return {}


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None
