"""Which subtasks a round works on, where some train together and others come after them."""

from __future__ import annotations

from collab.groups import Groups
from collab.sequence import Sequence
from collab.terms import SubtaskTerms


def sequence(groups: Groups) -> Sequence:
    """Return three that train together for three rounds, and a fourth after the first of them."""
    own = {"kind": "tabular_classification", "labels": 2, "until_round": 3}
    subtasks = {name: SubtaskTerms.model_validate(own) for name in ("a", "b", "c")}
    late = {**own, "until_round": None, "after": ["a"]}
    return Sequence(subtasks | {"late": SubtaskTerms.model_validate(late)}, groups)


def test_only_leaders_are_worked_on() -> None:
    """Who follows is trained under the leader's name; after the split each group has its own."""
    groups = Groups({"abc": ("a", "b", "c")})
    told = sequence(groups)
    assert told.active(1) == ["a"]
    groups.split("abc", [("a", "c"), ("b",)])
    assert told.active(2) == ["a", "b"]


def test_a_member_is_over_once_its_group_is() -> None:
    """At its target while another of the group goes on, its model still changes: nothing is settled yet."""
    groups = Groups({"abc": ("a", "b", "c")})
    told = sequence(groups)
    told.reached_target("a")
    assert told.unsettled(1) == []
    assert told.active(2) == ["a"]
    groups.split("abc", [("a",), ("b", "c")])
    assert told.unsettled(2) == ["a"]
    told.settled("a", has_model=True)
    assert told.active(3) == ["b", "late"]


def test_a_group_is_over_after_its_last_round() -> None:
    """All of a family have the same one, split or not."""
    told = sequence(Groups({"abc": ("a", "b", "c")}))
    assert told.unfinished(3) == ["late"]
    assert told.unsettled(3) == ["a"]
    told.settled("a", has_model=False)
    assert told.unfinished(3) == []
    assert "'late' (no final model of 'a')" in told.never_started()
