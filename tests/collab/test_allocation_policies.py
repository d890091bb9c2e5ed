"""What each simple policy promises beyond the contract."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from collab.allocation.contract import History, Request, SiteView, SubtaskView
from collab.allocation.feasibility import plan

SUBTASKS = ("tumour", "digits", "progression", "notes")


def request_of(
    owned: list[frozenset[str]], capacity: int = 1, rules: dict[str, str] | None = None
) -> Request:
    """A request in which site i can do the subtasks ``owned[i]`` and no other."""
    sites = (
        SiteView(
            f"s{i}", 1024.0, False, 0.0, 1.0, 1.0, 1.0, dict.fromkeys(names, 10), dict.fromkeys(names, 1.0)
        )
        for i, names in enumerate(owned)
    )
    subtasks = tuple(SubtaskView(name, 1.0, 0, 0.0, 0, 0.0) for name in SUBTASKS)
    return Request(1, subtasks, tuple(sites), capacity, rules or {}, History({}), seed=5)


owners = st.lists(st.frozensets(st.sampled_from(SUBTASKS)), min_size=1, max_size=6)


def pairs(policy: str, request: Request) -> set[tuple[str, str]]:
    """The planned (site, subtask) pairs."""
    return {(assigned.site, assigned.subtask) for assigned in plan(policy, request).assignments}


@settings(deadline=None, derandomize=True)
@given(owned=owners, capacity=st.integers(1, 4))
def test_everyone_assigns_every_feasible_pair(owned: list[frozenset[str]], capacity: int) -> None:
    """Full participation is every feasible pair, whatever the capacity."""
    expected = {(f"s{i}", name) for i, names in enumerate(owned) for name in names}
    assert pairs("everyone", request_of(owned, capacity)) == expected


@settings(deadline=None, derandomize=True)
@given(owned=owners, capacity=st.integers(1, 4), start=st.integers(1, 50))
def test_round_robin_returns_to_every_pair_in_one_turn(
    owned: list[frozenset[str]], capacity: int, start: int
) -> None:
    """A site that can do f subtasks and holds c does each within any ceil(f / c) rounds."""
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for i, names in enumerate(owned):
        for number in range(start, start + math.ceil(len(names) / capacity)):
            now = pairs("round_robin", replace(request_of(owned, capacity), round=number))
            seen[f"s{i}"] |= {subtask for site, subtask in now if site == f"s{i}"}
        assert seen[f"s{i}"] == names


@settings(deadline=None, derandomize=True)
@given(count=st.integers(1, 12), capacity=st.integers(1, 4), number=st.integers(1, 50))
def test_round_robin_is_balanced_among_equals(count: int, capacity: int, number: int) -> None:
    """Among sites that can do the same, subtasks differ by at most one site in a round."""
    request = replace(request_of([frozenset(SUBTASKS)] * count, capacity), round=number)
    served = Counter(subtask for _, subtask in pairs("round_robin", request))
    sizes = [served[name] for name in SUBTASKS]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == count * capacity


@settings(deadline=None, derandomize=True)
@given(owned=owners, capacity=st.integers(1, 4))
def test_random_fills_every_site(owned: list[frozenset[str]], capacity: int) -> None:
    """Each site gets its capacity, or all that it can do if that is less."""
    load = Counter(site for site, _ in pairs("random", request_of(owned, capacity)))
    assert [load[f"s{i}"] for i in range(len(owned))] == [min(capacity, len(names)) for names in owned]


def test_random_draws_anew_in_each_round_and_evenly() -> None:
    """Over many rounds each of four subtasks gets about a quarter of the draws (6 standard deviations)."""
    request = request_of([frozenset(SUBTASKS)] * 5)
    served = Counter(
        subtask for number in range(1, 201) for _, subtask in pairs("random", replace(request, round=number))
    )
    assert all(abs(served[name] - 250) < 6 * math.sqrt(1000 * 0.25 * 0.75) for name in SUBTASKS)


def test_rules_fill_a_site_in_the_order_of_the_file() -> None:
    """Ruled subtasks come first in the order of the rules, open ones after in the subtasks' order."""
    rules = {"notes": "memory_mib > 1", "progression": "gpu", "digits": "price <= 1"}
    for capacity, expected in enumerate(
        (["notes"], ["notes", "digits"], ["notes", "digits", "tumour"]), start=1
    ):
        planned = plan("rules", request_of([frozenset(SUBTASKS)], capacity, rules)).assignments
        assert [a.subtask for a in sorted(planned, key=lambda a: -a.score)] == expected


def test_rules_say_which_rule_let_a_site_in() -> None:
    """The reason quotes the rule; a subtask without one is open to all that can do it, and says so."""
    request = request_of([frozenset(SUBTASKS)], 2, {"notes": "memory_mib > 1"})
    reasons = {assigned.subtask: assigned.reason for assigned in plan("rules", request).assignments}
    assert reasons["notes"] == "meets the rule memory_mib > 1"
    assert reasons["tumour"].startswith("no rule")
