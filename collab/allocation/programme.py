"""The assignment problem, and the linear and integer programmes that HiGHS is given for it.

    maximise  Σ_p u_p x_p + Σ_g b_g z_g − Σ_j c_j e_j     over pairs p = (site i, subtask k), x_p in {0, 1}
    with      Σ_{p of i} x_p <= capacity,     Σ_{p of k} x_p + s_k − Σ_{j of k} e_j = least_k
              z_g <= Σ_{p in g} x_p,          z_g in [0, 1]
              s_k in [0, least_k],            e_j in [0, width_j],   Σ_{j of k} width_j = most_k − least_k

less a penalty for every s_k. The steps j are what each further site of a cohort costs; dearer ones come
later, so a linear programme fills them in order. One row a subtask for both its bounds keeps the matrix
small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csc_array

from protocol.errors import RunError

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

TIE: Final = 1e-5  # the smallest difference that counts between two assignments
_TOLERANCES: Final = MappingProxyType(
    {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
)


@dataclass(frozen=True)
class Coverage:
    """Groups of pairs, one for each (subtask, class) say, of which at least one is wanted.

    Attributes:
        group_Q: the group of each membership, 0 to G-1.
        pair_Q: the pair of each membership; all pairs of a group are of one subtask.
        bonus_G: what it is worth to choose at least one pair of the group; 0 or more.
    """

    group_Q: Indices
    pair_Q: Indices
    bonus_G: Floats

    def count(self, chosen_P: Mask) -> Indices:
        """Return how many of each group's pairs are chosen [G]."""
        return np.bincount(self.group_Q[chosen_P[self.pair_Q]], minlength=self.bonus_G.size)


@dataclass(frozen=True)
class Crowding:
    """What sites beyond a subtask's minimum cost, in steps; the last of a subtask's goes on for ever.

    Attributes:
        subtask_J: the subtask of each step; those of one subtask follow each other, the costs rising.
        width_J: how many sites the step is wide, above 0.
        cost_J: what each site of the step costs; below 0 it is a gain.

    Raises:
        RunError: a later step costs less: more sites would be a reason for still more.
    """

    subtask_J: Indices
    width_J: Floats
    cost_J: Floats

    def __post_init__(self) -> None:
        follows_J = np.diff(self.subtask_J) == 0
        if (np.diff(self.cost_J)[follows_J] < 0).any() or (np.diff(self.subtask_J) < 0).any():
            raise RunError("allocation: what further sites of a cohort cost must rise with their number")


def no_groups() -> Coverage:
    """Return a coverage that asks for nothing."""
    return Coverage(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))


def no_steps() -> Crowding:
    """Return a crowding that costs nothing."""
    return Crowding(np.zeros(0, np.intp), np.zeros(0), np.zeros(0))


@dataclass(frozen=True)
class Problem:
    """What is to be assigned.

    Attributes:
        utility_P: what each feasible pair is worth; it may be negative.
        site_P: its site, 0 to N-1.
        subtask_P: its subtask, 0 to K-1.
        capacity: the most subtasks of one site.
        least_K: the sites that each subtask should have.
        most_K: the most sites of each subtask.
        coverage: groups of pairs of which one each is wanted.
        crowding: what each further site of a cohort costs.

    Raises:
        RunError: utilities that are no finite numbers, or a minimum above its maximum.
    """

    utility_P: Floats
    site_P: Indices
    subtask_P: Indices
    capacity: int
    least_K: Floats
    most_K: Floats
    coverage: Coverage = field(default_factory=no_groups)
    crowding: Crowding = field(default_factory=no_steps)

    def __post_init__(self) -> None:
        if not np.isfinite(self.utility_P).all():
            raise RunError("allocation: a pair's utility is no finite number, check the policy's factors")
        if (self.least_K > self.most_K).any():
            raise RunError("allocation: a subtask's least number of sites is above its most")

    @property
    def sites(self) -> int:
        """N."""
        return int(self.site_P.max(initial=-1)) + 1

    @property
    def penalty(self) -> float:
        """What a missing site of a minimum costs, bonuses apart: more than one more can (see ``solver``)."""
        dearest = 2 * float(np.abs(self.crowding.cost_J).max(initial=0.0))
        greatest = max(1.0, float(np.abs(self.utility_P).max(initial=0.0)))
        return 2 * (self.least_K.size + 1) * greatest + dearest

    def steps(self) -> Crowding:
        """Return the steps of all cohorts from their minima to their maxima.

        Where the steps of a subtask end before its maximum, the last of them goes on; without any, further
        sites cost nothing.
        """
        found: list[tuple[int, float, float]] = []
        for k, room in enumerate(self.most_K - self.least_K):
            left, last = float(room), 0.0
            for j in np.flatnonzero(self.crowding.subtask_J == k):
                last = float(self.crowding.cost_J[j])
                width = min(float(self.crowding.width_J[j]), left)
                if width > 0:
                    found.append((k, width, last))
                left -= width
            if left > 0:
                found.append((k, left, last))
        subtask_J, width_J, cost_J = zip(*found, strict=True) if found else ((), (), ())
        return Crowding(np.array(subtask_J, np.intp), np.array(width_J), np.array(cost_J))


@dataclass(frozen=True)
class Relaxation:
    """A vertex of the linear programme and its duals, which are exact whether or not it is integral.

    Attributes:
        x_P: the vertex; 0 for pairs that were left out.
        value: its objective, penalties included; infinite, with all prices 0, if none was found.
        site_price_N: dual of each site's capacity, 0 or more.
        subtask_price_K: dual of each subtask's row; below 0 where a minimum binds.
        credited_P: utility and the duals of the pair's groups, for all pairs.
    """

    x_P: Floats
    value: float
    site_price_N: Floats
    subtask_price_K: Floats
    credited_P: Floats

    @property
    def is_integral(self) -> bool:
        """Whether the vertex is an assignment."""
        return bool(np.isfinite(self.value) and np.abs(self.x_P - np.round(self.x_P)).max(initial=0.0) < 1e-6)

    def reduced(self, problem: Problem) -> Floats:
        """Return what each pair is worth above the prices of its site and its subtask [P]."""
        prices_P = self.site_price_N[problem.site_P] + self.subtask_price_K[problem.subtask_P]
        return self.credited_P - prices_P


@dataclass(frozen=True)
class _Programme:
    """Columns: C pairs, K shortfalls, J steps above the minima, G groups with a row. Minimised."""

    cost: Floats
    upper: Floats
    below: csc_array  # sites that can be full, then groups
    limit: Floats
    equal: csc_array  # subtasks
    least_K: Floats


def relax(problem: Problem, columns_P: Mask, rows_G: Mask) -> Relaxation:
    """Return the optimum over the pairs ``columns_P``; a group without a row counts as covered."""
    columns = np.flatnonzero(columns_P)
    made = _programme(problem, columns, rows_G)
    found = linprog(
        made.cost,
        made.below,
        made.limit,
        made.equal,
        made.least_K,
        bounds=np.column_stack([np.zeros_like(made.upper), made.upper]),
        method="highs-ds",
        # Dominated pairs are gone already: presolve finds little more and takes as long as the simplex.
        options={**_TOLERANCES, "presolve": False},
    )
    x_P = np.zeros(problem.utility_P.size)
    subtask_price_K, class_price_G = np.zeros(problem.least_K.size), np.zeros(rows_G.size)
    if not found.success:
        return Relaxation(x_P, np.inf, np.zeros(problem.sites), subtask_price_K, problem.utility_P)
    x_P[columns] = found.x[: columns.size]
    subtask_price_K = -np.asarray(found.eqlin.marginals)
    class_price_G[rows_G] = -found.ineqlin.marginals[made.limit.size - rows_G.sum() :]
    groups = problem.coverage
    shares_Q = class_price_G[groups.group_Q]
    credited_P = problem.utility_P + np.bincount(groups.pair_Q, weights=shares_Q, minlength=x_P.size)
    net = credited_P[columns] - subtask_price_K[problem.subtask_P[columns]]
    site_price_N = nth_best(net, problem.site_P[columns], problem.sites, problem.capacity)
    return Relaxation(x_P, -found.fun, site_price_N, subtask_price_K, credited_P)


def whole(problem: Problem, columns_P: Mask, rows_G: Mask) -> tuple[Floats, float]:
    """Return the best assignment of the pairs ``columns_P`` [P], and its objective, by branch and cut.

    Raises:
        RunError: HiGHS found none, which no sound problem can cause.
    """
    columns = np.flatnonzero(columns_P)
    made = _programme(problem, columns, rows_G)
    # HiGHS stops at a gap of 1e-6, absolute, which is wider than the ties: hence cost / TIE.
    found = milp(
        made.cost / TIE,
        integrality=np.ones_like(made.cost),
        bounds=Bounds(0.0, made.upper),
        constraints=[
            LinearConstraint(made.below, -np.inf, made.limit),
            LinearConstraint(made.equal, made.least_K, made.least_K),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if not found.success:
        raise RunError(f"allocation: the integer programme has no solution: {found.message}")
    x_P = np.zeros(problem.utility_P.size)
    x_P[columns] = np.round(found.x[: columns.size])
    return x_P, -float(made.cost @ np.round(found.x))


def _programme(problem: Problem, columns: Indices, rows_G: Mask) -> _Programme:
    steps = problem.steps()
    C, K, J, G = columns.size, problem.least_K.size, steps.cost_J.size, int(rows_G.sum())
    bonus_G = problem.coverage.bonus_G[rows_G]
    below, limit = _below(problem, columns, rows_G, J)
    row_E = np.concatenate([problem.subtask_P[columns], np.arange(K), steps.subtask_J])
    sign_E = np.concatenate([np.ones(C + K), -np.ones(J)])
    equal = csc_array((sign_E, (row_E, np.arange(C + K + J))), shape=(K, C + K + J + G))
    penalty = problem.penalty + bonus_G.sum()
    return _Programme(
        cost=np.concatenate([-problem.utility_P[columns], np.full(K, penalty), steps.cost_J, -bonus_G]),
        upper=np.concatenate([np.ones(C), problem.least_K, steps.width_J, np.ones(G)]),
        below=below,
        limit=limit,
        equal=equal,
        least_K=np.asarray(problem.least_K, np.float64),
    )


def _below(problem: Problem, columns: Indices, rows_G: Mask, steps: int) -> tuple[csc_array, Floats]:
    """Return the rows of the sites that can be full, then those of the groups, and their limits."""
    site_C, G = problem.site_P[columns], int(rows_G.sum())
    width = columns.size + problem.least_K.size + steps
    can_fill_N = np.bincount(site_C, minlength=problem.sites) > problem.capacity
    row_N, full = np.cumsum(can_fill_N) - 1, int(can_fill_N.sum())
    at_C = np.flatnonzero(can_fill_N[site_C])
    group_R, column_R = _memberships(problem, columns, rows_G)
    sign_E = np.concatenate([np.ones(at_C.size), -np.ones(group_R.size), np.ones(G)])
    row_E = np.concatenate([row_N[site_C[at_C]], full + group_R, full + np.arange(G)])
    column_E = np.concatenate([at_C, column_R, width + np.arange(G)])
    below = csc_array((sign_E, (row_E, column_E)), shape=(full + G, width + G))
    return below, np.concatenate([np.full(full, float(problem.capacity)), np.zeros(G)])


def _memberships(problem: Problem, columns: Indices, rows_G: Mask) -> tuple[Indices, Indices]:
    """Return (row of the group, column of the pair) of all memberships that are in the programme [R]."""
    column_P = np.full(problem.utility_P.size, -1)
    column_P[columns] = np.arange(columns.size)
    row_G = np.cumsum(rows_G) - 1
    groups = problem.coverage
    used_Q = rows_G[groups.group_Q] & (column_P[groups.pair_Q] >= 0)
    return row_G[groups.group_Q[used_Q]], column_P[groups.pair_Q[used_Q]]


def nth_best(net_C: Floats, site_C: Indices, sites: int, n: int) -> Floats:
    """Return each site's n-th largest entry [N], or 0 where it has fewer or that is below 0."""
    order = np.lexsort((-net_C, site_C))
    ordered = site_C[order]
    first = np.searchsorted(ordered, np.arange(sites))
    rank = np.arange(ordered.size) - first[ordered]
    best_N = np.zeros(sites)
    best_N[ordered[rank == n - 1]] = np.maximum(0.0, net_C[order][rank == n - 1])
    return best_N
