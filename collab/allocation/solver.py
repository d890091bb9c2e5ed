"""The exact assignment of greatest utility: a linear programme, and an integer one where it must be.

**Minima first.** A site that a subtask's minimum lacks costs 2 (K + 1) times the greatest utility, and
all bonuses. That is enough: where one more could be had, a simple cycle of the residual network
says how. It passes each of K subtasks once, so it adds and removes at most 2K pairs. The penalty does
not grow with the number of sites, but with the dearest step of a crowded cohort.

**Integral.** Without coverage the matrix is that of a network and totally unimodular (Hoffman and
Kruskal, 1956): the dual simplex ends in zeros and ones. Coverage rows break that. They are added only
for groups that the optimum without them leaves bare, which keeps it exact, as leaving out a row only
relaxes. If the vertex is then fractional, an integer programme is solved over the pairs whose reduced
cost is within the gap between the relaxation and a first assignment: no other can be chosen.

**Few columns.** Prices of the subtasks, estimated on 200 sites, tell which pairs are dominated. The
programme is solved without these, they are priced, those that pay are added, and so on until none
does (Dantzig and Wolfe, Operations Research, 1960): the optimum over all pairs.

**Ties.** Each pair's utility is moved by 1e-5 (1 + r) of itself, r in [0, 1) drawn in the order of the pairs,
up if it is above 0; else down by that part of the greatest utility, so that what is worth nothing serves a
minimum and no more. The optimum is unique but for a chance of about 1e-5 a tie, hence the same on every
machine, and within 2e-5 of its own utility for each pair chosen. Utilities below 1e-5 of the greatest are
told apart up to HiGHS's tolerance of 1e-10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from collab.allocation.contract import Request
from collab.allocation.programme import (
    TIE,
    Coverage,
    Crowding,
    Floats,
    Indices,
    Mask,
    Problem,
    Relaxation,
    no_groups,
    no_steps,
    nth_best,
    relax,
    whole,
)
from collab.allocation.residual import rises

__all__ = ["TIE", "Coverage", "Crowding", "Optimum", "Problem", "pose", "solve", "without_ties"]

_GAIN: Final = 1e-9  # of the greatest utility: what counts when a pair that was left out is priced
_SAMPLE: Final = 200  # sites on which prices are first estimated
_DIRECT: Final = 2_000  # so few pairs are solved at once


@dataclass(frozen=True)
class Optimum:
    """The assignment of greatest utility, and what would have changed it, in units of utility.

    Attributes:
        chosen_P: which pairs are assigned.
        missing_K: the sites that each subtask lacks of its minimum.
        site_price_N: the dual of a site's capacity: what one more place at it would be worth.
        subtask_price_K: the dual of a subtask's cohort: above 0 what one more place in a full one would
            be worth, below 0 what the last site of its minimum costs.
        rise_P: by how much the utility of a pair that was passed over must rise before it is chosen,
            all else equal; 0 for chosen pairs.
        is_exact: whether ``rise_P`` is that very number, as without coverage; else it is a lower bound.
    """

    chosen_P: Mask
    missing_K: Indices
    site_price_N: Floats
    subtask_price_K: Floats
    rise_P: Floats
    is_exact: bool


def pose(
    request: Request,
    pairs: Sequence[tuple[str, str]],
    utility_P: Floats,
    coverage: Coverage | None = None,
    crowding: Crowding | None = None,
) -> Problem:
    """Return the problem of the (site, subtask) ``pairs``, with the request's capacity and cohorts.

    Sites are numbered in order of their first pair, subtasks in that of the request.
    """
    site_of = {name: row for row, name in enumerate(dict.fromkeys(site for site, _ in pairs))}
    subtask_of = {s.name: row for row, s in enumerate(request.subtasks)}
    most_K = np.array([s.max_sites or max(len(site_of), s.min_sites) for s in request.subtasks], np.float64)
    return Problem(
        utility_P=utility_P,
        site_P=np.array([site_of[site] for site, _ in pairs], np.intp),
        subtask_P=np.array([subtask_of[subtask] for _, subtask in pairs], np.intp),
        capacity=request.capacity,
        least_K=np.minimum(most_K, [s.min_sites for s in request.subtasks]),
        most_K=most_K,
        coverage=coverage or no_groups(),
        crowding=crowding or no_steps(),
    )


def solve(problem: Problem, rng: np.random.Generator) -> Optimum:
    """Return the assignment of greatest utility among those that miss the fewest sites of the minima.

    Raises:
        RunError: HiGHS found no assignment, which no sound problem can cause.
    """
    unit = float(np.abs(problem.utility_P).max(initial=0.0)) or 1.0
    groups = replace(problem.coverage, bonus_G=problem.coverage.bonus_G / unit)
    steps = replace(problem.crowding, cost_J=problem.crowding.cost_J / unit)
    scaled = replace(problem, utility_P=without_ties(problem.utility_P, rng), coverage=groups, crowding=steps)
    linear, x_P, value = _covered(scaled, _promising(scaled, rng))
    chosen_P = x_P > 0.5
    if linear.is_integral:
        rise_P = rises(replace(scaled, utility_P=linear.credited_P), chosen_P)
    else:
        rise_P = np.maximum(0.0, value - linear.value - linear.reduced(scaled)) * ~chosen_P
    served_K = np.bincount(problem.subtask_P[chosen_P], minlength=problem.least_K.size)
    return Optimum(
        chosen_P=chosen_P,
        missing_K=np.maximum(0, problem.least_K - served_K).astype(np.intp),
        site_price_N=unit * linear.site_price_N,
        subtask_price_K=unit * linear.subtask_price_K,
        rise_P=unit * rise_P,
        is_exact=linear.is_integral and groups.pair_Q.size == 0,
    )


def without_ties(utility_P: Floats, rng: np.random.Generator) -> Floats:
    """Return utilities relative to the greatest in size, made distinct; where none is to gain, below zero."""
    tie_P = TIE * (1 + rng.random(utility_P.size))
    unit = float(np.abs(utility_P).max(initial=0.0)) or 1.0
    scaled_P = utility_P / unit
    return scaled_P + np.where(utility_P > 0, tie_P * scaled_P, -tie_P)


def _covered(problem: Problem, columns_P: Mask) -> tuple[Relaxation, Floats, float]:
    """Return the last relaxation, the optimum over all pairs and groups, and its objective."""
    groups = problem.coverage
    can_G = groups.count(np.ones(problem.utility_P.size, bool)) > 0
    rows_G = np.zeros_like(can_G)
    while True:
        linear, columns_P = _generate(problem, columns_P, rows_G)
        x_P, value = linear.x_P, linear.value
        if not linear.is_integral:
            x_P, value = _branch(problem, linear, columns_P, rows_G)
        bare_G = can_G & ~rows_G & (groups.count(x_P > 0.5) == 0)
        if not bare_G.any():
            return linear, x_P, value
        rows_G = rows_G | bare_G


def _promising(problem: Problem, rng: np.random.Generator) -> Mask:
    """Return the pairs that are best for their sites at prices estimated on a sample of the sites."""
    pairs, keep = problem.utility_P.size, (problem.capacity + 1) * problem.sites
    if pairs <= max(_DIRECT, keep):
        return np.ones(pairs, bool)
    drawn_N = np.zeros(problem.sites, bool)
    drawn_N[rng.permutation(problem.sites)[:_SAMPLE]] = True
    of_P, share = drawn_N[problem.site_P], drawn_N.mean()
    sample = Problem(
        utility_P=problem.utility_P[of_P],
        site_P=(np.cumsum(drawn_N) - 1)[problem.site_P[of_P]],
        subtask_P=problem.subtask_P[of_P],
        capacity=problem.capacity,
        least_K=problem.least_K * share,
        most_K=problem.most_K * share,
        crowding=replace(problem.crowding, width_J=problem.crowding.width_J * share),
    )
    prices_K = relax(sample, np.ones(sample.utility_P.size, bool), np.zeros(0, bool)).subtask_price_K
    net_P = problem.utility_P - prices_K[problem.subtask_P]
    behind_P = nth_best(net_P, problem.site_P, problem.sites, problem.capacity)[problem.site_P] - net_P
    kept_P: Mask = behind_P <= np.partition(behind_P, keep)[keep]
    return kept_P


def _generate(problem: Problem, columns_P: Mask, rows_G: Mask) -> tuple[Relaxation, Mask]:
    """Return the relaxation's optimum over all pairs, and the pairs that it was solved on."""
    while True:
        linear = relax(problem, columns_P, rows_G)
        entering_P = (linear.reduced(problem) > _GAIN) & ~columns_P
        if not (np.isfinite(linear.value) and entering_P.any()):
            return linear, columns_P
        columns_P = columns_P | entering_P


def _branch(problem: Problem, linear: Relaxation, columns_P: Mask, rows_G: Mask) -> tuple[Floats, float]:
    """Return the best assignment over all pairs and its objective, by reduced-cost fixing."""
    x_P, value = whole(problem, columns_P, rows_G)
    needed_P = columns_P | (linear.reduced(problem) >= value - linear.value - TIE)
    return (x_P, value) if (needed_P == columns_P).all() else whole(problem, needed_P, rows_G)
