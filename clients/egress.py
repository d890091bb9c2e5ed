"""What leaves a site passes here last: label histograms and counts as its rules allow."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from collab.decomposition import affinity
from collab.terms import EgressTerms
from protocol.arrays import Arrays

_ROUND_TO = 10


def affinities(sums: Arrays, subtasks: int) -> dict[str, NDArray[np.float64]]:
    """Return sums of affinities as they leave; raise ``ArraysError`` for what no measurements give."""
    affinity.check_sums(sums, subtasks)
    return {name: np.asarray(array) for name, array in sums.items()}


def no_affinities(subtasks: int) -> dict[str, NDArray[np.float64]]:
    """Return the sums of a site whose rules let no affinities out: of no measurement."""
    return affinity.no_sums(subtasks)


def histogram(counts_C: NDArray[np.floating], terms: EgressTerms) -> tuple[float, ...]:
    """Return class counts exactly, rounded up to tens (0 stays 0), or as a 0/1 mask."""
    if terms.label_histogram == "mask":
        return tuple(float(n > 0) for n in counts_C)
    if terms.label_histogram == "rounded":
        return tuple(float(math.ceil(n / _ROUND_TO) * _ROUND_TO) for n in counts_C)
    return tuple(float(n) for n in counts_C)
