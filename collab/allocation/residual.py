"""By how much a pair that was passed over falls short: shortest paths in the residual network.

To add the pair (i, k) to an optimal assignment, subtask k must give a site up, or has room; the site
that it gives up falls idle or takes another subtask, and so on until site i has a place free. The
cheapest such chain is what the pair's utility must exceed (Ahuja, Magnanti and Orlin, Network Flows,
1993, ch. 9 and 11.3). Duals alone say less: an assignment has many, and most only bound it from below.

Chains are searched between the K subtasks and one node for "idle", over the cheapest site for each
step, by Floyd and Warshall's algorithm: N K² + K³ operations.
"""

from __future__ import annotations

import numpy as np

from collab.allocation.programme import Floats, Indices, Mask, Problem


def rises(problem: Problem, chosen_P: Mask) -> Floats:
    """Return by how much each pair's utility must rise before it is chosen, all else equal [P].

    ``chosen_P`` must be optimal for ``problem`` without its coverage. It is 0 for chosen pairs, and
    infinite where no rise would help: another subtask would be left below its minimum, or the pair's
    own has no place for any site.
    """
    N, K = problem.sites, problem.least_K.size
    utility_NK, chosen_NK = np.full((N, K), -np.inf), np.zeros((N, K), bool)
    utility_NK[problem.site_P, problem.subtask_P] = problem.utility_P
    chosen_NK[problem.site_P, problem.subtask_P] = chosen_P
    is_free_N = chosen_NK.sum(axis=1) < problem.capacity
    never = 2 * problem.penalty
    steps_LL = _exchanges(utility_NK, chosen_NK, is_free_N)
    chain_LL = _closure(_resizings(problem, steps_LL, chosen_NK.sum(axis=0), never))
    # The pair's site has a place free, or gives up a subtask: there the chain ends.
    ends_NL = np.column_stack([np.where(chosen_NK, utility_NK, np.inf), np.where(is_free_N, 0.0, np.inf)])
    cost_NK = np.min(chain_LL[None, :K, :] + ends_NL[:, None, :], axis=2, initial=np.inf)
    cost_P = cost_NK[problem.site_P, problem.subtask_P]
    rise_P = np.where(cost_P > never / 2, np.inf, np.maximum(0.0, cost_P - problem.utility_P))
    return np.where(chosen_P, 0.0, rise_P)


def _exchanges(utility_NK: Floats, chosen_NK: Mask, is_free_N: Mask) -> Floats:
    """Return what it costs that a site leaves one subtask for another [L, L], L = K + 1: the last is idle."""
    K = utility_NK.shape[1]
    cost_LL = np.full((K + 1, K + 1), np.inf)
    open_NK = np.where(chosen_NK, -np.inf, utility_NK)
    for k in range(K):
        mine_N = chosen_NK[:, k]
        cost_LL[k, :K] = (utility_NK[mine_N, k, None] - open_NK[mine_N]).min(axis=0, initial=np.inf)
        cost_LL[k, K] = utility_NK[mine_N, k].min(initial=np.inf)
    cost_LL[K, :K] = (-open_NK[is_free_N]).min(axis=0, initial=np.inf)
    np.fill_diagonal(cost_LL, 0.0)
    return cost_LL


def _resizings(problem: Problem, cost_LL: Floats, cohort_K: Indices, never: float) -> Floats:
    """Return the costs with those of cohorts that grow or shrink; to fall below a minimum costs ``never``."""
    next_K, last_K = _steps_at(problem, cohort_K)
    grow_K = np.where(cohort_K < problem.least_K, -never, next_K)
    grow_K = np.where(cohort_K < problem.most_K, grow_K, np.inf)
    shrink_K = np.where(cohort_K > problem.least_K, -last_K, never)
    shrink_K = np.where(cohort_K > 0, shrink_K, np.inf)
    resized_LL = cost_LL.copy()
    resized_LL[:-1, -1] = np.minimum(cost_LL[:-1, -1], grow_K)
    resized_LL[-1, :-1] = np.minimum(cost_LL[-1, :-1], shrink_K)
    return resized_LL


def _steps_at(problem: Problem, cohort_K: Indices) -> tuple[Floats, Floats]:
    """Return what one more site of each cohort would cost, and what its last one did; 0 where none is."""
    steps = problem.steps()
    next_K, last_K = np.zeros(cohort_K.size), np.zeros(cohort_K.size)
    for k, above in enumerate(cohort_K - problem.least_K):
        mine_J = steps.subtask_J == k
        ends_J, cost_J = np.cumsum(steps.width_J[mine_J]), steps.cost_J[mine_J]
        if 0 <= above < ends_J[-1:].sum():
            next_K[k] = cost_J[np.searchsorted(ends_J, above, side="right")]
        if above > 0:
            last_K[k] = cost_J[np.searchsorted(ends_J, above, side="left")]
    return next_K, last_K


def _closure(cost_LL: Floats) -> Floats:
    """Return the cheapest chain between any two nodes."""
    for via in range(len(cost_LL)):
        cost_LL = np.minimum(cost_LL, cost_LL[:, via, None] + cost_LL[None, via, :])
    return cost_LL
