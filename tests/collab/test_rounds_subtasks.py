"""The state machine with several subtasks: one barrier a round, targets that free sites, what is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from collab import plugins
from collab.allocation.contract import Suggestion
from tests.collab.round_cases import Story, arrived, evaluated, joined, lost, passed, terms


def test_a_round_is_one_barrier() -> None:
    """A subtask that is merged waits for the other before both are measured, and then for both measures."""
    story = Story(terms(["a", "b"]), joined("one", a=10), joined("two", b=10))
    assert story.tell(arrived(1, "two", "b")) == ["aggregate b of two, 100%", "wait until 60"]
    assert story.tell(arrived(2, "one")) == ["aggregate a of one, 100%", "evaluate a b"]
    assert story.tell(evaluated(3, subtask="b")) == []
    assert story.tell(evaluated(4, subtask="a")) == [
        "send a to one, attempt 1",
        "send b to two, attempt 1",
        "wait until 64",
    ]


def test_each_subtask_has_its_own_deadline() -> None:
    """The wait is for the next that is due; a subtask's own coordination takes the place of the general."""
    own = {"deadline_s": 20, "min_coverage": 0}
    story = Story(terms({"a": {"coordination": own}, "b": {}}), joined("one", a=10, b=10))
    assert story.opening[-1] == "wait until 20"
    assert story.tell(passed(20)) == ["skip a: nobody contributed; asked: one", "wait until 60"]


def test_a_skipped_subtask_is_not_measured() -> None:
    """Its model is what it was, so only the others are measured."""
    story = Story(terms(["a", "b"]), joined("one", a=10), joined("two", b=10))
    story.tell(arrived(1, "two", "b"))
    assert story.tell(lost("one", 2)) == ["skip a: nobody contributed; asked: one", "evaluate b"]


def test_a_subtask_that_nobody_can_do_is_skipped() -> None:
    """The reason says what kept each site from it; the rest of the round takes place."""
    story = Story(terms(["a", "b"]), joined("one", a=10))
    assert story.opening[0] == "send a to one, attempt 1"
    assert story.opening[1].startswith("skip b: has 0 sites, needs 1; the others: 1 × no data for it")
    assert story.tell(arrived(1, "one")) == ["aggregate a of one, 100%", "evaluate a"]
    assert story.tell(evaluated(2))[0] == "send a to one, attempt 1"


def test_a_run_in_which_nobody_can_do_anything_ends() -> None:
    """Without a single assignment the run stops at once and gives the reason."""
    story = Story(terms(rules={"a": "gpu"}), joined("one"))
    assert story.opening[-1] == (
        "abort: round 1: nobody can do anything: a: has 0 sites, needs 1; the others: 1 × rule not met: gpu"
    )


def test_a_run_without_sites_does_not_start() -> None:
    """No site has joined: the first round is the last."""
    assert Story(terms()).opening == ["abort: round 1: all sites are gone; start them and run again"]


def test_a_target_frees_the_sites() -> None:
    """A subtask at its target is asked of nobody again, so its site turns to what is left."""
    collaboration = terms({"a": {"target": 0.9}, "b": {}}, policy="rules", rules={"a": "price >= 0"})
    story = Story(collaboration, joined("one", a=10, b=10), joined("two", b=10))
    assert story.opening[:2] == ["send a to one, attempt 1", "send b to two, attempt 1"]
    story.tell(arrived(1, "one"), arrived(1, "two", "b"), evaluated(2, value=0.95))
    assert story.tell(evaluated(2, subtask="b")) == [
        "send b to one, attempt 1",
        "send b to two, attempt 1",
        "wait until 62",
    ]


def test_a_run_whose_targets_are_reached_finishes() -> None:
    """When no subtask is left the run is complete, before its last round."""
    story = Story(terms({"a": {"target": 0.9}}), joined("one"))
    assert story.tell(arrived(1, "one"), evaluated(2, value=0.9)) == [
        "finish: every subtask reached its target"
    ]


@pytest.mark.parametrize(
    ("metric", "value", "reached"),
    [
        ("accuracy", 0.5, True),
        ("accuracy", 0.51, True),
        ("accuracy", 0.49, False),
        ("accuracy", None, False),
        ("log_loss", 0.5, True),
        ("log_loss", 0.49, True),
        ("log_loss", 0.51, False),
    ],
)
def test_a_target_is_reached_from_its_better_side(metric: str, value: float | None, reached: bool) -> None:
    """At or above for what should be high, at or below for a loss; never by what could not be measured."""
    story = Story(terms({"a": {"target": 0.5, "metric": metric}}), joined("one"))
    said = story.tell(arrived(1, "one"), evaluated(2, value=value))
    assert (said == ["finish: every subtask reached its target"]) is reached


def test_a_measure_counts_once_and_in_its_round() -> None:
    """What was measured twice, too early, of another round or of no subtask changes nothing."""
    story = Story(terms(["a", "b"]), joined("one", a=10), joined("two", b=10))
    story.tell(arrived(1, "two", "b"))
    assert story.tell(evaluated(1)) == ["wait until 60"]  # a is still open
    story.tell(arrived(2, "one"), evaluated(3, subtask="a"))
    for stray in (
        evaluated(3, subtask="a"),
        evaluated(3, 2, "b"),
        evaluated(3, 0, "b"),
        evaluated(3, 1, "c"),
    ):
        assert story.tell(stray) == []
    assert story.machine.round == 1
    assert story.tell(evaluated(4, subtask="b"))[0] == "send a to one, attempt 1"


def test_a_second_measure_cannot_reach_a_target() -> None:
    """The first measure of a round is the one that decides."""
    story = Story(terms({"a": {"target": 0.9}, "b": {}}), joined("one", a=10), joined("two", b=10))
    story.tell(arrived(1, "one"), arrived(1, "two", "b"))
    story.tell(evaluated(2, value=0.5), evaluated(2, value=0.95))
    assert story.tell(evaluated(2, subtask="b"))[0] == "send a to one, attempt 1"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_measure_is_a_number_or_none(value: float) -> None:
    """What could not be measured is None; NaN and infinity do not become events."""
    with pytest.raises(ValidationError):
        evaluated(1, value=value)


def test_sites_come_and_go_between_rounds() -> None:
    """Who joins is asked from the next round on, who is lost no more."""
    story = Story(terms(), joined("one"), joined("two"))
    assert story.tell(joined("new", 1)) == ["wait until 60"]
    story.tell(arrived(2, "one"), arrived(2, "two"), lost("two", 3))
    assert story.tell(evaluated(4)) == [
        "send a to new, attempt 1",
        "send a to one, attempt 1",
        "wait until 64",
    ]


def test_a_site_that_says_more_is_believed() -> None:
    """A site may join again with another capability, which holds from the next round on."""
    story = Story(terms(["a", "b"]), joined("one", a=10))
    story.tell(joined("one", 1, b=10), arrived(2, "one"))
    said = story.tell(evaluated(3))
    assert said[0] == "send b to one, attempt 1"
    assert said[1].startswith("skip a")


def test_what_a_policy_suggests_in_vain_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A naive policy's suggestions are kept where they are sound and refused with the reason where not."""

    def allocate(request: Any, rng: Any) -> list[Suggestion]:
        return [Suggestion(site, "a", 1.0, "because") for site in ("one", "poor", "nobody")]

    load = plugins.load
    monkeypatch.setattr(
        plugins,
        "load",
        lambda group, name: SimpleNamespace(allocate=allocate) if name == "naive" else load(group, name),
    )
    story = Story(terms(policy="naive"), joined("one"), joined("poor", b=1))
    assert story.opening == [
        "send a to one, attempt 1",
        "refuse a to nobody: 'nobody' and 'a' are not a site and a subtask of this round",
        "refuse a to poor: no data for it",
        "wait until 60",
    ]
