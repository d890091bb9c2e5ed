"""Fuse by the weights on the simplex that fit the targets best in least squares: a super learner.

    minimise ‖y − Z w‖² + r ‖w − 1/M‖²  over  w ≥ 0, Σ w = 1,   r = 1e-3 · tr(A) / M

with Z the candidates' outputs stacked over rows and outputs, A = ZᵀZ and b = Zᵀy. A and b are
sums over rows, so the sites' sums add up to the pooled problem exactly, and no row, label or
output leaves a site. The ridge makes the answer unique: identical candidates share their weight
equally. A and b are second moments of outputs: sensitive, and fit for secure aggregation.

Van der Laan, Polley and Hubbard, "Super Learner", 2007; Breiman, "Stacked Regressions", 1996.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.fusion.contract import check_outputs, weighted_sum
from collab.fusion.simplex import minimise
from protocol.arrays import Arrays, ArraySpec, check, check_finite
from protocol.errors import ArraysError

NEEDS = frozenset({"shared_models"})
RIDGE = 1e-3


def statistics(outputs_MNK: NDArray[Any], targets_NK: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Return the normal equations of these rows: ``gram`` = ZᵀZ [M, M] and ``cross`` = Zᵀy [M].

    Raises:
        ArraysError: the shapes do not match or a value is not finite.
    """
    outputs_MNK = check_outputs(outputs_MNK)
    targets_NK = np.asarray(targets_NK, np.float64)
    if targets_NK.shape != outputs_MNK.shape[1:]:
        raise ArraysError(
            f"targets have shape {targets_NK.shape}, outputs {outputs_MNK.shape[1:]} a candidate"
        )
    check_finite({"targets": targets_NK})
    stacked_MR = outputs_MNK.reshape(len(outputs_MNK), targets_NK.size)
    return {"gram": stacked_MR @ stacked_MR.T, "cross": stacked_MR @ targets_NK.ravel()}


def fit(statistics: Arrays, num_candidates: int) -> dict[str, NDArray[np.float64]]:
    """Return the minimising ``weights`` [M] of the merged normal equations.

    Equal weights if no site sent sums, or they hold no rows: then nothing speaks for any candidate.

    Raises:
        ArraysError: the sums have other names or shapes, are not finite, or come from no outputs at all
            (the matrix is not positive semi-definite).
    """
    uniform_M = np.full(num_candidates, 1.0 / num_candidates)
    if not statistics:
        return {"weights": uniform_M}
    check(statistics, _spec(num_candidates))
    gram_MM = (statistics["gram"] + statistics["gram"].T) / 2.0
    ridge = RIDGE * float(np.trace(gram_MM)) / num_candidates
    if ridge == 0.0:
        return {"weights": uniform_M}
    hessian_MM = gram_MM + ridge * np.eye(num_candidates)
    return {"weights": minimise(hessian_MM, statistics["cross"] + ridge * uniform_M)}


def apply(outputs_MNK: NDArray[Any], state: Arrays) -> NDArray[np.float64]:
    """Return the weighted sum of the candidates' outputs [N, K]."""
    return weighted_sum(outputs_MNK, state["weights"])


def _spec(num_candidates: int) -> dict[str, ArraySpec]:
    return {
        "gram": ArraySpec((num_candidates, num_candidates), "float64"),
        "cross": ArraySpec((num_candidates,), "float64"),
    }
