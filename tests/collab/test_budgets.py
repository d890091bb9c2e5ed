"""Step budgets: least makespan, work conserved, no site that is slower does more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from collab.allocation.budgets import LOW, Floats, Work, check, equal_time, finish_together, within
from collab.allocation.feasibility import plan
from protocol.errors import ConfigError, RunError
from tests.collab.consilium_cases import request_of, site, subtask

laws = settings(deadline=None, derandomize=True, max_examples=80)


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[Floats, Floats, float, float, float]:
    """(seconds, work of each site, bounds, total work that the bounds allow)."""
    sites = draw(st.integers(1, 7))
    seconds_N = np.array([draw(st.floats(0.01, 1000)) for _ in range(sites)])
    work_N = np.array([draw(st.floats(0.1, 50)) for _ in range(sites)])
    low, width = draw(st.floats(0.01, 1)), draw(st.floats(0, 3))
    part = draw(st.floats(0, 1))
    work = work_N.sum() * (low + part * width)
    return seconds_N, work_N, low, low + width, float(work)


@laws
@given(cohort=cohorts())
def test_no_budgets_of_as_much_work_finish_earlier(
    cohort: tuple[Floats, Floats, float, float, float],
) -> None:
    """The makespan is that of the linear programme that minimises it."""
    seconds_N, work_N, low, high, work = cohort
    share_N = equal_time(work, seconds_N, work_N, low, high)
    sites = len(seconds_N)
    best = linprog(
        np.r_[np.zeros(sites), 1.0],
        np.column_stack([np.diag(seconds_N), -np.ones(sites)]),
        np.zeros(sites),
        np.r_[work_N, 0.0][None] / work,
        [1.0],
        bounds=[(low, high)] * sites + [(0, None)],
    )
    assume(best.success)
    assert (share_N * seconds_N).max() == pytest.approx(best.fun, rel=1e-6)


@laws
@given(cohort=cohorts())
def test_work_is_conserved_within_the_bounds(cohort: tuple[Floats, Floats, float, float, float]) -> None:
    """The shares keep their bounds and add up to the work that was asked."""
    seconds_N, work_N, low, high, work = cohort
    share_N = equal_time(work, seconds_N, work_N, low, high)
    assert ((share_N >= low) & (share_N <= high)).all()
    assert work_N @ share_N == pytest.approx(work, rel=1e-9)


@laws
@given(cohort=cohorts(), less=st.floats(0, 1))
def test_more_speed_and_more_work_never_lower_a_share(
    cohort: tuple[Floats, Floats, float, float, float], less: float
) -> None:
    """A faster site does no smaller share than a slower one, and more work lowers no share."""
    seconds_N, work_N, low, high, work = cohort
    share_N = equal_time(work, seconds_N, work_N, low, high)
    assert (np.diff(share_N[np.argsort(seconds_N)]) <= 1e-12).all()
    smaller = work_N.sum() * low + less * max(0.0, work - work_N.sum() * low)
    assert (equal_time(smaller, seconds_N, work_N, low, high) <= share_N * (1 + 1e-9)).all()


@laws
@given(cohort=cohorts())
def test_sites_between_the_bounds_finish_together(
    cohort: tuple[Floats, Floats, float, float, float],
) -> None:
    """Sites whose share is not clipped take the same time; the others cannot be moved towards it."""
    seconds_N, work_N, low, high, work = cohort
    share_N = equal_time(work, seconds_N, work_N, low, high)
    time_N = share_N * seconds_N
    inside_N = (share_N > low * (1 + 1e-9)) & (share_N < high * (1 - 1e-9))
    if inside_N.any():
        together = time_N[inside_N].mean()
        assert time_N[inside_N] == pytest.approx(together)
        assert (time_N[share_N <= low * (1 + 1e-9)] >= together * (1 - 1e-6)).all()
        assert (time_N[share_N >= high * (1 - 1e-9)] <= together * (1 + 1e-6)).all()


def test_within_a_time_slow_sites_do_less() -> None:
    """In 10 s a site of 20 s does half, a fast one all, one that never finishes the least."""
    seconds_N = np.array([5.0, 10.0, 20.0, 80.0, np.inf, 0.0])
    assert within(10.0, seconds_N, low=0.25).tolist() == [1.0, 1.0, 0.5, 0.25, 0.25, 1.0]
    assert within(0.0, np.array([0.0, 1.0])).tolist() == [1.0, LOW]


@laws
@given(cohort=cohorts(), time=st.floats(0.01, 100))
def test_what_is_done_within_a_time_could_not_be_done_sooner(
    cohort: tuple[Floats, Floats, float, float, float], time: float
) -> None:
    """Budgets for a given time are those of least makespan for the work that they do."""
    seconds_N, work_N, low, high, _ = cohort
    share_N = within(time, seconds_N, low, high)
    again_N = equal_time(float(work_N @ share_N), seconds_N, work_N, low, high)
    assert again_N == pytest.approx(share_N, rel=1e-6)


@pytest.mark.parametrize(
    ("work", "seconds", "low", "message"),
    [
        (3.0, [1.0, 2.0], 0.25, "3 was asked"),
        (0.1, [1.0, 2.0], 0.25, "0.1 was asked"),
        (1.0, [1.0, 0.0], 0.25, "not above 0"),
        (1.0, [1.0, np.inf], 0.25, "not above 0"),
        (1.0, [1.0, 2.0], 0.0, "start above 0"),
    ],
)
def test_what_cannot_be_done_is_refused(work: float, seconds: list[float], low: float, message: str) -> None:
    """Work beyond the bounds, a time that is none and a range of shares from 0 are errors."""
    with pytest.raises(RunError, match=message):
        equal_time(work, np.array(seconds), low=low)


def test_a_time_below_zero_is_refused() -> None:
    """A negative or undefined time is an error, not a share."""
    for time in (-1.0, np.nan):
        with pytest.raises(RunError, match="below 0"):
            within(time, np.ones(2))


def test_assignments_of_a_round_finish_together() -> None:
    """One time for all, whatever the subtask; a site with two does both within it."""
    works = [Work("a", "x", 100, 10.0), Work("b", "y", 100, 40.0), Work("c", "x", 50, 5.0)]
    works += [Work("c", "y", 50, 15.0)]
    found = finish_together(works, work=1.0, most=4.0)
    ends = {"a": found["a", "x"] * 10, "b": found["b", "y"] * 40}
    ends["c"] = found["c", "x"] * 5 + found["c", "y"] * 15
    assert len({round(end, 9) for end in ends.values()}) == 1
    done = sum(found[one.site, one.subtask] * one.examples for one in works)
    assert done == pytest.approx(sum(one.examples for one in works))


def test_who_has_no_time_gets_no_budget() -> None:
    """Without a predicted time, or one that ends, all epochs are done; so where nobody may do more."""
    works = [Work("a", "x", 10, 0.0), Work("b", "x", 10, np.inf), Work("c", "x", 10, 5.0)]
    assert finish_together(works, 1.0, 4.0) == {("c", "x"): pytest.approx(1.0)}
    assert finish_together(works, 2.0, 2.0) == dict.fromkeys([("a", "x"), ("b", "x"), ("c", "x")], 2.0)
    assert finish_together([], 1.0, 4.0) == {}


@pytest.mark.parametrize(("work", "most"), [(0.01, 2.0), (3.0, 2.0), (1.0, 0.5), (1.0, 11.0)])
def test_budgets_out_of_range_are_refused(work: float, most: float) -> None:
    """The message names the policy and the option."""
    with pytest.raises(ConfigError, match=r"allocation 'random': (work|most) is"):
        check("random", work, most)


@pytest.mark.parametrize("policy", ["random", "consilium"])
def test_only_where_steps_are_normalised_do_sites_do_unlike_work(policy: str) -> None:
    """A plain average would be pulled towards those that do more: such a subtask's sites do all the same."""
    names = [f"s{i}" for i in range(6)]
    sites = [site(n, seconds={"tumour": 2.0**i, "digits": 2.0**i}) for i, n in enumerate(names)]
    views = [subtask("tumour", 1, normalises=False), subtask("digits", 1)]
    request = request_of(views, sites, {})
    request = replace(request, beliefs={})
    assigned = plan(policy, request, {"most": 4.0}).assignments
    of = {k: {a.budget for a in assigned if a.subtask == k} for k in ("tumour", "digits")}
    assert of["tumour"] == {1.0}
    assert of["digits"] != {1.0}
