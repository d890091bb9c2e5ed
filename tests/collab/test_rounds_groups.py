"""The state machine with a family: one leader while all train together, then a leader for each group."""

from __future__ import annotations

from typing import Any

import pytest

from collab.collaboration import Collaboration
from collab.events import Grouped
from collab.groups import Groups
from collab.settings import parse
from tests.collab.round_cases import Story, arrived, evaluated, joined, rejected

NAMES = ("a", "b", "c")


def terms(policy: Any = "everyone", **subtask: Any) -> Collaboration:
    """Return a family of three that is split after the first round."""
    own = {"kind": "tabular_classification", "labels": 2, "metric": "accuracy", "models": ["mlp_small"]}
    tables = {
        "name": "case",
        "rounds": 9,
        "subtasks": {name: {**own, **subtask} for name in (*NAMES, "lone")},
        "decomposition": {"abc": {"by": "affinity", "subtasks": list(NAMES), "merge_rounds": 1}},
        "allocation": {"policy": policy},
        "coordination": {"quorum": 1.0, "grace_s": 5, "deadline_s": 60, "min_coverage": 0, "patience": 2},
    }
    return parse(tables, "case")


def grouped(at_s: float, *groups: tuple[str, ...], round_: int = 1) -> Grouped:
    """Return the split of the family into these groups."""
    zeros = ((0.0,) * 3,) * 3
    return Grouped(
        at_s=at_s,
        round=round_,
        family="abc",
        subtasks=NAMES,
        groups=groups,
        affinity=zeros,
        standard_errors=zeros,
        value=0.0,
        exact=True,
        looked=0,
    )


def story(**said: Any) -> Story:
    """Return a run of two sites: ``one`` has all of the family, ``two`` has no ``a``."""
    return Story(terms(**said), joined("one", a=10, b=10, c=10), joined("two", b=20, c=20))


def test_followers_are_not_allocated() -> None:
    """The leader's cohort takes in a site that has a follower's data alone; nobody does a follower."""
    told = story()
    assert [line for line in told.opening if line.startswith("send")] == [
        "send a to one, attempt 1",
        "send a to two, attempt 1",
    ]
    of = {task.send.site: task.of for task in told.machine.cohorts["a"].tasks.values()}
    assert of == {"one": {"a": 10, "b": 10, "c": 10}, "two": {"b": 20, "c": 20}}


def test_all_of_a_group_are_measured() -> None:
    """The round ends when each subtask of the group has been measured, in whatever order."""
    told = story()
    told.tell(arrived(1, "one"))
    assert told.tell(arrived(2, "two")) == ["aggregate a of one two, 100%", "evaluate a b c"]
    assert told.tell(evaluated(3, subtask="c")) == []
    assert told.tell(evaluated(3, subtask="c")) == []  # said twice, it counts once
    assert told.tell(evaluated(3, subtask="a")) == []
    assert told.tell(evaluated(3, subtask="b"))[:2] == [
        "send a to one, attempt 1",
        "send a to two, attempt 1",
    ]


def test_a_group_is_waited_for_as_long_as_all_of_it_takes() -> None:
    """A site is overdue by the seconds of what it has of the group, not by the leader's alone."""
    sent = [task.send for task in story().machine.cohorts["a"].tasks.values()]
    patience = {send.site: send.patience_s or 0.0 for send in sent}
    assert patience["one"] - 5 == pytest.approx((patience["two"] - 5) * 3 / 2)


def test_groups_lead_from_the_next_round_on() -> None:
    """Told after the merge and before the measures, the split holds from the next allocation on."""
    told = story()
    told.tell(arrived(1, "one"), arrived(2, "two"), grouped(2, ("a", "c"), ("b",)))
    said = told.tell(*(evaluated(3, subtask=name) for name in NAMES))
    assert said[:4] == [
        "send a to one, attempt 1",
        "send a to two, attempt 1",
        "send b to one, attempt 1",
        "send b to two, attempt 1",
    ]
    told.tell(arrived(4, "one", "a", 2), arrived(5, "two", "a", 2), arrived(5, "one", "b", 2))
    assert told.tell(arrived(6, "two", "b", 2)) == ["aggregate b of one two, 100%", "evaluate a c b"]


def test_what_is_no_partition_changes_nothing() -> None:
    """Groups that lose, double or invent a subtask are not taken, nor those of another family."""
    groups = Groups({"abc": NAMES})
    for wrong in ([("a", "b")], [("a",), ("b",), ("c", "a")], [("a", "b", "d")], [("a", "b", "c"), ()]):
        assert not groups.split("abc", wrong)
    assert not groups.split("other", [NAMES])
    assert groups.led_by("a") == NAMES
    assert groups.leaders(("a", "b", "c", "lone")) == ["a", "lone"]


def test_capacity_counts_a_group_once() -> None:
    """A group is one assignment of max_subtasks_per_site, and takes the seconds of all its parts."""
    told = story(policy="round_robin")
    view = told.machine.roster.site_view("two", 1)
    assert view.examples["a"] == 40
    assert view.seconds["a"] == pytest.approx(view.seconds["b"] + view.seconds["c"])
    assert sum(line.startswith("send") for line in told.opening) == 2


def test_the_gain_of_each_counts() -> None:
    """A group's weight in the allocation is the sum of its subtasks', and so is what a site gains it."""
    told = story(importance=2.0)
    roster = told.machine.roster
    group, alone = roster.subtask_view("a"), roster.subtask_view("lone")
    assert group.together == NAMES
    assert (group.importance, alone.importance) == (6.0, 2.0)
    one, two = (roster.belief(site, "a", 1) for site in ("one", "two"))
    # Before anything is known each subtask is worth as much, and two has two of the three.
    assert two.gain == pytest.approx(one.gain * 2 / 3)
    told.tell(arrived(1, "one"), arrived(2, "two"))
    told.tell(*(evaluated(3, subtask=name).model_copy(update={"loss": 0.5}) for name in NAMES))
    assert roster.belief("two", "a", 2).attempts == 1
    assert roster.beliefs.belief("one", "a", 1.0, 2).gain > roster.beliefs.belief("two", "a", 1.0, 2).gain


def test_a_group_goes_on_while_one_of_it_has_not_reached_its_target() -> None:
    """Its target stops a subtask only with its whole group."""
    told = story(target=0.9)
    told.tell(arrived(1, "one"), arrived(2, "two"))
    told.tell(evaluated(3, subtask="a", value=0.95), evaluated(3, subtask="b", value=0.95))
    assert "send a to one, attempt 1" in told.tell(evaluated(3, subtask="c", value=0.5))
    told.tell(arrived(4, "one", "a", 2), arrived(5, "two", "a", 2))
    told.tell(*(evaluated(6, 2, name, 0.95) for name in ("a", "b")))
    assert not any(line.startswith("send a") for line in told.tell(evaluated(6, 2, "c", 0.95)))


def test_a_failed_assignment_is_handed_on_to_whoever_has_a_part() -> None:
    """A substitute need not have the leader's data, and a failure counts for all that was asked for."""
    told = Story(terms(max_sites=1), joined("one", a=90, b=90), joined("two", b=5))
    assert told.opening[0] == "send a to one, attempt 1"
    assert told.tell(rejected(1, "one"))[0] == "send a to two, attempt 2"
    beliefs = told.machine.roster.beliefs
    assert [beliefs.belief("one", name, 1.0, 1).attempts for name in NAMES] == [1, 1, 0]
    assert told.tell(arrived(2, "two", attempt=2)) == ["aggregate a of two, 3%", "evaluate a b c"]
    told.tell(*(evaluated(3, subtask=name).model_copy(update={"loss": 0.5}) for name in NAMES))
    # What was learnt of a is not of two, which has none.
    assert beliefs.last_round("two", "a") == 0
    assert beliefs.last_round("two", "b") == 1
