"""Combine by class counts: on class c a site speaks with its share of all examples of c.

    p(c) = Σ_i w_ic p_i(c),  w_ic = n_ic / Σ_j n_jc

the weights of FedGen (Zhu, Hong and Zhou, ICML 2021). Under label skew one weight a site cannot
do this. The combined rows are flatter than a good model's: sharpen them before distilling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from collab.soft_labels.contract import SoftLabels, combine_weighted


def combine(votes: Sequence[SoftLabels]) -> NDArray[np.float32]:
    """Return the combined soft labels [N, C]; rows sum to 1.

    Raises:
        RunError: there is no vote.
        ArraysError: votes differ in shape.
    """
    return combine_weighted(votes, (vote.class_counts_C.astype(np.float64) for vote in votes))
