"""Fuse by the plain mean of the candidates' outputs: the baseline of every learned rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.fusion.contract import weighted_sum
from protocol.arrays import Arrays

NEEDS = frozenset({"shared_models"})


def statistics(outputs_MNK: NDArray[Any], targets_NK: NDArray[Any]) -> dict[str, NDArray[np.float64]]:  # noqa: ARG001
    """Return ``{}``: the mean learns nothing from the sites."""
    return {}


def fit(statistics: Arrays, num_candidates: int) -> dict[str, NDArray[np.float64]]:  # noqa: ARG001
    """Return equal ``weights`` [M]."""
    return {"weights": np.full(num_candidates, 1.0 / num_candidates)}


def apply(outputs_MNK: NDArray[Any], state: Arrays) -> NDArray[np.float64]:
    """Return the mean output [N, K]."""
    return weighted_sum(outputs_MNK, state["weights"])
