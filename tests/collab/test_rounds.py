"""The state machine of a run: these events, those instructions."""

from __future__ import annotations

from typing import Any

import pytest

from collab.events import Event, Started
from tests.collab.round_cases import (
    Story,
    arrived,
    evaluated,
    joined,
    key,
    lost,
    passed,
    rejected,
    terms,
)


def three(**coordination: Any) -> Story:
    """A story of one subtask and three sites, all asked; two of them are a quorum."""
    return Story(terms(**coordination), joined("east"), joined("north"), joined("west"))


def test_a_run_in_which_everybody_answers() -> None:
    """Ask, wait, merge in site order when all have answered, measure, ask again; finish after the rounds."""
    story = Story(terms(rounds=2, quorum=1), joined("north"), joined("south"))
    assert story.opening == ["send a to north, attempt 1", "send a to south, attempt 1", "wait until 60"]
    assert story.tell(arrived(3, "south")) == ["wait until 60"]
    assert story.tell(arrived(4, "north")) == ["aggregate a of north south, 100%", "evaluate a"]
    assert story.tell(evaluated(5)) == [
        "send a to north, attempt 1",
        "send a to south, attempt 1",
        "wait until 65",
    ]
    story.tell(arrived(6, "north", round_=2), arrived(6, "south", round_=2))
    assert story.tell(evaluated(7, round_=2)) == ["finish: all 2 rounds are done"]
    assert story.machine.over


def test_a_quorum_starts_the_grace_period() -> None:
    """Two of three answered: the third has the grace period more, counted from the second."""
    story = three()
    assert story.tell(arrived(10, "west")) == ["wait until 60"]
    assert story.tell(arrived(12, "east")) == ["wait until 17"]
    assert story.tell(passed(16.9)) == ["wait until 17"]
    assert story.tell(passed(17)) == ["aggregate a of east west, 67%", "evaluate a"]


def test_who_answers_in_the_grace_period_counts() -> None:
    """The grace period ends at once when nobody is missing, and its last moment still belongs to it."""
    assert three().tell(arrived(10, "west"), arrived(12, "east"), arrived(17, "north")) == [
        "aggregate a of east north west, 100%",
        "evaluate a",
    ]


def test_a_third_answer_does_not_prolong_the_grace_period() -> None:
    """The period is counted from the quorum, not from the last answer."""
    story = Story(terms(), *(joined(site) for site in ("a", "b", "c", "d")))
    story.tell(arrived(10, "a"), arrived(11, "b"))
    assert story.tell(arrived(12, "c")) == ["wait until 17"]


def test_a_grace_period_does_not_pass_the_deadline() -> None:
    """A quorum shortly before the deadline leaves no more than the deadline does."""
    assert three().tell(arrived(10, "west"), arrived(58, "east")) == ["wait until 60"]


def test_the_deadline_closes_without_a_quorum() -> None:
    """At the deadline what has come is merged, however little."""
    story = three()
    assert story.tell(arrived(10, "west"), passed(59.9)) == ["wait until 60"]
    assert story.tell(passed(60)) == ["aggregate a of west, 33%", "evaluate a"]


@pytest.mark.parametrize(
    ("quorum", "sites", "enough"), [(0.55, 20, 11), (0.6, 5, 3), (0.07, 100, 7), (0.01, 3, 1)]
)
def test_a_quorum_is_the_least_number_of_sites_that_is_the_share(
    quorum: float, sites: int, enough: int
) -> None:
    """The share is compared as people read it, whatever 0.55 is in binary."""
    names = [f"s{i:03}" for i in range(sites)]
    story = Story(terms(quorum=quorum), *map(joined, names))
    said = [story.tell(arrived(10, name)) for name in names[:enough]]
    assert said == [["wait until 60"]] * (enough - 1) + [["wait until 15"]]


def test_what_comes_late_is_not_used() -> None:
    """After the close a contribution is late: in the same round, in a later one, and twice."""
    story = three()
    story.tell(arrived(10, "west"), arrived(12, "east"), passed(17))
    assert story.tell(arrived(18, "north")) == [f"discard {key('north')}: late"]
    story.tell(evaluated(19))
    assert story.tell(arrived(20, "north")) == [f"discard {key('north')}: late", "wait until 79"]


def test_time_that_nobody_told_passes_too() -> None:
    """An answer after the deadline is late even if the caller forgot to say that the time had come."""
    assert three().tell(arrived(10, "west"), arrived(61, "east")) == [
        "aggregate a of west, 33%",
        "evaluate a",
        f"discard {key('east')}: late",
    ]


def test_a_second_answer_is_a_duplicate() -> None:
    """A contribution counts once, before and after the close of its round."""
    story = three()
    said = story.tell(arrived(10, "west"), arrived(11, "west"))
    assert said == [f"discard {key('west')}: duplicate", "wait until 60"]
    story.tell(arrived(12, "east"), arrived(13, "north"))
    assert story.tell(arrived(14, "west")) == [f"discard {key('west')}: duplicate"]


@pytest.mark.parametrize("other", ["nobody", "east"])
def test_what_nobody_asked_for_is_unknown(other: str) -> None:
    """An answer to an assignment that was never given: a stranger's, or of another round or attempt."""
    story = three()
    for event in (arrived(1, "nobody"), arrived(1, other, round_=2), arrived(1, other, attempt=2)):
        assert story.tell(event) == [f"discard {event.assignment}: unknown", "wait until 60"]
        assert story.tell(rejected(1, other, attempt=2)) == ["wait until 60"]


@pytest.mark.parametrize("failure", [rejected(10, "east"), lost("east", 10)])
def test_a_failure_is_handed_on_to_an_idle_site(failure: Event) -> None:
    """A site that came too late to be asked takes over, as the second attempt, until the same deadline."""
    story = Story(terms(), joined("east"), joined("north"))
    story.tell(joined("west", 5))
    assert story.tell(failure)[:2] == ["send a to west, attempt 2", "wait until 60"]
    story.tell(arrived(11, "north"))
    assert story.tell(arrived(12, "west", attempt=2)) == ["aggregate a of north west, 100%", "evaluate a"]
    assert story.tell(arrived(13, "east")) == [f"discard {key('east')}: late"]


def test_a_failure_without_substitute_is_closed_without() -> None:
    """Nobody is idle: the round goes on with the others and closes when they have answered."""
    story = three(quorum=1)
    assert story.tell(rejected(10, "east")) == ["wait until 60"]
    story.tell(arrived(11, "north"))
    assert story.tell(arrived(12, "west")) == ["aggregate a of north west, 67%", "evaluate a"]


def test_the_substitute_is_the_idle_site_with_the_most_examples() -> None:
    """Among idle sites that can do it the best supplied is asked, of equals the first by name."""
    story = Story(terms(), joined("east"))
    story.tell(*(joined(site, 1, a=count) for site, count in [("w", 50), ("v", 200), ("u", 200), ("t", 90)]))
    story.tell(joined("x", 1, b=1000))
    order = [story.tell(rejected(2, site, attempt=i + 1))[0] for i, site in enumerate(["east", "u"])]
    assert order == ["send a to u, attempt 2", "send a to v, attempt 3"]


def test_an_assignment_is_tried_three_times() -> None:
    """After the third failure nobody else is asked; the subtask's round closes without."""
    story = Story(terms(), joined("s1"))
    story.tell(joined("s2", 1), joined("s3", 1), joined("s4", 1))
    story.tell(rejected(2, "s1"), rejected(3, "s2", attempt=2))
    assert story.tell(rejected(4, "s3", attempt=3))[0] == "skip a: nobody contributed; asked: s1, s2, s3"


def test_a_busy_site_is_no_substitute() -> None:
    """A site that works on another subtask is left alone until it has answered."""
    story = Story(terms(["a", "b"]), joined("one", a=10), joined("two", b=10))
    story.tell(joined("two", 1, a=10, b=10))
    assert story.tell(rejected(2, "one")) == ["skip a: nobody contributed; asked: one", "wait until 60"]


def test_a_rule_binds_a_substitute_too() -> None:
    """What a site may not be asked first it may not be handed either."""
    story = Story(terms(rules={"a": "memory_mib >= 512"}), joined("east"))
    weak = joined("west", 1)
    story.tell(weak.model_copy(update={"capability": weak.capability.model_copy(update={"memory_mib": 256})}))
    assert story.tell(rejected(2, "east"))[0].startswith("skip a")


def test_a_substitute_counts_for_what_it_has() -> None:
    """Coverage is of the examples first asked for, and never more than all."""
    story = Story(terms(quorum=1), joined("big", a=300), joined("small", a=100))
    story.tell(joined("new", 1, a=100), rejected(2, "big"), arrived(3, "small"))
    assert story.tell(arrived(4, "new", attempt=2))[0] == "aggregate a of new small, 50%"
    story = Story(terms(), joined("small", a=100))
    story.tell(joined("big", 1, a=900), rejected(2, "small"))
    assert story.tell(arrived(3, "big", attempt=2))[0] == "aggregate a of big, 100%"


def test_a_run_without_sites_ends() -> None:
    """When the last site is gone the run stops at the next round and says what to do."""
    story = three()
    story.tell(lost("east", 1), lost("west", 2))
    assert story.tell(lost("north", 3)) == [
        "skip a: nobody contributed; asked: east, north, west",
        "abort: round 2: all sites are gone; start them and run again",
    ]


def test_silence_of_three_rounds_ends_the_run() -> None:
    """A round without any answer leaves the model as it is; the third on end stops the run."""
    story = Story(terms(), joined("east"))
    skip = "skip a: nobody contributed; asked: east"
    for deadline in (60, 120):
        again = ["send a to east, attempt 1", f"wait until {deadline + 60}"]
        assert story.tell(passed(deadline)) == [skip, *again]
    assert story.tell(passed(180)) == [skip, "abort: round 3: nobody answered in 3 rounds on end"]


def test_an_answer_breaks_the_silence() -> None:
    """Empty rounds are counted on end: one contribution starts the count again."""
    story = Story(terms(), joined("east"))
    story.tell(passed(60), passed(120), arrived(121, "east", round_=3), evaluated(122, round_=3))
    assert story.tell(passed(182), passed(242))[-1] == "wait until 302"


def test_too_little_coverage_ends_the_run() -> None:
    """Below the least coverage nothing is merged; the error names the sites that are missing."""
    story = Story(terms(min_coverage=0.5), joined("big", a=300), joined("mid", a=50), joined("small", a=50))
    story.tell(arrived(1, "small"))
    assert story.tell(passed(60)) == [
        (
            "abort: round 1, a: only 12% of the examples asked for came in (min_coverage is 50%); "
            "missing: big, mid"
        )
    ]
    assert story.tell(arrived(61, "big"), passed(99)) == []


def test_just_enough_coverage_goes_on() -> None:
    """The least coverage itself is enough."""
    story = Story(terms(min_coverage=0.25), joined("big", a=300), joined("small", a=100))
    story.tell(arrived(1, "small"))
    assert story.tell(passed(60)) == ["aggregate a of small, 25%", "evaluate a"]


def test_nothing_follows_the_end() -> None:
    """One site's loss fails two subtasks: the run ends once, and no instruction comes after."""
    story = Story(terms(["a", "b"], min_coverage=0.5), joined("one", a=10, b=10))
    said = story.tell(lost("one", 5))
    assert [text.split(":")[0] for text in said] == ["abort"]
    assert story.tell(passed(60), joined("one", 61)) == []


def test_a_run_starts_once() -> None:
    """A second start is no second round."""
    story = three()
    assert story.tell(Started(at_s=1)) == ["wait until 60"]
    assert story.machine.round == 1
