"""The assignment of greatest total utility, as a linear programme.

    maximise  sum_ik u_ik x_ik     over x_ik in [0, 1], for the feasible pairs
    with      sum_k x_ik <= capacity of a site,   sum_i x_ik + s_k >= min_sites of subtask k

    u_ik = importance_k * weight_k * share_ik * (1 + waited_ik) / (1 + seconds_ik / median_k)

share_ik is the site's part of the examples that the feasible sites have for k, waited_ik the
rounds since the pair last contributed (so every feasible pair comes round), median_k the
median of the feasible sites' seconds; a site without a prediction counts as the median.
Prices play no part.

The shortfall s_k in [0, min_sites_k] costs more than all utility together: if the minima
cannot all be met, the fewest sites possible are missing. The matrix is that of a bipartite
graph and totally unimodular (Hoffman and Kruskal, 1956), so the dual simplex ends in a vertex
of zeros and ones; should rounding deny that, an integer programme is solved instead.

Ties: each pair's utility, as a part of the greatest, is raised by 1e-5 * (1 + r), r in [0, 1)
drawn from the round's generator over (site by name, subtask in order). The optimum is then
unique but for a chance of about 1e-5 a tie, hence the same on every machine, and within
2e-5 of the greatest utility for each assignment.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from collab.allocation.contract import Request, SiteView, SubtaskView, Suggestion
from collab.allocation.feasibility import able
from protocol.errors import RunError

TIE = 1e-5
_TOLERANCES = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@dataclass(frozen=True)
class _Pair:
    site: str
    subtask: SubtaskView
    share: float
    seconds: float
    waited: int
    utility: float


def allocate(request: Request, rng: np.random.Generator) -> list[Suggestion]:
    """Suggest the assignment of greatest total utility; the score is the pair's utility."""
    pairs = _pairs(request)
    if not pairs:
        return []
    chosen = _solve(request, pairs, _without_ties(np.array([pair.utility for pair in pairs]), rng))
    served = Counter(pair.subtask.name for pair in chosen)
    return [_suggest(pair, served[pair.subtask.name]) for pair in chosen]


def _pairs(request: Request) -> list[_Pair]:
    sites_of: defaultdict[str, list[SiteView]] = defaultdict(list)
    feasible = able(request)
    for site, subtasks in feasible:
        for subtask in subtasks:
            sites_of[subtask.name].append(site)
    totals = {name: sum(s.examples[name] for s in sites) for name, sites in sites_of.items()}
    medians = {name: _median_seconds(sites, name) for name, sites in sites_of.items()}
    return [
        _pair(request, site, subtask, totals[subtask.name], medians[subtask.name])
        for site, subtasks in feasible
        for subtask in subtasks
    ]


def _pair(request: Request, site: SiteView, subtask: SubtaskView, total: int, middle: float) -> _Pair:
    share = site.examples[subtask.name] / total
    waited = max(0, request.round - request.history.last_round.get((site.name, subtask.name), 0) - 1)
    seconds = site.seconds.get(subtask.name, middle)
    # Infinite seconds come from a rate of zero: the slowest possible, not an error.
    slowness = seconds / middle if middle > 0 and math.isfinite(seconds) else seconds
    utility = subtask.importance * subtask.weight * share * (1 + waited) / (1 + slowness)
    return _Pair(site.name, subtask, share, seconds, waited, utility)


def _median_seconds(sites: list[SiteView], subtask: str) -> float:
    known = [s.seconds[subtask] for s in sites if math.isfinite(s.seconds.get(subtask, math.inf))]
    return median(known) if known else 0.0


def _without_ties(utilities: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return utilities relative to the greatest, made distinct; below zero where there is none to gain."""
    tie = TIE * (1 + rng.random(utilities.size))
    greatest = utilities.max()
    return np.where(utilities > 0, utilities / greatest + tie, -tie) if greatest > 0 else -tie


def _solve(request: Request, pairs: list[_Pair], gain_P: NDArray[np.float64]) -> list[_Pair]:
    sites = {name: row for row, name in enumerate(dict.fromkeys(pair.site for pair in pairs))}
    subtasks = {s.name: len(sites) + row for row, s in enumerate(request.subtasks)}
    minima_K = np.array([float(s.min_sites) for s in request.subtasks])
    P, K = len(pairs), len(subtasks)
    # Rows: capacity of each site, then minus the minimum of each subtask. Columns: pairs, shortfalls.
    rows = (
        [sites[p.site] for p in pairs] + [subtasks[p.subtask.name] for p in pairs] + list(subtasks.values())
    )
    columns = [*range(P), *range(P), *range(P, P + K)]
    values = [1.0] * P + [-1.0] * (P + K)
    matrix = csr_array((values, (rows, columns)), shape=(len(sites) + K, P + K))
    limit = np.concatenate([np.full(len(sites), float(request.capacity)), -minima_K])
    cost = np.concatenate([-gain_P, np.full(K, 1.0 + np.abs(gain_P).sum())])
    upper = np.concatenate([np.ones(P), minima_K])
    solution = _vertex(cost, matrix, limit, upper)
    return [pair for pair, taken in zip(pairs, solution[:P], strict=True) if taken > 0.5]


def _vertex(
    cost: NDArray[np.float64], matrix: csr_array, limit: NDArray[np.float64], upper: NDArray[np.float64]
) -> NDArray[np.float64]:
    bounds = np.column_stack([np.zeros_like(upper), upper])
    found = linprog(cost, matrix, limit, bounds=bounds, method="highs-ds", options=_TOLERANCES)
    if found.success and np.abs(found.x - np.round(found.x)).max() < 1e-6:
        return np.asarray(found.x)
    constraint = LinearConstraint(matrix, -np.inf, limit)
    # Its gaps, 1e-4 relative and 1e-6 absolute by default, are wider than the ties: hence cost / TIE.
    found = milp(
        cost / TIE,
        integrality=np.ones_like(cost),
        bounds=Bounds(0.0, upper),
        constraints=constraint,
        options={"mip_rel_gap": 0.0},
    )
    if not found.success:
        raise RunError(f"allocation policy 'assignment' found no assignment: {found.message}")
    return np.asarray(found.x)


def _suggest(pair: _Pair, served: int) -> Suggestion:
    parts = [
        f"{_short(100 * pair.share)} % of the examples",
        f"{_short(pair.seconds)} s",
        f"waited {pair.waited} round{'' if pair.waited == 1 else 's'}",
    ]
    if served < pair.subtask.min_sites:
        parts.append(f"{served} of the {pair.subtask.min_sites} sites that it needs, no more can be had")
    reason = f"utility {_short(pair.utility)}: {', '.join(parts)}"
    return Suggestion(pair.site, pair.subtask.name, pair.utility, reason)


def _short(value: float) -> str:
    return f"{value:.0f}" if 1000 <= value < 1e9 else f"{value:.3g}"
