"""Deal a whole number out in proportion: the method of largest remainders (Hamilton, 1792)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def apportion(total: int, shares: ArrayLike, room: ArrayLike | None = None) -> NDArray[np.int64]:
    """Return whole numbers in proportion to ``shares`` that sum to ``total``.

    Args:
        total: how many to deal out.
        shares: [K], not negative; all zero means equal shares.
        room: [K], the most that each may get; what does not fit goes to the others.

    Returns:
        [K] numbers whose sum is ``total``, or the sum of ``room`` if that is less. Without ``room``
        each is its exact quota rounded down or up. Ties go to the lower index.
    """
    weights_K = np.asarray(shares, dtype=np.float64)
    room_K = np.full(len(weights_K), total) if room is None else np.asarray(room, dtype=np.int64)
    if weights_K.sum() <= 0:
        weights_K = np.ones(len(weights_K))
    quotas_K = total * weights_K / weights_K.sum()
    dealt_K: NDArray[np.int64] = np.minimum(np.floor(quotas_K + 1e-9).astype(np.int64), room_K)
    left = min(total, int(room_K.sum())) - int(dealt_K.sum())
    while left > 0:
        # One more to each that has room, those furthest below their quota first. One pass unless room binds.
        order = np.argsort(dealt_K - quotas_K, kind="stable")
        chosen = order[(dealt_K < room_K)[order]][:left]
        dealt_K[chosen] += 1
        left -= len(chosen)
    return dealt_K
