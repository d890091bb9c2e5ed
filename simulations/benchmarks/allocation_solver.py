"""How fast and how exact is the assignment of sites to subtasks?

Run: python simulations/benchmarks/allocation_solver.py [--repeats 5] [--json FILE]

Prints, as Markdown, for each size the median time of ``collab.allocation.solver.solve`` (matrices,
columns, ties, duals and what each pair lacked are in it; reading sites into arrays is not), that of
HiGHS's linear programme on all pairs, of its integer programme on all pairs, and of
``linear_sum_assignment`` with a column for each place (capacity 1, up to 300 sites). Gaps are relative, of
the objective on the same utilities with the same ties moved; 0 means equal.

Three kinds of utilities: ``uniform``, independent in [0, 1]; ``alike``, log-normal with σ 0.7 of the
site, 0.3 of the subtask and 0.3 of the pair, so that all subtasks want the same sites; and ``crowded``, the
same with cohorts whose further sites are worth less and less, as the policy consilium has them. Three in
ten pairs are not feasible; a subtask wants 3 sites at least and half of its fair share at most, crowded
ones as many as there are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from collab.allocation import consilium, programme
from collab.allocation.programme import no_steps
from collab.allocation.solver import Crowding, Problem, solve, without_ties

SUBTASKS = 10
SIZES = ((100, 1), (300, 1), (1_000, 1), (1_000, 2), (10_000, 1), (10_000, 2))  # sites, capacity
KINDS = ("uniform", "alike", "crowded")
HUNGARIAN_SITES = 300
SEED = 20


def instance(kind: str, sites: int, capacity: int, seed: int = SEED) -> Problem:
    """Return a problem of that kind with ten subtasks."""
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        utility_NK = rng.random((sites, SUBTASKS))
    else:
        of_site, of_subtask = rng.lognormal(0, 0.7, (sites, 1)), rng.lognormal(0, 0.3, (1, SUBTASKS))
        utility_NK = of_site * of_subtask * rng.lognormal(0, 0.3, (sites, SUBTASKS))
    site_P, subtask_P = np.nonzero(rng.random((sites, SUBTASKS)) > 0.3)
    most = sites if kind == "crowded" else max(3, capacity * sites // (2 * SUBTASKS))
    utility_P = utility_NK[site_P, subtask_P]
    crowding = crowding_of(SUBTASKS, 3, most, capacity * sites / SUBTASKS, float(np.median(utility_P)))
    return Problem(
        utility_P=utility_P,
        site_P=site_P,
        subtask_P=subtask_P,
        capacity=capacity,
        least_K=np.full(SUBTASKS, 3.0),
        most_K=np.full(SUBTASKS, float(most)),
        crowding=crowding if kind == "crowded" else no_steps(),
    )


def crowding_of(subtasks: int, least: int, most: int, usual: float, typical: float) -> Crowding:
    """Return for every subtask the steps of the policy consilium at its default exponent."""
    made = [
        (k, width, typical * (1.0 - factor))
        for k in range(subtasks)
        for width, factor in consilium.places(least + 1, most, usual, consilium.Options().crowding)
    ]
    subtask_J, width_J, cost_J = zip(*made, strict=True)
    return Crowding(np.array(subtask_J, np.intp), np.array(width_J, np.float64), np.array(cost_J))


def scaled(problem: Problem) -> Problem:
    """Return the problem with the utilities that ``solve`` maximises, given the same generator."""
    unit = float(np.abs(problem.utility_P).max())
    steps = replace(problem.crowding, cost_J=problem.crowding.cost_J / unit)
    ties = np.random.default_rng(SEED)
    return replace(problem, utility_P=without_ties(problem.utility_P, ties), crowding=steps)


def worth(problem: Problem, chosen_P: NDArray[np.bool_]) -> float:
    """Return the objective of an assignment: utilities with ties moved, less what its cohorts' sites cost."""
    made = scaled(problem)
    steps, total = made.steps(), float(made.utility_P[chosen_P].sum())
    cohort_K = np.bincount(made.subtask_P[chosen_P], minlength=made.least_K.size)
    for k, above in enumerate(cohort_K - made.least_K):
        mine_J = steps.subtask_J == k
        ends_J = np.cumsum(steps.width_J[mine_J])
        used_J = np.clip(above - (ends_J - steps.width_J[mine_J]), 0.0, steps.width_J[mine_J])
        total -= float(used_J @ steps.cost_J[mine_J])
    return total


def by_integers(problem: Problem) -> NDArray[np.bool_]:
    """Return what branch and cut chooses among all pairs [P]."""
    every_P = np.ones(problem.utility_P.size, bool)
    return programme.whole(scaled(problem), every_P, np.zeros(0, bool))[0] > 0.5


def by_linear(problem: Problem) -> NDArray[np.bool_]:
    """Return what one linear programme of all pairs chooses [P]."""
    every_P = np.ones(problem.utility_P.size, bool)
    return programme.relax(scaled(problem), every_P, np.zeros(0, bool)).x_P > 0.5


def by_hungarian(problem: Problem) -> NDArray[np.bool_]:
    """Return what ``linear_sum_assignment`` chooses with a column a place and one a site for idleness [P].

    A subtask's first ``least`` places carry a reward, so that they are filled first.
    """
    sites, subtasks = problem.sites, problem.least_K.size
    value_NK = np.full((sites, subtasks), -1e6)
    value_NK[problem.site_P, problem.subtask_P] = scaled(problem).utility_P
    place_L = np.repeat(np.arange(subtasks), problem.most_K.astype(int))
    first_L = np.concatenate([np.arange(most) < 3 for most in problem.most_K.astype(int)])
    value_NL = np.hstack([value_NK[:, place_L] + 30.0 * first_L, np.zeros((sites, sites))])
    rows, columns = linear_sum_assignment(value_NL, maximize=True)
    busy = columns < place_L.size
    chosen_NK = np.zeros((sites, subtasks), bool)
    chosen_NK[rows[busy], place_L[columns[busy]]] = True
    return np.asarray(chosen_NK[problem.site_P, problem.subtask_P])


def clock(choose: Callable[[], NDArray[np.bool_]], repeats: int) -> tuple[NDArray[np.bool_], float]:
    """Return what is chosen and the median time in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        chosen_P = choose()
        times.append(1000 * (time.perf_counter() - start))
    return chosen_P, median(times)


def row(kind: str, sites: int, capacity: int, repeats: int) -> dict[str, Any]:
    """Return times in ms and gaps of one size; None where a method was not run."""
    problem = instance(kind, sites, capacity)
    chosen_P, solve_ms = clock(lambda: solve(problem, np.random.default_rng(SEED)).chosen_P, repeats)
    total = worth(problem, chosen_P)
    found: dict[str, Any] = {"kind": kind, "sites": sites, "capacity": capacity, "solve_ms": solve_ms}
    others = {"linear": by_linear, "milp": by_integers, "hungarian": by_hungarian}
    for name, choose in others.items():
        if name == "hungarian" and (sites > HUNGARIAN_SITES or capacity > 1 or kind == "crowded"):
            found |= {f"{name}_ms": None, f"{name}_gap": None}
            continue
        other_P, other_ms = clock(lambda choose=choose: choose(problem), 1)  # type: ignore[misc]
        found |= {f"{name}_ms": other_ms, f"{name}_gap": abs(worth(problem, other_P) / total - 1)}
    return found


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows as a Markdown table."""
    head = ["| utilities | sites × subtasks | capacity | solve | one LP | MILP | Hungarian | largest gap |"]
    head.append("|---|---|---|---|---|---|---|---|")
    return head + [
        f"| {r['kind']} | {r['sites']:,} × {SUBTASKS} | {r['capacity']} | "
        + " | ".join("-" if r[key] is None else f"{r[key]:,.0f} ms" for key in _TIMES)
        + f" | {max(r[key] for key in _GAPS if r[key] is not None):.0e} |"
        for r in rows
    ]


_TIMES = ("solve_ms", "linear_ms", "milp_ms", "hungarian_ms")
_GAPS = ("linear_gap", "milp_gap", "hungarian_gap")


def main() -> None:
    """Measure all sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    arguments = parser.parse_args()
    rows = [row(kind, *size, arguments.repeats) for size in SIZES for kind in KINDS]
    print(f"median of {arguments.repeats} for solve, one run of the others\n")
    print("\n".join(lines(rows)))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
