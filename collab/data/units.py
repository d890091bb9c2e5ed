"""What is drawn as one: a row, or all rows of a group (a patient, a machine, a recording)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.data.examples import Text


@dataclass(frozen=True)
class Units:
    """U units of N rows.

    Attributes:
        unit_N: the unit of each row.
        size_U: how many rows each unit has.
        class_U: the class to stratify by: of a group, its most frequent one; 0 if y is a value.
    """

    unit_N: NDArray[np.int64]
    size_U: NDArray[np.int64]
    class_U: NDArray[np.int64]


def units_of(y: NDArray[Any], group_N: Text | None) -> Units:
    """Return the units of N rows with classes or values ``y``: rows, or groups where ``group_N`` is given."""
    class_N = y.astype(np.int64) if y.dtype.kind == "i" else np.zeros(len(y), dtype=np.int64)
    if group_N is None:
        return Units(np.arange(len(y)), np.ones(len(y), dtype=np.int64), class_N)
    _, unit_N, size_U = np.unique(group_N.astype(str), return_inverse=True, return_counts=True)
    return Units(unit_N, size_U.astype(np.int64), _most_frequent(class_N, unit_N, len(size_U)))


def _most_frequent(class_N: NDArray[np.int64], unit_N: NDArray[np.int64], units: int) -> NDArray[np.int64]:
    """Return each unit's most frequent class, the lowest on a tie."""
    pairs, counts = np.unique(np.stack([unit_N, class_N]), axis=1, return_counts=True)
    order = np.lexsort((-pairs[1], counts))  # the winner of each unit is written last
    class_U = np.zeros(units, dtype=np.int64)
    for unit, label in pairs[:, order].T:
        class_U[unit] = label
    return class_U
