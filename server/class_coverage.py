"""What share of a class's examples a round lacks, from the class counts that its sites let out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from collab.cohort import Task

Floats = NDArray[np.float64]


def missing_of_classes(
    subtask: str, first: Sequence[Task], given: Sequence[Task]
) -> tuple[float | None, ...]:
    """Return for each class the share of the examples first asked for that did not come in, 0 to 1.

    A substitute counts for what it has. None where what the sites tell does not decide it: of a mask it
    is known which classes a site has, of a site that tells nothing not even that. Where there are no class
    counts, as of a regression, the answer is empty.

    Args:
        subtask: whose classes.
        first: those that were asked first.
        given: those that contributed, substitutes among them.
    """
    classes = max((len(t.class_counts.get(subtask, ())) for t in (*first, *given)), default=0)
    if not classes:
        return ()
    came = {t.send.site for t in given}
    asked_C, given_C, lost_C = (
        _bounds(tasks, subtask, classes)
        for tasks in (first, given, [t for t in first if t.send.site not in came])
    )
    return tuple(_missing(asked_C[:, c], given_C[:, c], lost_C[:, c]) for c in range(classes))


def _missing(asked: Floats, given: Floats, lost: Floats) -> float | None:
    """Return one class's share; each argument is the least and the most that it can be."""
    if lost[1] == 0:
        return 0.0
    if given[1] == 0 and lost[0] > 0:
        return 1.0
    if asked[0] != asked[1] or given[0] != given[1]:
        return None
    return float(max(0.0, 1.0 - given[0] / asked[0]))


def _bounds(tasks: Sequence[Task], subtask: str, classes: int) -> Floats:
    """Return [2, C]: at least and at most so many examples of each class these sites have."""
    bounds_2C = np.zeros((2, classes))
    for task in tasks:
        rows = task.of.get(subtask, 0)
        counts_C = np.asarray(task.class_counts.get(subtask, ()), np.float64)
        if not rows:
            continue
        if len(counts_C) != classes or not counts_C.any():  # it does not tell
            bounds_2C[1] += math.inf
        elif counts_C.max() <= 1 and counts_C.sum() < rows:  # a mask
            bounds_2C += np.stack([counts_C, np.where(counts_C > 0, math.inf, 0.0)])
        else:
            bounds_2C += counts_C
    return bounds_2C
