"""What a site can do, and what becomes of suggestions, however bad."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab import plugins
from collab.allocation.contract import History, Request, SiteView, SubtaskView, Suggestion
from collab.allocation.feasibility import Plan, able, obstacles, plan
from collab.rng import generator
from protocol.errors import ConfigError

TUMOUR = SubtaskView("tumour", 1.0, 1, needs_memory_mib=64.0, needs_min_examples=20, smallest_model_mib=100.0)
DIGITS = SubtaskView("digits", 1.0, 2, needs_memory_mib=0.0, needs_min_examples=0, smallest_model_mib=0.0)
NORTH = SiteView("north", 256.0, False, 0.0, 100.0, 100.0, 1.0, {"tumour": 50, "digits": 9}, {"tumour": 1.0})
SOUTH = replace(NORTH, name="south", examples={"digits": 40})
REQUEST = Request(1, (TUMOUR, DIGITS), (NORTH, SOUTH), 1, {}, History({}), seed=11)


def plan_of(monkeypatch: pytest.MonkeyPatch, answer: Any, request: Request = REQUEST, **flags: Any) -> Plan:
    """The plan if the policy answers ``answer``, whatever it is asked."""
    policy = SimpleNamespace(allocate=lambda _request, _rng: answer, **flags)
    monkeypatch.setattr(plugins, "load", lambda _group, _name: policy)
    return plan("mine", request)


@pytest.mark.parametrize(
    ("site", "rules", "expected"),
    [
        (NORTH, {}, []),
        (SOUTH, {}, ["no data for it"]),
        (replace(NORTH, examples={"tumour": 0}), {}, ["no data for it"]),
        (replace(NORTH, examples={"tumour": 20}), {}, []),
        (replace(NORTH, examples={"tumour": 19}), {}, ["fewer than 20 examples (has 19)"]),
        (replace(NORTH, memory_mib=100.0), {}, []),
        (replace(NORTH, memory_mib=99.5), {}, ["no room for its smallest model of 100 MiB (has 99.5)"]),
        (NORTH, {"tumour": "gpu"}, ["rule not met: gpu"]),
        (NORTH, {"tumour": "not gpu", "digits": "gpu"}, []),
    ],
)
def test_each_obstacle_is_named(site: SiteView, rules: dict[str, str], expected: list[str]) -> None:
    """A need that is just met is no obstacle; one that is not is told with what was found."""
    assert obstacles(TUMOUR, site, rules) == expected


def test_all_obstacles_are_told_at_once() -> None:
    """A site learns everything that keeps it away, not only the first."""
    assert len(obstacles(TUMOUR, replace(SOUTH, memory_mib=1.0), {"tumour": "gpu"})) == 4


def test_a_bad_rule_is_a_config_error() -> None:
    """A rule that cannot be parsed stops the plan; a rule of a subtask that is not asked for does not."""
    with pytest.raises(ConfigError, match="rule"):
        plan("everyone", replace(REQUEST, rules={"digits": "memory >= 1"}))
    assert plan("everyone", replace(REQUEST, rules={"gone": "memory >= 1"})) == plan("everyone", REQUEST)


def test_able_lists_sites_by_name_and_leaves_out_the_idle() -> None:
    """``able`` is the table of obstacles turned round, in an order that does not depend on arrival."""
    idle = replace(NORTH, name="east", examples={})
    request = replace(REQUEST, sites=(SOUTH, idle, NORTH))
    assert able(request) == [(NORTH, (TUMOUR, DIGITS)), (SOUTH, (DIGITS,))]


def test_over_capacity_the_highest_score_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a site's suggestions the best are kept up to its capacity; the rest are refused with the cause."""
    low, high = Suggestion("north", "tumour", 0.1, "low"), Suggestion("north", "digits", 0.9, "high")
    for answer in ([low, high], [high, low]):
        planned = plan_of(monkeypatch, answer)
        assert planned.assignments == (high,)
        assert planned.refused == ((low, "over capacity: the site already has digits"),)


def test_a_policy_may_ignore_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``IGNORES_CAPACITY = True`` a site does all that is suggested, still each subtask once."""
    both = [Suggestion("north", name, 1.0, "all") for name in ("tumour", "digits", "digits")]
    planned = plan_of(monkeypatch, both, IGNORES_CAPACITY=True)
    assert [assigned.subtask for assigned in planned.assignments] == ["digits", "tumour"]
    assert [why for _, why in planned.refused] == ["suggested twice"]


@pytest.mark.parametrize(
    ("suggestion", "why"),
    [
        (Suggestion("south", "tumour", 1.0, "x"), "no data for it"),
        (
            Suggestion("west", "tumour", 1.0, "x"),
            "'west' and 'tumour' are not a site and a subtask of this round",
        ),
        (
            Suggestion("north", "notes", 1.0, "x"),
            "'north' and 'notes' are not a site and a subtask of this round",
        ),
        (Suggestion("north", "tumour", float("nan"), "x"), "its score is not a finite number"),
        (Suggestion("north", "tumour", float("inf"), "x"), "its score is not a finite number"),
        (Suggestion("north", "tumour", 10**400, "x"), "its score is not a finite number"),
        (Suggestion("north", "tumour", "1", "x"), "its score is not a finite number"),  # type: ignore[arg-type]
        (Suggestion("north", "tumour", 1.0, " "), "it gives no reason"),
        (Suggestion([], "tumour", 1.0, "x"), "site, subtask and reason must be text"),  # type: ignore[arg-type]
        (Suggestion("north", None, 1.0, "x"), "site, subtask and reason must be text"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_stand_is_refused_with_the_cause(
    suggestion: Suggestion, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad suggestion is dropped and explained; a good one beside it stands."""
    good = Suggestion("south", "digits", 1.0, "good")
    planned = plan_of(monkeypatch, [suggestion, good])
    assert planned.assignments == (good,)
    assert [reason for _, reason in planned.refused] == [why]


@pytest.mark.parametrize("answer", [None, 3, "north", {"north": "tumour"}, [("north", "tumour")], [None]])
def test_what_is_no_list_of_suggestions_is_a_config_error(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that answers with something else is named, with what it must return."""
    with pytest.raises(ConfigError, match=r"policy 'mine' returned .* Suggestion"):
        plan_of(monkeypatch, answer)


def test_a_policy_without_allocate_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point that points at the wrong object is a clear error."""
    monkeypatch.setattr(plugins, "load", lambda _group, _name: SimpleNamespace())
    with pytest.raises(ConfigError, match="has no function allocate"):
        plan("mine", REQUEST)


anything = st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.lists(st.integers()))
names = st.sampled_from(["north", "south", "tumour", "digits", "west"])
nonsense = st.builds(
    Suggestion, names | anything, names | anything, st.floats() | anything, st.just("x") | anything
)


@settings(deadline=None, derandomize=True)
@given(answer=st.lists(nonsense, max_size=12), order=st.randoms(use_true_random=False))
def test_no_nonsense_gets_through(answer: list[Suggestion], order: Any) -> None:
    """Whatever is suggested, each suggestion is kept or refused, and their order does not matter."""
    shuffled = list(answer)
    order.shuffle(shuffled)
    with pytest.MonkeyPatch.context() as patch:
        planned = plan_of(patch, answer)
        assert plan_of(patch, shuffled).assignments == planned.assignments
    assert len(planned.assignments) + len(planned.refused) == len(answer)
    assert {(a.site, a.subtask) for a in planned.assignments} <= {
        ("north", "tumour"),
        ("north", "digits"),
        ("south", "digits"),
    }


def test_the_generator_depends_on_seed_round_and_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy's randomness is derived, so a run that was killed and resumed draws the same."""
    drawn: list[float] = []

    def allocate(_request: Request, rng: np.random.Generator) -> list[Suggestion]:
        drawn.append(float(rng.random()))
        return []

    monkeypatch.setattr(plugins, "load", lambda _group, _name: SimpleNamespace(allocate=allocate))
    plan("mine", replace(REQUEST, round=4))
    assert drawn == [generator(11, 4, "allocation", "mine").random()]


def test_unserved_names_the_constraint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subtask below its minimum says what keeps each of the other sites from it."""
    small = replace(NORTH, name="east", memory_mib=80.0)
    request = replace(REQUEST, sites=(NORTH, SOUTH, small))
    planned = plan_of(monkeypatch, [Suggestion("north", "digits", 1.0, "x")], request)
    assert planned.unserved == {
        "tumour": "has 0 sites, needs 1; the others: 1 × no room for its smallest model of 100 MiB,"
        " 1 × busy (1 a site), 1 × no data for it",
        "digits": "has 1 sites, needs 2; the others: 2 × not chosen by policy 'mine'",
    }
    assert plan("mine", replace(request, sites=())).unserved["tumour"].endswith("there are none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": 0}, "max_subtasks_per_site is 0"),
        ({"sites": (NORTH, NORTH)}, "two sites are called 'north'"),
        ({"subtasks": (DIGITS, DIGITS)}, "two subtasks are called 'digits'"),
    ],
)
def test_a_request_that_makes_no_sense_cannot_be_made(changes: dict[str, Any], message: str) -> None:
    """Limits stand in the constructor."""
    with pytest.raises(ConfigError, match=message):
        replace(REQUEST, **changes)
