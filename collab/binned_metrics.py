"""Metrics that need more than sums per example, made mergeable by histograms with fixed bins.

AUROC is the chance that an example of a class scores above one of another class. Over 1,024 bins
of log-odds it errs by at most half the chance that two such examples share a bin. ECE is binned
by definition (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

Legend of shapes: N examples, C classes, B bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

AUROC_BINS = 1024
# Log-odds beyond these count as these: probabilities from 3e-7 to 1 - 3e-7 are told apart.
LOG_ODDS_LIMIT = 15.0
ECE_BINS = 15


def score_histograms(probabilities_NC: Floats, y_N: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Histogram the log-odds of each class, [C, B], apart for its examples and for all others."""
    num_examples, classes = probabilities_NC.shape
    edge = 1.0 / (1.0 + np.exp(LOG_ODDS_LIMIT))
    clipped_NC = np.clip(probabilities_NC, edge, 1.0 - edge)
    log_odds_NC = np.log(clipped_NC) - np.log1p(-clipped_NC)
    bins_NC = ((log_odds_NC + LOG_ODDS_LIMIT) * (AUROC_BINS / (2 * LOG_ODDS_LIMIT))).astype(np.int64)
    bins_NC = np.clip(bins_NC, 0, AUROC_BINS - 1) + np.arange(classes) * AUROC_BINS
    own_N = bins_NC[np.arange(num_examples), y_N]
    size = classes * AUROC_BINS
    positives_CB = np.bincount(own_N, minlength=size).reshape(classes, AUROC_BINS).astype(np.float64)
    all_CB = np.bincount(bins_NC.ravel(), minlength=size).reshape(classes, AUROC_BINS)
    return positives_CB, all_CB - positives_CB


def auroc(positives_CB: NDArray[Any], negatives_CB: NDArray[Any]) -> float | None:
    """Macro one-vs-rest over the classes with both kinds of example; a tie within a bin counts 1/2."""
    below_CB = np.cumsum(negatives_CB, axis=1) - negatives_CB
    wins_C = (positives_CB * (below_CB + 0.5 * negatives_CB)).sum(axis=1)
    pairs_C = positives_CB.sum(axis=1) * negatives_CB.sum(axis=1)
    defined_C = pairs_C > 0
    return float((wins_C[defined_C] / pairs_C[defined_C]).mean()) if defined_C.any() else None


def calibration(confidence_N: Floats, correct_N: NDArray[np.bool_]) -> Floats:
    """Return count, confidence and correctness, [3, B], summed over the bins (0, 1/15], ..., (14/15, 1]."""
    bins_N = np.clip(np.ceil(confidence_N * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    weights = (np.ones_like(confidence_N), confidence_N, correct_N.astype(np.float64))
    sums = [np.bincount(bins_N, weights=w, minlength=ECE_BINS) for w in weights]
    return np.stack(sums).astype(np.float64)  # of no rows numpy counts in integers, weights or not


def expected_calibration_error(calibration_3B: NDArray[Any]) -> float:
    """Return Σ over bins of |correct − confidence| / N; the sums must hold at least one example."""
    count_B, confidence_B, correct_B = calibration_3B
    return float(np.abs(correct_B - confidence_B).sum() / count_B.sum())
