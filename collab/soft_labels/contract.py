"""What every soft-label combination is: the sites' opinions on the public rows become one.

Legend of shapes: N public rows, C classes. A site abstains from a class that it never saw: that
class then leaves the numerator and the denominator, because a model's probability for a class it
was never shown says nothing, and least of all 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import check_finite
from protocol.errors import ArraysError, RunError

Floats = NDArray[np.float64]

# How far from 1 a row may sum after float16 or 8-bit quantisation on the way.
ROW_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """One site's opinion.

    Attributes:
        probabilities_NC: rows that sum to 1; see ``check_soft_labels``.
        class_counts_C: the site's train rows a class, as far as its egress rules tell: exact,
            rounded, or 1 for any. 0 abstains.

    Raises:
        ArraysError: there is not one finite count from 0 up for each column.
    """

    probabilities_NC: NDArray[Any] = field(repr=False)
    class_counts_C: Floats = field(repr=False)

    def __post_init__(self) -> None:
        counts_C = self.class_counts_C
        if self.probabilities_NC.ndim != 2 or counts_C.shape != self.probabilities_NC.shape[1:]:
            shapes = f"{self.probabilities_NC.shape} and class counts {counts_C.shape}"
            raise ArraysError(f"soft labels have shape {shapes}, expected [N, C] and [C]")
        if not (np.isfinite(counts_C) & (counts_C >= 0)).all():
            raise ArraysError("class counts must be finite and not negative")


class SoftLabelRule(Protocol):
    """A module of this folder, or an institution's own under ``soft_labels.NAME``.

    Laws, checked for every rule: rows sum to 1; equal votes come back as they are; a class from
    which all abstain gets no mass; a vote moves no ratio between classes from which it abstains;
    the order of votes does not matter; inputs are not changed.
    """

    def combine(self, votes: Sequence[SoftLabels]) -> NDArray[np.float32]:
        """Return the combined soft labels [N, C]."""
        ...


def check_soft_labels(probabilities_NC: NDArray[Any], rows: int, classes: int) -> None:
    """Raise ``ArraysError`` unless this is [rows, classes], floating, in [0, 1], rows summing to 1."""
    if probabilities_NC.shape != (rows, classes):
        raise ArraysError(f"soft labels have shape {probabilities_NC.shape}, expected {(rows, classes)}")
    if probabilities_NC.dtype.kind != "f":
        raise ArraysError(f"soft labels have dtype {probabilities_NC.dtype}, expected floating point")
    check_finite({"soft labels": probabilities_NC})
    if ((probabilities_NC < 0) | (probabilities_NC > 1)).any():
        raise ArraysError("soft labels hold values outside 0 to 1")
    off_N = np.abs(probabilities_NC.sum(axis=1, dtype=np.float64) - 1.0) > ROW_SUM_TOLERANCE
    if off_N.any():
        raise ArraysError(f"soft labels of {int(off_N.sum())} of {rows} rows do not sum to 1")


def combine_weighted(votes: Sequence[SoftLabels], weights_per_vote: Iterable[Floats]) -> NDArray[np.float32]:
    """Return the weighted mean of each class over the votes, its rows then scaled to sum to 1.

    A class without any weight gets no mass. A row whose votes put all their mass on classes from
    which they abstain says nothing: it becomes uniform over the classes that have weight, or over
    all if none has.

    Args:
        votes: at least one, all [N, C].
        weights_per_vote: for each vote its weights [C], 0 where it abstains.

    Raises:
        RunError: there is no vote.
        ArraysError: votes differ in shape.
    """
    if not votes:
        raise RunError("no site gave soft labels: nothing to combine")
    shape = votes[0].probabilities_NC.shape
    sum_NC, weight_C = np.zeros(shape), np.zeros(shape[1])
    for vote, weights_C in zip(votes, weights_per_vote, strict=True):
        if vote.probabilities_NC.shape != shape:
            raise ArraysError(f"soft labels have shape {vote.probabilities_NC.shape}, others {shape}")
        sum_NC += weights_C * vote.probabilities_NC
        weight_C += weights_C
    voted_C = weight_C > 0.0
    mean_NC = np.divide(sum_NC, weight_C, out=np.zeros(shape), where=voted_C)
    mass_N1 = mean_NC.sum(axis=1, keepdims=True)
    fallback_C = voted_C / voted_C.sum() if voted_C.any() else np.full(shape[1], 1.0 / shape[1])
    combined_NC = np.where(mass_N1 > 0.0, mean_NC / np.where(mass_N1 > 0.0, mass_N1, 1.0), fallback_C)
    return combined_NC.astype(np.float32)
