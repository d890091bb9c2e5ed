"""Combine by the mean probability over the sites that do not abstain.

    p(c) = Σ_i m_ic p_i(c) / Σ_i m_ic,  m_ic = 1 if site i has seen class c, else 0

Probabilities and not logits: the logit of a class that a site never saw is arbitrary and large,
and one such site outvotes all others.
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
    return combine_weighted(votes, ((vote.class_counts_C > 0).astype(np.float64) for vote in votes))
