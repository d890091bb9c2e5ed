"""Strictly convex quadratic programs on the probability simplex, solved exactly.

    minimise ½ wᵀHw − cᵀw  over  w ≥ 0, Σ w = 1

by a primal active-set method (Nocedal and Wright, Numerical Optimization, algorithm 16.3, with
the one equality eliminated by its multiplier; for least squares this is Lawson and Hanson's NNLS
plus a budget). Each accepted point minimises over its support and is strictly better than the
one before, so no support returns and the method ends; it is deterministic, ties go to the lowest
index. The answer is verified by its optimality gap before it is returned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from protocol.errors import ArraysError, RunError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SINGULAR = "fusion weights cannot be computed: the candidates' sums are close to singular"
# Relative to the largest entry of H; far above rounding, far below what a weight is worth.
_GAP_ALLOWED = 1e-10


def minimise(hessian_MM: NDArray[Any], linear_M: NDArray[Any]) -> Floats:
    """Return the unique minimiser w [M] of ½ wᵀHw − cᵀw on the simplex.

    Args:
        hessian_MM: H, symmetric positive definite.
        linear_M: c.

    Raises:
        ArraysError: H is not positive definite, or an entry is not finite.
        RunError: rounding kept the method from an optimum (H is close to singular).
    """
    hessian_MM, linear_M = _scaled(np.asarray(hessian_MM, np.float64), np.asarray(linear_M, np.float64))
    size = len(linear_M)
    weights_M, free_M = np.full(size, 1.0 / size), np.ones(size, dtype=np.bool_)
    entered = -1
    for _ in range(100 + 20 * size):
        target_M, gradient_M = _minimise_on_support(hessian_MM, linear_M, weights_M, free_M)
        if (target_M[free_M] > 0.0).all():
            weights_M = target_M
            # On the support the gradient is one number, the multiplier of Σ w = 1.
            entered = _most_violated(gradient_M - gradient_M[free_M].mean(), free_M, linear_M)
            if entered < 0:
                break
            free_M[entered] = True
            continue
        moved_M, blocked = _step_to_boundary(weights_M, target_M, free_M)
        if blocked == entered and weights_M[blocked] == 0.0:
            break  # it entered for a violation within rounding: the point before is the optimum
        weights_M, free_M[blocked] = moved_M, False
    return _verified(hessian_MM, linear_M, weights_M)


def optimality_gap(hessian_MM: NDArray[Any], linear_M: NDArray[Any], weights_M: NDArray[Any]) -> float:
    """Return gᵀw − min g, g = Hw − c: an upper bound on how far w is above the minimum, 0 only there.

    For w on the simplex this is the Frank-Wolfe duality gap (Jaggi, ICML 2013).
    """
    gradient_M = hessian_MM @ weights_M - linear_M
    return float(gradient_M @ weights_M - gradient_M.min())


def _scaled(hessian_MM: Floats, linear_M: Floats) -> tuple[Floats, Floats]:
    """Divide both by the largest entry of H, which leaves the minimiser and fixes the tolerances."""
    if linear_M.ndim != 1 or linear_M.size == 0 or hessian_MM.shape != (linear_M.size, linear_M.size):
        raise ArraysError(
            f"quadratic program has shapes {hessian_MM.shape} and {linear_M.shape}, expected [M, M], [M]"
        )
    scale = float(np.abs(hessian_MM).max())
    if not (0.0 < scale < np.inf and np.isfinite(linear_M).all()):
        raise ArraysError("quadratic program has entries that are all zero or not finite")
    return hessian_MM / scale, linear_M / scale


def _minimise_on_support(
    hessian_MM: Floats, linear_M: Floats, weights_M: Floats, free_M: Mask
) -> tuple[Floats, Floats]:
    """Return the minimiser with Σ w = 1, w = 0 off the support and signs free, and the gradient there."""
    try:
        factor = cho_factor(hessian_MM[np.ix_(free_M, free_M)])
    except LinAlgError:
        raise ArraysError("quadratic program is not positive definite: no outputs give such sums") from None
    target_M = weights_M.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        along = cho_solve(factor, np.ones(int(free_M.sum())), check_finite=False)
        for _ in range(2):  # a Newton step is exact but for rounding, which a second one takes out
            gradient = (hessian_MM @ target_M - linear_M)[free_M]
            step = cho_solve(factor, gradient - gradient.mean(), check_finite=False)
            budget = (1.0 - target_M.sum() + step.sum()) / along.sum()
            target_M[free_M] += budget * along - step
    if not np.isfinite(target_M).all():
        raise RunError(_SINGULAR)
    return target_M, hessian_MM @ target_M - linear_M


def _most_violated(reduced_cost_M: Floats, free_M: Mask, linear_M: Floats) -> int:
    """Return the fixed index whose entry lowers the objective fastest; -1 if none does beyond rounding."""
    rounding = 4.0 * len(linear_M) * np.finfo(np.float64).eps * (1.0 + float(np.abs(linear_M).max()))
    outside_M = np.where(free_M, np.inf, reduced_cost_M)
    lowest = int(outside_M.argmin())
    return lowest if outside_M[lowest] < -rounding else -1


def _step_to_boundary(weights_M: Floats, target_M: Floats, free_M: Mask) -> tuple[Floats, int]:
    """Go from w towards the target until the first weight reaches 0; return the point and that index."""
    falling = np.flatnonzero(free_M & (target_M <= 0.0))
    lengths = weights_M[falling] / (weights_M[falling] - target_M[falling] + np.finfo(np.float64).tiny)
    first = int(lengths.argmin())
    blocked = int(falling[first])
    moved_M = weights_M + lengths[first] * (target_M - weights_M)
    moved_M[blocked] = 0.0
    return np.maximum(moved_M, 0.0), blocked


def _verified(hessian_MM: Floats, linear_M: Floats, weights_M: Floats) -> Floats:
    weights_M = weights_M / weights_M.sum()
    if optimality_gap(hessian_MM, linear_M, weights_M) > _GAP_ALLOWED * (1.0 + float(np.abs(linear_M).max())):
        raise RunError(_SINGULAR)
    return weights_M
