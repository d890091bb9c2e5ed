"""The default policy against its formula, and what it says of the pairs that it passes over."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations, product
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.allocation import consilium
from collab.allocation.budgets import LOW
from collab.allocation.contract import Belief, History, Request, SiteView, SubtaskView
from collab.allocation.feasibility import plan
from collab.allocation.solver import TIE
from protocol.errors import ConfigError
from tests.collab.consilium_cases import PLAIN, SUBTASKS, candidate, request_of, site, subtask

laws = settings(deadline=None, derandomize=True, max_examples=60)


@st.composite
def instances(draw: st.DrawFn) -> Request:
    """Requests of at most 4 sites and 3 subtasks, small enough to try every assignment."""
    names = SUBTASKS[: draw(st.integers(1, 3))]
    owners = st.lists(st.sampled_from(names), unique=True, min_size=1).map(tuple)
    trust = st.sampled_from([0.0, 0.5, 1.0])
    sites = [
        site(f"s{i}", draw(owners), reputation=draw(trust), on_probation=draw(st.booleans()))
        for i in range(draw(st.integers(1, 4)))
    ]
    sizes = [(draw(st.integers(0, 2)), draw(st.sampled_from([None, 2, 3]))) for _ in names]
    subtasks = [
        subtask(
            name, least, max_sites=most, weight=draw(st.floats(0.1, 2)), exploration=draw(st.floats(1, 2))
        )
        for name, (least, most) in zip(names, sizes, strict=True)
    ]
    beliefs = st.builds(Belief, gain=st.floats(0.01, 1), gain_sd=st.floats(0, 1), seconds=st.floats(1, 100))
    pairs = st.tuples(st.sampled_from([s.name for s in sites]), st.sampled_from(names))
    known = draw(st.dictionaries(pairs, beliefs))
    capacity = draw(st.integers(1, 2))
    return Request(6, tuple(subtasks), tuple(sites), capacity, {}, History({}), seed=7, beliefs=known)


def seconds(request: Request, s: SiteView, name: str) -> float:
    """The believed time of a pair, or the one predicted from the capability."""
    found = request.beliefs.get((s.name, name))
    return found.seconds if found else s.seconds[name]


def utility(request: Request, s: SiteView, k: SubtaskView, price: float) -> float:
    """The formula of the module's docstring, written a second time, with β = 0.5 and κ = 2."""
    belief = request.belief(s.name, k.name)
    middle = median(seconds(request, o, k.name) for o in request.sites if k.name in o.examples)
    gain = belief.gain + k.exploration * 2 * belief.gain_sd
    trust = s.reputation * (0.5 if s.on_probation else 1)
    slow = math.sqrt(seconds(request, s, k.name) / middle)
    return k.importance * k.weight * gain * trust / slow - price * s.price * seconds(request, s, k.name)


def brute_force(request: Request, price: float) -> tuple[int, float]:
    """The least sites missing from the minima, and the greatest utility at that, over all assignments."""
    best = (10**9, 0.0)
    sets = [
        [c for size in range(request.capacity + 1) for c in combinations(can, size)]
        for can in ([k for k in request.subtasks if k.name in s.examples] for s in request.sites)
    ]
    for answer in product(*sets):
        served = Counter(k.name for chosen in answer for k in chosen)
        if all(served[k.name] <= (k.max_sites or 9) for k in request.subtasks):
            missing = sum(max(0, k.min_sites - served[k.name]) for k in request.subtasks)
            pairs = [(s, k) for s, chosen in zip(request.sites, answer, strict=True) for k in chosen]
            best = min(best, (missing, -sum(utility(request, s, k, price) for s, k in pairs)))
    return best[0], -best[1]


@laws
@given(request_=instances(), price=st.sampled_from([0.0, 0.01]))
def test_plan_has_the_greatest_total_utility(request_: Request, price: float) -> None:
    """No assignment misses fewer sites of the minima, nor has more utility by the stated formula."""
    options = {"beta": 0.5, "kappa": 2.0, "price": price, "coverage": 0.0, "crowding": 0.0}
    assignments = plan("consilium", request_, options).assignments
    served = Counter(a.subtask for a in assignments)
    missing, greatest = brute_force(request_, price)
    assert sum(max(0, k.min_sites - served[k.name]) for k in request_.subtasks) == missing
    all_ = [
        utility(request_, s, k, price)
        for s in request_.sites
        for k in request_.subtasks
        if k.name in s.examples
    ]
    slack = 4 * TIE * max(map(abs, all_)) * len(all_)
    assert sum(a.score for a in assignments) == pytest.approx(greatest, abs=slack + 1e-12)


@laws
@given(request_=instances())
def test_every_pair_is_told_why_and_what_it_lacks(request_: Request) -> None:
    """Each feasible pair is assigned or a candidate with its score and a reason."""
    planned = plan("consilium", request_)
    assigned = {(a.site, a.subtask) for a in planned.assignments}
    feasible = {(s.name, name) for s in request_.sites for name in s.examples}
    candidates = {(c.site, c.subtask): c for c in planned.passed_over if (c.site, c.subtask) in feasible}
    assert candidates.keys() == feasible - assigned
    assert all(c.reason.startswith("worth ") and math.isfinite(c.score) for c in candidates.values())


@pytest.mark.parametrize("capacity", [1, 2])
def test_with_what_it_lacked_a_pair_is_chosen(capacity: int) -> None:
    """A pair whose gain rises by a little more than it lacks is chosen; by a little less it is not."""
    names = [f"s{i}" for i in range(6)]
    pairs = list(product(names, SUBTASKS))
    gains = {pair: 0.1 + (37 * index * index + 11 * index) % 89 / 89 for index, pair in enumerate(pairs)}
    subtasks = [subtask("tumour", 2, max_sites=2), subtask("digits", 1, max_sites=2), subtask("progression")]
    request = request_of(subtasks, [site(name) for name in names], gains, capacity)
    planned = plan("consilium", request, PLAIN)
    found = [(c, re.search(r"it lacks ([\d.]+)$", c.reason)) for c in planned.passed_over]
    lacking = [((c.site, c.subtask), float(match[1])) for c, match in found if match]
    assert len(lacking) >= 5
    for key, lack in lacking:
        for rise, is_chosen in ((lack + 0.006, True), (lack - 0.006, False)):
            raised = replace(request, beliefs={**request.beliefs, key: Belief(gains[key] + rise, 0.0, 10.0)})
            assigned = plan("consilium", raised, PLAIN).assignments
            assert (key in {(a.site, a.subtask) for a in assigned}) is is_chosen


def test_reason_of_a_pair_that_lost_its_site_to_another_subtask() -> None:
    """It says what the site does instead, what that is worth, and by how much this falls short."""
    gains = {("north", "tumour"): 0.31, ("north", "digits"): 0.45}
    request = request_of([subtask("tumour"), subtask("digits")], [site("north", SUBTASKS[:2])], gains)
    reason = candidate(plan("consilium", request, PLAIN), "north", "tumour").reason
    assert reason == "worth 0.31: digits is worth 0.45 to the site; it lacks 0.14"


def test_reason_of_a_pair_that_found_the_cohort_full() -> None:
    """It says how large the cohort is, and what is lacking to the least of its sites."""
    names = ["north", "south", "east"]
    gains = {(name, "tumour"): gain for name, gain in zip(names, [0.5, 0.2, 0.3], strict=True)}
    request = request_of([subtask("tumour", max_sites=2)], [site(n, ("tumour",)) for n in names], gains)
    reason = candidate(plan("consilium", request, PLAIN), "south", "tumour").reason
    assert reason == "worth 0.2: the cohort is full at 2; it lacks 0.1"


def test_reason_of_a_pair_whose_site_a_minimum_needs() -> None:
    """Where a minimum holds the site, it says so, and that no worth would change it."""
    gains = {("north", "tumour"): 0.9, ("north", "digits"): 0.1}
    request = request_of([subtask("tumour"), subtask("digits", 1)], [site("north", SUBTASKS[:2])], gains)
    planned = plan("consilium", request, PLAIN)
    assert [a.subtask for a in planned.assignments] == ["digits"]
    assert candidate(planned, "north", "tumour").reason == (
        "worth 0.9: digits is worth 0.1 to the site and needs it for its minimum of 1; "
        "no worth of its own would do, a minimum comes first"
    )


def test_a_reason_gives_the_factors() -> None:
    """The reason of an assignment is the formula's factors in words."""
    beliefs = {("north", "tumour"): Belief(0.1, 0.05, 20.0), ("south", "tumour"): Belief(0.3, 0.0, 10.0)}
    sites = [site("north", ("tumour",), reputation=0.5, on_probation=True), site("south", ("tumour",))]
    request = replace(request_of([subtask("tumour", weight=2.0)], sites, {}), beliefs=beliefs)
    options = {"price": 0.001, "beta": 1.0, "crowding": 1.0}
    reason = plan("consilium", request, options).assignments[0].reason
    assert reason == (
        "utility 0.0362: gain 0.15 at best, importance 1 × weight 2, reputation 0.5, half on probation, "
        "20 s (1.33 of the median), as one of 2, less 0.02 for its price, "
        "67 % of its epochs, to finish with the others"
    ).replace("0.0362", f"{2 * 0.15 * 0.25 / (4 / 3) / 2 - 0.02:.3g}")


def test_cohorts_of_equal_sites_follow_what_their_subtasks_are_worth() -> None:
    """With crowding the j-th site is worth 1 / j: six sites split 2 to 1 where one subtask is worth twice."""
    names = [f"s{i}" for i in range(6)]
    gains = {(name, k): gain for name in names for k, gain in (("tumour", 0.2), ("digits", 0.1))}
    request = request_of(
        [subtask("tumour"), subtask("digits")], [site(n, SUBTASKS[:2]) for n in names], gains
    )
    served = {
        crowding: Counter(
            a.subtask for a in plan("consilium", request, PLAIN | {"crowding": crowding}).assignments
        )
        for crowding in (0.0, 1.0)
    }
    assert served == {0.0: {"tumour": 6}, 1.0: {"tumour": 4, "digits": 2}}


def test_a_large_cohort_is_weighed_in_wider_steps_all_the_same() -> None:
    """With more sites than are weighed one by one, equal subtasks still get cohorts of equal size."""
    names = [f"s{i:03d}" for i in range(240)]
    gains = dict.fromkeys(product(names, SUBTASKS[:2]), 0.1)
    request = request_of(
        [subtask("tumour"), subtask("digits")], [site(n, SUBTASKS[:2]) for n in names], gains
    )
    served = Counter(a.subtask for a in plan("consilium", request, PLAIN | {"crowding": 1.0}).assignments)
    assert served["tumour"] + served["digits"] == 240
    assert abs(served["tumour"] - served["digits"]) <= 8


def test_a_class_that_one_site_alone_holds_is_bought_with_the_bonus() -> None:
    """With coverage the cohort takes the lesser site with the missing class; without, the better one."""
    gains = {("a", "tumour"): 0.5, ("b", "tumour"): 0.5, ("c", "tumour"): 0.45}
    held = {"a": (9.0, 0.0), "b": (7.0, 0.0), "c": (1.0, 3.0)}
    sites = [site(name, ("tumour",), class_counts={"tumour": counts}) for name, counts in held.items()]
    request = request_of([subtask("tumour", max_sites=2)], sites, gains)

    def cohort(coverage: float) -> set[str]:
        return {a.site for a in plan("consilium", request, {"coverage": coverage}).assignments}

    assert cohort(0.0) == {"a", "b"}
    assert "c" in cohort(0.25)


def test_every_pair_comes_round_as_its_uncertainty_grows() -> None:
    """Beliefs that grow unsure with time let no feasible pair of positive importance starve."""
    sites = [site(f"s{i}") for i in range(4)]
    subtasks = [subtask("tumour", importance=2.0), subtask("digits"), subtask("progression", importance=0.5)]
    asked = dict.fromkeys(product([s.name for s in sites], SUBTASKS), 0)
    times: Counter[tuple[str, str]] = Counter()
    for number in range(1, 61):
        beliefs = {pair: Belief(0.1, 0.05 * (number - last), 10.0) for pair, last in asked.items()}
        request = replace(request_of(subtasks, sites, {}), round=number, beliefs=beliefs)
        pairs = [(a.site, a.subtask) for a in plan("consilium", request).assignments]
        asked |= dict.fromkeys(pairs, number)
        times.update(pairs)
    assert len(times) == 12
    assert min(times.values()) >= 4


@laws
@given(request_=instances(), rise=st.floats(0.1, 5))
def test_feedback_in_favour_of_a_pair_never_loses_it_its_place(request_: Request, rise: float) -> None:
    """A pair that was chosen is chosen again if only its own gain has risen."""
    options = {"beta": 0.5, "kappa": 1.0, "coverage": 0.0, "crowding": 0.0}
    assigned = plan("consilium", request_, options).assignments
    for first in assigned[:2]:
        belief = request_.belief(first.site, first.subtask)
        s = next(s for s in request_.sites if s.name == first.site)
        better = replace(belief, gain=belief.gain + rise, seconds=seconds(request_, s, first.subtask))
        raised = replace(request_, beliefs={**request_.beliefs, (first.site, first.subtask): better})
        after = {(a.site, a.subtask) for a in plan("consilium", raised, options).assignments}
        assert (first.site, first.subtask) in after or first.score <= 0


def test_the_sites_of_a_round_finish_together() -> None:
    """Budgets times seconds are one time but where a bound holds; on the mean they are ``work``."""
    times = {"a": 5.0, "b": 10.0, "c": 20.0, "d": 10.0, "e": 500.0}
    beliefs = {(name, "tumour"): Belief(0.1, 0.0, time) for name, time in times.items()}
    request = request_of([subtask("tumour", 5)], [site(name, ("tumour",)) for name in times], {})
    request = replace(request, beliefs=beliefs)
    budgets = {a.site: a.budget for a in plan("consilium", request, {"work": 0.9, "most": 1.5}).assignments}
    assert sum(budgets.values()) == pytest.approx(0.9 * len(times))
    assert budgets["e"] == pytest.approx(LOW)
    ends = {round(budgets[name] * times[name], 9) for name in budgets if LOW < budgets[name] < 1.5}
    assert len(ends) == 1
    assert all(1.5 * times[name] <= max(ends) for name in budgets if budgets[name] == 1.5)
    assert budgets["a"] == 1.5
    alike = plan("consilium", request, {"work": 1.0, "most": 1.0}).assignments
    assert {a.budget for a in alike} == {1.0}


def test_what_costs_more_than_it_gains_serves_a_minimum_and_no_more() -> None:
    """A pair below zero, and one that never finishes, are asked only where a minimum needs them."""
    dear = [site(f"s{i}", ("tumour",), price=5.0) for i in range(3)]
    gains = {(s.name, "tumour"): 0.1 for s in dear}
    never = {(s.name, "tumour"): Belief(0.1, 0.1, math.inf) for s in dear}
    for least in (0, 2):
        request = request_of([subtask("tumour", least)], dear, gains)
        planned = plan("consilium", request, {"price": 1.0})
        assert len(planned.assignments) == least
        assert all(a.score < 0 and "for its minimum of 2 sites" in a.reason for a in planned.assignments)
        assert all("no more than it costs" in c.reason for c in planned.passed_over)
        assert len(plan("consilium", replace(request, beliefs=never)).assignments) == least


@pytest.mark.parametrize("name", ["beta", "kappa", "price", "coverage", "crowding"])
@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_an_option_out_of_range_is_refused(name: str, value: float) -> None:
    """Every number is 0 or more and finite; the message names the option."""
    with pytest.raises(ConfigError, match=f"{name} is"):
        consilium.Options(**{name: value})  # type: ignore[arg-type]
