"""A ridge head from sums that merge: the sites' normal equations give the pooled ridge, in one round.

    minimise ‖T − X W − 1 bᵀ‖² + λ ‖W‖²,  the intercept b not penalised

Legend of shapes: N rows, F features, K targets. X gets a last column of ones, so one matrix
carries XᵀX, the features' sums and N. Second moments are sensitive: they pass the egress gate
and are fit for secure aggregation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from protocol.arrays import Arrays, ArraySpec, check, check_finite
from protocol.errors import ArraysError, ConfigError

Floats = NDArray[np.float64]


def normal_equations(x_NF: NDArray[Any], targets_NK: NDArray[Any]) -> dict[str, Floats]:
    """Return ``xtx`` [F+1, F+1], ``xty`` [F+1, K] and ``n`` [1] of these rows; add them up over sites.

    Raises:
        ArraysError: the shapes do not match or a value is not finite.
    """
    x_NF, targets_NK = np.asarray(x_NF, np.float64), np.asarray(targets_NK, np.float64)
    if x_NF.ndim != 2 or targets_NK.ndim != 2 or len(x_NF) != len(targets_NK):
        raise ArraysError(f"features {x_NF.shape} and targets {targets_NK.shape} must be [N, F] and [N, K]")
    check_finite({"features": x_NF, "targets": targets_NK})
    augmented = np.concatenate([x_NF, np.ones((len(x_NF), 1))], axis=1)
    return {
        "xtx": augmented.T @ augmented,
        "xty": augmented.T @ targets_NK,
        "n": np.array([float(len(x_NF))]),
    }


def solve(statistics: Arrays, ridge: float) -> dict[str, Floats]:
    """Return ``coefficients`` [F, K] and ``intercept`` [K] of the ridge on all merged rows.

    Args:
        statistics: the sum of the sites' normal equations.
        ridge: λ, on the scale of sums (not means) of squares, as in scikit-learn.

    Raises:
        ConfigError: ``ridge`` is negative or not finite.
        ArraysError: the sums have other names or shapes, hold no rows, or are singular.
    """
    if not 0.0 <= ridge < np.inf:
        raise ConfigError(f"ridge is {ridge}, allowed: a finite number from 0 up")
    _check(statistics)
    xtx, xty, count = statistics["xtx"], statistics["xty"], float(statistics["n"][0])
    mean_F, mean_K = xtx[:-1, -1] / count, xty[-1] / count
    # Eliminating the intercept centres both sides, and leaves it out of the penalty.
    centred_FF = xtx[:-1, :-1] - count * np.outer(mean_F, mean_F) + ridge * np.eye(len(mean_F))
    centred_FK = xty[:-1] - count * np.outer(mean_F, mean_K)
    try:
        coefficients_FK = cho_solve(cho_factor(centred_FF), centred_FK)
    except LinAlgError:
        raise ArraysError("normal equations are singular: a ridge above 0 makes them solvable") from None
    return {"coefficients": coefficients_FK, "intercept": mean_K - mean_F @ coefficients_FK}


def predict(x_NF: NDArray[Any], head: Arrays) -> Floats:
    """Return the head's outputs [N, K]."""
    predictions_NK: Floats = np.asarray(x_NF, np.float64) @ head["coefficients"] + head["intercept"]
    return predictions_NK


def _check(statistics: Arrays) -> None:
    size = len(statistics["xtx"]) if "xtx" in statistics else 0
    targets = statistics["xty"].shape[-1] if "xty" in statistics else 0
    shapes = {"xtx": (size, size), "xty": (size, targets), "n": (1,)}
    check(statistics, {name: ArraySpec(shape, "float64") for name, shape in shapes.items()})
    if size < 1 or statistics["n"][0] < 1:
        raise ArraysError("normal equations hold no rows: nothing to solve")
