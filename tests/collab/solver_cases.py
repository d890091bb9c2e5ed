"""Problems small enough to try every subset of pairs, and what the best subset is worth."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
from hypothesis import strategies as st

from collab.allocation.solver import TIE, Coverage, Crowding, Optimum, Problem, solve

UTILITIES = st.sampled_from([-1.0, -0.2, 0.0, 0.1, 0.3, 0.35, 0.7, 1.0, 2.5])


@st.composite
def problems(draw: st.DrawFn, coverage: bool = False, crowding: bool = False) -> Problem:
    """At most 10 pairs of 4 sites and 3 subtasks, so that every subset can be tried."""
    sites, subtasks = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    every = list(product(range(sites), range(subtasks)))
    pairs = draw(st.lists(st.sampled_from(every), unique=True, min_size=1, max_size=10))
    least_K = np.array([float(draw(st.integers(0, 3))) for _ in range(subtasks)])
    most_K = least_K + [float(draw(st.integers(0, 3))) for _ in range(subtasks)]
    made = Problem(
        utility_P=np.array([draw(UTILITIES) for _ in pairs]),
        site_P=np.array([site for site, _ in pairs], np.intp),
        subtask_P=np.array([subtask for _, subtask in pairs], np.intp),
        capacity=draw(st.integers(1, 2)),
        least_K=least_K,
        most_K=most_K,
    )
    made = replace(made, coverage=draw(coverages(made))) if coverage else made
    return replace(made, crowding=draw(crowdings(subtasks))) if crowding else made


@st.composite
def crowdings(draw: st.DrawFn, subtasks: int) -> Crowding:
    """Up to three steps a subtask, gains and costs, the dearest last."""
    costs = st.lists(st.sampled_from([-0.6, -0.25, 0.0, 0.15, 0.4, 0.9]), max_size=3).map(sorted)
    found = [(k, draw(st.integers(1, 2)), cost) for k in range(subtasks) for cost in draw(costs)]
    table = np.array(found, np.float64).reshape(-1, 3)
    return Crowding(table[:, 0].astype(np.intp), table[:, 1], table[:, 2])


@st.composite
def coverages(draw: st.DrawFn, problem: Problem) -> Coverage:
    """Up to two classes a subtask, each held by some of its pairs."""
    found: list[tuple[int, int]] = []
    groups = 0
    for subtask in range(problem.least_K.size):
        own = [int(pair) for pair in np.flatnonzero(problem.subtask_P == subtask)]
        for _ in range(draw(st.integers(0, 2))):
            holders = draw(st.lists(st.sampled_from(own), unique=True)) if own else []
            found += [(groups, pair) for pair in holders]
            groups += 1
    memberships = np.array(found, np.intp).reshape(-1, 2)
    bonus_G = np.array([draw(st.sampled_from([0.0, 0.2, 0.8])) for _ in range(groups)])
    return Coverage(memberships[:, 0], memberships[:, 1], bonus_G)


def worth(problem: Problem, chosen_P: np.ndarray) -> tuple[float, float]:
    """The sites missing from the minima, and the utility with bonuses; missing is infinite if not allowed."""
    cohort_K = np.bincount(problem.subtask_P[chosen_P], minlength=problem.least_K.size)
    load_N = np.bincount(problem.site_P[chosen_P])
    if (cohort_K > problem.most_K).any() or (load_N > problem.capacity).any():
        return np.inf, 0.0
    bonus = problem.coverage.bonus_G[problem.coverage.count(chosen_P) > 0].sum()
    missing = np.maximum(0, problem.least_K - cohort_K).sum()
    crowded = sum(crowd(problem, k, int(n - problem.least_K[k])) for k, n in enumerate(cohort_K))
    return float(missing), float(problem.utility_P[chosen_P].sum() + bonus - crowded)


def crowd(problem: Problem, subtask: int, above: int) -> float:
    """What so many sites above a minimum cost: site by site, the last step going on for ever."""
    mine = problem.crowding.subtask_J == subtask
    widths, costs = problem.crowding.width_J[mine], problem.crowding.cost_J[mine]
    each = [cost for width, cost in zip(widths, costs, strict=True) for _ in range(int(width))]
    return float(sum((each + [each[-1] if each else 0.0] * max(above, 0))[: max(above, 0)]))


def brute_force(problem: Problem) -> tuple[float, float]:
    """The fewest missing sites, and the greatest utility at that, over all subsets of pairs."""
    subsets = product([False, True], repeat=problem.utility_P.size)
    missing, negative = min((m, -w) for m, w in (worth(problem, np.array(s)) for s in subsets))
    return missing, -negative


def solved(problem: Problem, seed: int = 0) -> Optimum:
    """The optimum with the ties of that seed."""
    return solve(problem, np.random.default_rng(seed))


def slack(problem: Problem) -> float:
    """What ties can cost: 2e-5 of the greatest utility for each pair, on both sides."""
    return 4 * TIE * (float(np.abs(problem.utility_P).max()) or 1.0) * problem.utility_P.size
