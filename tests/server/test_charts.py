"""Geometry of the report's charts."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import charts

VALUES = st.floats(-1e6, 1e6).map(lambda v: round(v, 6))
POINTS = st.lists(st.tuples(st.floats(0, 1e9), VALUES, st.just("")), min_size=1, max_size=30)


@settings(deadline=None)
@given(VALUES, VALUES, st.integers(2, 8))
def test_ticks_are_few_and_in_range(one: float, other: float, steps: int) -> None:
    """Ticks lie within the range, are evenly apart, and are at most one more than the steps asked for."""
    low, high = charts.spread([one, other], pad=0.08)
    ticks = charts.nice_ticks(low, high, steps)
    slack = 1e-6 * (high - low)
    assert len(ticks) <= steps + 1
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    apart = [b - a for a, b in itertools.pairwise(ticks)]
    assert all(step == pytest.approx(apart[0], rel=1e-3) for step in apart)


@settings(deadline=None)
@given(POINTS, st.none() | VALUES)
def test_a_curve_stays_in_its_frame(points: list[tuple[float, float, str]], target: float | None) -> None:
    """Every dot and the target's line lie inside the chart, for one point as for many."""
    chart = charts.line_chart(points, target=target, width=330, height=190)
    assert chart is not None
    assert all(chart.left <= x <= chart.right for x, _, _ in chart.dots)
    heights = [y for _, y, _ in chart.dots] + ([] if chart.target_y is None else [chart.target_y])
    assert all(0 <= y <= chart.bottom for y in heights)


def test_no_points_no_curve() -> None:
    """A subtask that never aggregated has no chart rather than an empty one."""
    assert charts.line_chart([], target=0.5, width=330, height=190) is None


@settings(deadline=None)
@given(st.sampled_from(["log_loss", "rmse", "accuracy"]), VALUES, VALUES)
def test_right_is_better(metric: str, one: float, other: float) -> None:
    """On a lane the better of two values is never left of the worse one, and the two use the whole lane."""
    scale = charts.towards_better(metric, [one, other], 250)
    assert one == other or {scale(one), scale(other)} == {10, 240}
    better, worse = (min, max) if metric != "accuracy" else (max, min)
    assert scale(better(one, other)) >= scale(worse(one, other))


@settings(deadline=None)
@given(st.lists(st.tuples(st.none() | VALUES, st.none() | st.floats(0, 1e3)), max_size=10))
def test_whiskers_share_a_zero_and_losses_lie_left_of_it(
    gains: list[tuple[float | None, float | None]],
) -> None:
    """All sites of a subtask share one zero line; gains are right of it, losses left, all in the frame."""
    for (gain, _), whisker in zip(gains, charts.whiskers(gains, 150), strict=True):
        assert (gain is None) == (whisker is None)
        if gain is not None and whisker is not None:
            assert whisker.zero == 75
            assert (whisker.middle >= 75) if gain >= 0 else (whisker.middle <= 75)
            assert 0 <= whisker.low <= whisker.middle <= whisker.high <= 150
