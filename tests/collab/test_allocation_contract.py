"""Laws that every allocation policy keeps, built in or installed: a new file is tested without a new test."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab import plugins
from collab.allocation.contract import History, Request, SiteView, SubtaskView, Suggestion
from collab.allocation.feasibility import obstacles, plan

POLICIES = plugins.names("allocation")
SUBTASKS = ("tumour", "digits", "progression", "notes")
RULES = ("memory_mib >= 128", "gpu", '"digits" in data and price < 2', "examples_per_s > 1e9")

every_policy = pytest.mark.parametrize("policy", POLICIES)
laws = settings(deadline=None, derandomize=True, max_examples=20)


def subtasks(name: str) -> st.SearchStrategy[SubtaskView]:
    """Subtasks of that name with and without needs."""
    return st.builds(
        SubtaskView,
        name=st.just(name),
        importance=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        min_sites=st.integers(0, 4),
        needs_memory_mib=st.sampled_from([0.0, 64.0]),
        needs_min_examples=st.sampled_from([0, 20]),
        smallest_model_mib=st.sampled_from([8.0, 256.0]),
    )


# memory_mib, gpu, gpu_memory_mib, examples_per_s, bandwidth_mbit, price
PROFILES = (
    SiteView("", 32.0, False, 0.0, 50.0, 1.0, 0.0, {}, {}),
    SiteView("", 128.0, True, 2048.0, 300.0, 20.0, 1.0, {}, {}),
    SiteView("", 4096.0, False, 0.0, 2000.0, 100.0, 1.5, {}, {}),
    SiteView("", 4096.0, True, 8192.0, 9000.0, 1000.0, 3.0, {}, {}),
)


def sites(name: str, names: tuple[str, ...]) -> st.SearchStrategy[SiteView]:
    """Sites of that name, from hardly able to able to all."""
    count, seconds = st.sampled_from([0, 10, 100, 1000]), st.sampled_from([0.0, 1.5, 40.0, math.inf])
    owned = st.dictionaries(st.sampled_from(names), st.tuples(count, seconds))
    return st.builds(
        lambda profile, has: replace(
            profile,
            name=name,
            examples={subtask: pair[0] for subtask, pair in has.items()},
            seconds={subtask: pair[1] for subtask, pair in has.items()},
        ),
        st.sampled_from(PROFILES),
        owned,
    )


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Rounds in which some pairs are feasible, some are not, and some rules bind."""
    names = SUBTASKS[: draw(st.integers(1, len(SUBTASKS)))]
    members = [f"site{index}" for index in range(draw(st.integers(1, 7)))]
    pairs = st.tuples(st.sampled_from(members), st.sampled_from(names))
    return Request(
        round=draw(st.integers(1, 30)),
        subtasks=tuple(draw(subtasks(name)) for name in names),
        sites=tuple(draw(sites(name, names)) for name in members),
        capacity=draw(st.integers(1, 3)),
        rules=draw(st.dictionaries(st.sampled_from(names), st.sampled_from(RULES))),
        history=History(draw(st.dictionaries(pairs, st.integers(1, 30)))),
        seed=draw(st.integers(0, 2**32)),
    )


def suggestions(policy: str, request: Request) -> list[Suggestion]:
    """What the policy answers before anything is refused."""
    found: list[Suggestion] = plugins.load("allocation", policy).allocate(request, np.random.default_rng(1))
    return found


@every_policy
@laws
@given(request_=requests())
def test_only_feasible_pairs_are_assigned(policy: str, request_: Request) -> None:
    """No site gets a subtask that it has an obstacle to."""
    subtask_of = {subtask.name: subtask for subtask in request_.subtasks}
    site_of = {site.name: site for site in request_.sites}
    for assigned in plan(policy, request_).assignments:
        assert obstacles(subtask_of[assigned.subtask], site_of[assigned.site], request_.rules) == []


@every_policy
@laws
@given(request_=requests())
def test_capacity_holds_and_no_pair_is_assigned_twice(policy: str, request_: Request) -> None:
    """A site holds at most its capacity, unless the policy ignores it, and each subtask once."""
    assignments = plan(policy, request_).assignments
    pairs = [(assigned.site, assigned.subtask) for assigned in assignments]
    assert len(pairs) == len(set(pairs))
    if not getattr(plugins.load("allocation", policy), "IGNORES_CAPACITY", False):
        assert all(count <= request_.capacity for count in Counter(site for site, _ in pairs).values())


@every_policy
@laws
@given(request_=requests(), order=st.randoms(use_true_random=False))
def test_same_seed_same_plan_in_any_order_of_sites(policy: str, request_: Request, order: object) -> None:
    """A plan is a function of what the request says, not of the order in which sites joined."""
    shuffled = list(request_.sites)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan(policy, request_) == plan(policy, replace(request_, sites=tuple(shuffled)))


@every_policy
@laws
@given(request_=requests())
def test_assignments_explain_themselves_and_are_sorted(policy: str, request_: Request) -> None:
    """Every assignment has a finite score and a reason, and they stand in order of (subtask, site)."""
    assignments = plan(policy, request_).assignments
    assert all(math.isfinite(assigned.score) and assigned.reason.strip() for assigned in assignments)
    assert list(assignments) == sorted(assignments, key=lambda assigned: (assigned.subtask, assigned.site))


@every_policy
@laws
@given(request_=requests())
def test_a_subtask_is_unserved_exactly_if_it_is_below_its_minimum(policy: str, request_: Request) -> None:
    """The plan accounts for every subtask: it has its sites, or the reason why not is told."""
    planned = plan(policy, request_)
    served = Counter(assigned.subtask for assigned in planned.assignments)
    below = {s.name for s in request_.subtasks if served[s.name] < max(1, s.min_sites)}
    assert planned.unserved.keys() == below
    assert all(sentence.strip() for sentence in planned.unserved.values())


@pytest.mark.parametrize("policy", plugins.built_in("allocation"))
@laws
@given(request_=requests())
def test_built_in_policies_suggest_nothing_in_vain(policy: str, request_: Request) -> None:
    """A user's policy may be naive; the built-in ones are examples and have no suggestion refused."""
    assert plan(policy, request_).refused == ()


@pytest.mark.parametrize("policy", plugins.built_in("allocation"))
@laws
@given(request_=requests())
def test_built_in_policies_do_not_depend_on_order_by_themselves(policy: str, request_: Request) -> None:
    """Called without ``plan``, a built-in policy gives the same for sites in reverse."""
    reverse = replace(request_, sites=request_.sites[::-1])
    assert suggestions(policy, request_) == suggestions(policy, reverse)


@every_policy
@laws
@given(request_=requests())
def test_nothing_in_nothing_out(policy: str, request_: Request) -> None:
    """Without sites or without subtasks a plan is empty, and no policy fails."""
    assert plan(policy, replace(request_, subtasks=())) == plan("everyone", replace(request_, subtasks=()))
    nobody = plan(policy, replace(request_, sites=()))
    assert (nobody.assignments, nobody.refused) == ((), ())
    assert nobody.unserved.keys() == {subtask.name for subtask in request_.subtasks}
