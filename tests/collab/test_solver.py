"""The solver against brute force, an integer programme and itself with one utility raised."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings

from collab.allocation import programme, solver
from collab.allocation.contract import History, Request, SubtaskView
from collab.allocation.solver import Coverage, Crowding, Problem, pose, without_ties
from protocol.errors import RunError
from tests.collab.solver_cases import brute_force, problems, slack, solved, worth

laws = settings(deadline=None, derandomize=True, max_examples=60)


@laws
@given(problem=problems())
def test_optimum_equals_brute_force(problem: Problem) -> None:
    """No subset of pairs misses fewer sites of the minima, nor has more utility at as many."""
    found = solved(problem)
    missing, greatest = brute_force(problem)
    assert worth(problem, found.chosen_P) == pytest.approx((missing, greatest), abs=slack(problem))
    assert found.missing_K.sum() == missing


@laws
@given(problem=problems(coverage=True))
def test_optimum_with_coverage_equals_brute_force(problem: Problem) -> None:
    """Coverage is soft: bonuses count as utility, and never cost a site of a minimum."""
    missing, greatest = brute_force(problem)
    assert worth(problem, solved(problem).chosen_P) == pytest.approx((missing, greatest), abs=slack(problem))


@laws
@given(problem=problems(coverage=True, crowding=True))
def test_optimum_with_crowding_equals_brute_force(problem: Problem) -> None:
    """Further sites of a cohort cost more and more: the optimum counts it, whatever else is asked."""
    missing, greatest = brute_force(problem)
    assert worth(problem, solved(problem).chosen_P) == pytest.approx((missing, greatest), abs=slack(problem))


@laws
@given(problem=problems(crowding=True))
def test_with_crowding_one_linear_programme_is_whole(problem: Problem) -> None:
    """Steps keep the matrix that of a network: no integer programme is needed, and rises are exact."""
    assert solved(problem).is_exact


def test_crowding_that_falls_is_refused() -> None:
    """A later step that costs less would be filled first: the optimum would be another problem's."""
    with pytest.raises(RunError, match="must rise"):
        Crowding(np.array([0, 0]), np.ones(2), np.array([0.5, 0.2]))
    Crowding(np.array([0, 1]), np.ones(2), np.array([0.5, 0.2]))


@laws
@given(problem=problems(crowding=True))
def test_a_pair_is_chosen_once_its_utility_has_risen_by_its_rise(problem: Problem) -> None:
    """A rise slightly below what is stated changes nothing for the pair; slightly above, it is chosen."""
    found = solved(problem)
    assert found.is_exact
    margin = 10 * slack(problem) + 1e-3
    for pair in np.flatnonzero(~found.chosen_P):
        up_P = np.arange(problem.utility_P.size) == pair
        if np.isfinite(found.rise_P[pair]):
            rise = found.rise_P[pair]
            above = replace(problem, utility_P=problem.utility_P + (rise + margin) * up_P)
            below = replace(problem, utility_P=problem.utility_P + (rise - margin) * up_P)
            assert solved(above).chosen_P[pair]
            assert not solved(below).chosen_P[pair]
        else:
            assert not solved(replace(problem, utility_P=problem.utility_P + 50.0 * up_P)).chosen_P[pair]


@laws
@given(problem=problems(coverage=True))
def test_with_coverage_the_rise_is_a_lower_bound(problem: Problem) -> None:
    """A rise below what is stated is never enough."""
    found = solved(problem)
    margin = 10 * slack(problem) + 1e-3
    for pair in np.flatnonzero(~found.chosen_P):
        rise = min(found.rise_P[pair], 50.0) - margin
        up_P = np.arange(problem.utility_P.size) == pair
        if rise > 0:
            assert not solved(replace(problem, utility_P=problem.utility_P + rise * up_P)).chosen_P[pair]


@laws
@given(problem=problems())
def test_prices_are_an_optimal_dual(problem: Problem) -> None:
    """Prices prove the optimum: no chosen pair is below them, no other above, free places cost nothing."""
    found = solved(problem)
    prices_P = found.site_price_N[problem.site_P] + found.subtask_price_K[problem.subtask_P]
    net_P = problem.utility_P - prices_P
    assert (net_P[found.chosen_P] >= -slack(problem)).all()
    assert (net_P[~found.chosen_P] <= slack(problem)).all()
    load_N = np.bincount(problem.site_P[found.chosen_P], minlength=problem.sites)
    assert (found.site_price_N >= 0).all()
    assert (found.site_price_N[load_N < problem.capacity] <= slack(problem)).all()
    cohort_K = np.bincount(problem.subtask_P[found.chosen_P], minlength=problem.least_K.size)
    assert (found.subtask_price_K[cohort_K < problem.most_K] <= slack(problem)).all()
    assert (found.subtask_price_K[cohort_K > problem.least_K] >= -slack(problem)).all()


def crowd(sites: int, seed: int, capacity: int = 1) -> Problem:
    """Enough sites that columns are generated: ten subtasks, unlike sites, a third of the pairs missing."""
    rng = np.random.default_rng(seed)
    utility_NK = rng.lognormal(0, 0.7, (sites, 1)) * rng.lognormal(0, 0.3, (sites, 10))
    site_P, subtask_P = np.nonzero(rng.random((sites, 10)) > 0.3)
    least_K = np.r_[np.full(9, 3.0), 0.8 * sites]  # one subtask's minimum takes sites from all others
    most_K = np.maximum(least_K, np.full(10, 0.05 * sites))
    return Problem(utility_NK[site_P, subtask_P], site_P, subtask_P, capacity, least_K, most_K)


@pytest.mark.parametrize("capacity", [1, 2])
def test_column_generation_loses_nothing(capacity: int) -> None:
    """With few columns at first the objective is that of an integer programme over all pairs."""
    problem = crowd(500, seed=capacity, capacity=capacity)
    assert problem.utility_P.size > solver._DIRECT
    found = solved(problem)
    scaled = replace(problem, utility_P=without_ties(problem.utility_P, np.random.default_rng(0)))
    x_P, _ = programme.whole(scaled, np.ones(problem.utility_P.size, bool), np.zeros(0, bool))
    assert found.chosen_P.tolist() == (x_P > 0.5).tolist()


def test_a_wrong_first_choice_of_columns_is_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs that were left out at first come in when they pay: even if all that matter were left out."""
    problem = crowd(300, seed=3)
    expected = solved(problem).chosen_P
    worst_P = problem.utility_P <= np.median(problem.utility_P)
    monkeypatch.setattr(solver, "_promising", lambda *_: worst_P)
    assert solved(problem).chosen_P.tolist() == expected.tolist()


def test_the_penalty_of_a_minimum_does_not_grow_with_the_sites() -> None:
    """The largest cost of the programme is the same for 10 and for 300 sites, so no digits are lost."""

    def largest(problem: Problem) -> float:
        every = np.arange(problem.utility_P.size)
        return float(np.abs(programme._programme(problem, every, np.zeros(0, bool)).cost).max())

    small, great = (replace(p, utility_P=np.ones_like(p.utility_P)) for p in (crowd(10, 1), crowd(300, 1)))
    assert largest(small) == largest(great)


@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_a_fractional_vertex_is_solved_as_an_integer_programme(
    fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the linear programme end off the integers, or fail, the choice is the same by branch and cut."""
    problem = crowd(20, seed=4)
    expected = solved(problem)
    real = scipy.optimize.linprog

    def off_the_integers(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        return SimpleNamespace(**{**found, "x": np.full_like(found.x, fraction)})

    monkeypatch.setattr(programme, "linprog", off_the_integers)
    branched = solved(problem)
    assert branched.chosen_P.tolist() == expected.chosen_P.tolist()
    assert not branched.is_exact
    assert (branched.rise_P <= expected.rise_P + 1e-9).all()
    monkeypatch.setattr(programme, "linprog", lambda *_args, **_options: SimpleNamespace(success=False))
    assert solved(problem).chosen_P.tolist() == expected.chosen_P.tolist()


def test_coverage_can_make_the_vertex_fractional() -> None:
    """Three classes, each held by two of three sites: half of each site is best, two are the answer."""
    group_Q, pair_Q = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 2, 0, 2])
    problem = Problem(
        utility_P=np.full(3, -0.6),
        site_P=np.arange(3),
        subtask_P=np.zeros(3, np.intp),
        capacity=1,
        least_K=np.zeros(1),
        most_K=np.full(1, 3.0),
        coverage=Coverage(group_Q, pair_Q, np.full(3, 1.0)),
    )
    all_3 = np.ones(3, bool)
    assert programme.relax(problem, all_3, all_3).x_P == pytest.approx(np.full(3, 0.5))
    assert worth(problem, solved(problem).chosen_P) == pytest.approx((0.0, 1.8))


def test_coverage_takes_the_site_that_alone_holds_a_class() -> None:
    """A site that alone holds a class is taken before a better one, if the bonus makes up for it."""
    made: dict[str, Any] = {
        "utility_P": np.array([1.0, 0.5, 0.4]),
        "site_P": np.arange(3),
        "subtask_P": np.zeros(3, np.intp),
        "capacity": 1,
        "least_K": np.zeros(1),
        "most_K": np.full(1, 2.0),
    }
    held = (np.array([0, 0, 1]), np.array([0, 1, 2]))
    assert solved(Problem(**made, coverage=Coverage(*held, np.full(2, 0.2)))).chosen_P.tolist() == [1, 0, 1]
    assert solved(Problem(**made, coverage=Coverage(*held, np.full(2, 0.05)))).chosen_P.tolist() == [1, 1, 0]


def test_equal_utilities_are_told_apart_by_the_generator() -> None:
    """Among equals the drawn numbers decide: one answer a seed, unlike answers over seeds."""
    ones = Problem(np.ones(8), np.arange(8), np.zeros(8, np.intp), 1, np.zeros(1), np.full(1, 3.0))
    answers = [tuple(solved(ones, seed).chosen_P.tolist()) for seed in range(10)]
    assert answers == [tuple(solved(ones, seed).chosen_P.tolist()) for seed in range(10)]
    assert len(set(answers)) > 1


def test_a_request_is_posed_with_its_cohorts() -> None:
    """Rows follow the pairs and subtasks; no maximum means every site, and a maximum bounds the minimum."""
    subtasks = (
        SubtaskView("tumour", 1.0, 2, 0.0, 0, 0.0),
        SubtaskView("digits", 1.0, 3, 0.0, 0, 0.0, max_sites=1),
    )
    request = Request(1, subtasks, (), 2, {}, History({}), seed=1)
    pairs = [("north", "digits"), ("south", "tumour"), ("south", "digits")]
    posed = pose(request, pairs, np.arange(3.0))
    assert (posed.site_P.tolist(), posed.subtask_P.tolist()) == ([0, 1, 1], [1, 0, 1])
    assert (posed.least_K.tolist(), posed.most_K.tolist(), posed.capacity) == ([2, 1], [2, 1], 2)


def test_nothing_to_assign_is_an_answer() -> None:
    """Without pairs the optimum is empty and says what is missing."""
    none = np.zeros(0, np.intp)
    found = solved(Problem(np.zeros(0), none, none, 1, np.array([2.0]), np.array([3.0])))
    assert (found.chosen_P.size, found.missing_K.tolist()) == (0, [2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"utility_P": np.array([np.nan])}, "no finite number"),
        ({"least_K": np.array([4.0])}, "above its most"),
    ],
)
def test_an_unsound_problem_is_refused(changes: dict[str, Any], message: str) -> None:
    """A utility that is no number and a minimum above the maximum are errors, not answers."""
    sound = Problem(np.ones(1), np.zeros(1, np.intp), np.zeros(1, np.intp), 1, np.zeros(1), np.ones(1))
    with pytest.raises(RunError, match=message):
        replace(sound, **changes)
