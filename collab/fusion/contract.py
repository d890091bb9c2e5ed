"""What every fusion rule is: sums at the sites, weights from their total, outputs fused with the weights.

Legend of shapes: M candidates, N rows, K outputs a row (classes as probabilities, or 1 for a
regression). Targets are one-hot rows or [N, 1].
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import Arrays, check_finite
from protocol.errors import ArraysError

Floats = NDArray[np.float64]


class FusionRule(Protocol):
    """A module of this folder, or an institution's own under ``fusion.NAME``.

    Laws, checked for every rule: permuting the candidates permutes the weights; identical
    candidates get equal weights; one candidate comes back as it is; rows of probabilities still
    sum to 1; inputs are not changed; statistics of parts add up to the statistics of the whole.
    """

    NEEDS: frozenset[str]
    """``{"shared_models"}`` if candidates beyond the final model are needed, else empty."""

    def statistics(self, outputs_MNK: NDArray[Any], targets_NK: NDArray[Any]) -> dict[str, Floats]:
        """Return a site's additive sums over its validation rows; ``{}`` if the rule needs none."""
        ...

    def fit(self, statistics: Arrays, num_candidates: int) -> dict[str, Floats]:
        """Return the fused model's state from merged statistics: at least ``weights`` [M]."""
        ...

    def apply(self, outputs_MNK: NDArray[Any], state: Arrays) -> Floats:
        """Return the fused outputs [N, K]."""
        ...


def check_outputs(outputs_MNK: NDArray[Any]) -> Floats:
    """Return the outputs as float64; raise ``ArraysError`` unless they are [M, N, K] and finite.

    Finite even where a weight is 0, because 0 times NaN is NaN.
    """
    outputs_MNK = np.asarray(outputs_MNK, np.float64)
    if outputs_MNK.ndim != 3 or outputs_MNK.shape[0] == 0:
        raise ArraysError(
            f"candidates' outputs have shape {outputs_MNK.shape}, expected [M, N, K] with M > 0"
        )
    check_finite({"outputs": outputs_MNK})
    return outputs_MNK


def weighted_sum(outputs_MNK: NDArray[Any], weights_M: NDArray[Any]) -> Floats:
    """Return sum_m weights_m outputs_m, [N, K] float64; ``ArraysError`` if the shapes do not match."""
    outputs_MNK = check_outputs(outputs_MNK)
    if weights_M.shape != outputs_MNK.shape[:1]:
        raise ArraysError(f"fusion has {weights_M.shape} weights for {outputs_MNK.shape[0]} candidates")
    fused_NK: Floats = np.tensordot(weights_M, outputs_MNK, axes=1)
    return fused_NK
