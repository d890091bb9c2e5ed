"""Whole numbers in proportion."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.data.apportion import apportion

shares = st.lists(st.floats(0, 1000), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.integers(0, 10_000), shares)
def test_all_is_dealt_out_and_each_quota_is_rounded(total: int, weights: list[float]) -> None:
    """The parts sum to the total and each lies within one of its exact quota."""
    dealt = apportion(total, weights)
    assert dealt.sum() == total
    assert (dealt >= 0).all()
    exact = np.array(weights) if sum(weights) > 0 else np.ones(len(weights))
    assert (np.abs(dealt - total * exact / exact.sum()) < 1 + 1e-6).all()


@settings(deadline=None)
@given(st.integers(0, 200), st.lists(st.tuples(st.floats(0, 10), st.integers(0, 30)), min_size=1, max_size=8))
def test_room_is_never_exceeded_and_never_left_while_any_is_wanted(
    total: int, parts: list[tuple[float, int]]
) -> None:
    """With room, all that fits is dealt out and nobody gets more than fits."""
    weights, room = (np.array(column) for column in zip(*parts, strict=True))
    dealt = apportion(total, weights, room)
    assert (dealt <= room).all()
    assert dealt.sum() == min(total, room.sum())
