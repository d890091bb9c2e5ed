"""The allocator's benchmarks: references agree, and ratios compare the same work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from collab.allocation.budgets import LOW
from collab.allocation.consilium import Options
from simulations.benchmarks import allocation_solver, makespan


@pytest.mark.parametrize("kind", allocation_solver.KINDS)
def test_all_solvers_find_the_same_assignment(kind: str) -> None:
    """Column generation, one linear programme, branch and cut and the Hungarian method agree pair by pair."""
    problem = allocation_solver.instance(kind, 80, 1)
    chosen_P = allocation_solver.by_integers(problem)
    row = allocation_solver.row(kind, 80, 1, repeats=1)
    assert max(row["linear_gap"], row["milp_gap"], row["hungarian_gap"]) < 1e-9
    for other in (allocation_solver.by_linear, allocation_solver.by_hungarian):
        assert other(problem).tolist() == chosen_P.tolist()


def test_an_instance_binds_in_both_directions() -> None:
    """Subtasks want fewer sites than there are, so sites compete; the row says what was not run."""
    problem = allocation_solver.instance("alike", 60, 2)
    assert problem.most_K.sum() < problem.capacity * problem.sites
    row = allocation_solver.row("alike", 60, 2, repeats=1)
    assert (row["hungarian_ms"], row["hungarian_gap"]) == (None, None)
    (line,) = allocation_solver.lines([row])[2:]
    assert line.startswith("| alike | 60 × 10 | 2 | ")
    assert " - |" in line


def test_the_stated_ratio_is_below_the_bar() -> None:
    """Log-normal 0.7, ten sites, predictions off by a tenth: at most 0.45 of equal work on average."""
    found = makespan.measure(range(200))
    assert found["mean"] <= makespan.BAR
    assert found["seeds"] == 200


def test_equal_speeds_leave_nothing_to_gain() -> None:
    """With equal speeds and perfect predictions the ratio is 1; with wrong predictions it is a loss."""
    equal = makespan.Case("equal", sigma=0.0, error=0.0)
    assert makespan.measure(range(20), equal)["mean"] == pytest.approx(1.0)
    assert makespan.measure(range(20), replace(equal, error=0.1))["mean"] > 1.0


def test_perfect_predictions_give_harmonic_mean_over_maximum() -> None:
    """Without bounds and errors the ratio is the harmonic mean of the seconds over the largest."""
    case = replace(makespan.STATED, error=0.0)
    seconds_N = np.exp(case.sigma * np.random.default_rng(4).standard_normal(case.cohort))
    harmonic = case.cohort / (1 / seconds_N).sum()
    assert makespan.ratio(case, 4)[0] == pytest.approx(harmonic / seconds_N.max())


def test_total_work_is_the_same_on_both_sides() -> None:
    """Budgets do the stated mean share of the epochs; bounds and a fixed part weaken the gain."""
    free = makespan.measure(range(100))
    bounded = makespan.measure(range(100), replace(makespan.STATED, bounds=(0.25, 1.0)))
    assert free["work"] == pytest.approx(0.5)
    assert bounded["work"] == pytest.approx(0.5)
    assert free["mean"] < bounded["mean"] < 1
    assert makespan.measure(range(100), replace(makespan.STATED, fixed=0.2))["mean"] > free["mean"]


def test_the_policy_s_budgets_meet_the_bar() -> None:
    """The shares that `consilium` gives are within its bounds, of its mean, and meet the bar of 0.45."""
    (case,) = (c for c in makespan.CASES if "consilium" in c.name)
    share_N = makespan.shares(case, np.exp(0.7 * np.random.default_rng(1).standard_normal(10)))
    assert share_N.mean() == pytest.approx(Options().work)
    assert LOW <= share_N.min() <= share_N.max() <= Options().most
    assert makespan.measure(range(200), case)["mean"] <= makespan.BAR
    (line,) = makespan.lines([makespan.measure(range(5), case)])[2:]
    assert line.startswith(f"| {case.name} | 0.")
