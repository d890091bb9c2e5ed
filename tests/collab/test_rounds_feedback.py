"""What a round taught reaches the next allocation: events in, another decision out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from collab.events import Evaluated, Poll, Polled, Vote
from collab.rounds import Rounds
from tests.collab.round_cases import Story, arrived, joined, key, lost, passed, rejected, terms


def told(
    at_s: float,
    subtask: str,
    loss: float,
    round_: int = 1,
    credits_: Mapping[str, float] | None = None,
    losses: Mapping[str, float] | None = None,
) -> Evaluated:
    """A subtask was measured: its loss, and what each contribution was worth."""
    more: dict[str, Any] = {"losses": dict(losses or {}), "credits": dict(credits_ or {})}
    return Evaluated(at_s=at_s, round=round_, subtask=subtask, value=0.5, num_examples=9, loss=loss, **more)


def one_round(story: Story, round_: int, losses: Mapping[str, float], credits_: Mapping[str, float]) -> None:
    """Every asked site answers a second after the other, then all subtasks are measured."""
    at_s = 1.0 + max(cohort.opened_s for cohort in story.machine.cohorts.values())
    for cohort in list(story.machine.cohorts.values()):
        for assignment in sorted(cohort.tasks):
            _, _, subtask, site, _ = assignment.split("/")
            story.tell(arrived(at_s, site, subtask, round_))
            at_s += 1
    for subtask in sorted(story.machine.cohorts):
        story.tell(told(at_s, subtask, losses[subtask], round_, credits_))


def test_feedback_of_a_round_is_in_the_request_of_the_next() -> None:
    """Loss, weight, gain and reputation of round 1 are what round 2 is asked with, and not before."""
    story = Story(terms(["a", "b"]), joined("one", a=10, b=10), joined("two", a=10, b=10))
    first = story.machine.request
    assert first is not None
    assert {s.loss for s in first.subtasks} == {1.0}
    assert first.belief("one", "a") == first.belief("two", "a")
    one_round(story, 1, {"a": 0.2, "b": 0.9}, {"one": 1.0, "two": 0.1})
    second = story.machine.request
    assert second is not None
    assert second.round == 2
    by_name = {s.name: s for s in second.subtasks}
    assert (by_name["a"].loss, by_name["b"].loss) == (0.2, 0.9)
    assert by_name["b"].weight > by_name["a"].weight
    assert second.belief("one", "a").gain > second.belief("two", "a").gain
    assert second.belief("one", "a").gain > second.belief("one", "b").gain
    assert second.belief("one", "a").last_round == 1
    reputation = {s.name: s.reputation for s in second.sites}
    assert reputation["one"] > reputation["two"]


def test_the_site_that_helps_is_asked_again() -> None:
    """`consilium` moves a site to the subtask where it was measured to help, whatever it began with."""
    policy = {"rule": "consilium", "kappa": 0.0, "coverage": 0.0, "beta": 0.0}
    collaboration = terms({"a": {"max_sites": 1}, "b": {"max_sites": 1}}, policy=policy)
    helps = {("one", "b"), ("two", "a")}
    story = Story(collaboration, joined("one", a=10, b=10), joined("two", a=10, b=10))
    for round_ in range(1, 8):
        pairs = {tuple(k.split("/")[2:4][::-1]) for c in story.machine.cohorts.values() for k in c.tasks}
        losses = {
            subtask: (
                0.9**round_
                if (site, subtask) in helps
                else story.machine.roster.beliefs.subtask(subtask).loss
            )
            for site, subtask in pairs
        }
        one_round(story, round_, losses, {})
    pairs = {tuple(k.split("/")[2:4][::-1]) for c in story.machine.cohorts.values() for k in c.tasks}
    assert pairs == helps


def test_times_are_learnt_from_the_answers() -> None:
    """A site that takes ten times what its figures say is believed to be slow after some rounds."""
    story = Story(terms(rounds=20, quorum=1, deadline_s=60), joined("fast"), joined("slow"))
    at_s = 0.0
    for round_ in range(1, 6):
        story.tell(arrived(at_s + 1, "fast", round_=round_), arrived(at_s + 10, "slow", round_=round_))
        at_s += 11
        story.tell(told(at_s, "a", 0.5, round_))
    request = story.machine.request
    assert request is not None
    seconds = {s.name: s.seconds["a"] for s in request.sites}
    assert seconds["slow"] == pytest.approx(10.0, rel=0.1)
    assert seconds["fast"] == pytest.approx(1.0, rel=0.1)


def test_who_is_silent_or_lost_loses_reputation() -> None:
    """Only what did not come counts against punctuality; who contributed keeps it."""
    story = Story(terms(quorum=0.1), joined("good"), joined("gone"), joined("silent"))
    story.tell(arrived(1, "good"), lost("gone", 2))
    story.tell(passed(6), told(7, "a", 0.5))
    request = story.machine.request
    assert request is not None
    reputation = {s.name: s.reputation for s in request.sites}
    assert reputation["good"] == 1.0
    assert reputation["silent"] < 1.0


def test_what_cannot_be_used_counts_against_quality_and_an_accident_does_not() -> None:
    """Arrays that were refused are a site's own doing; a site that failed is only late."""
    story = Story(terms(quorum=1), *(joined(name) for name in ("a1", "b1", "c1")))
    story.tell(rejected(1, "a1"))
    accident = rejected(2, "b1").model_copy(update={"code": "protocol"})
    story.tell(accident)
    beliefs = story.machine.roster.beliefs
    assert beliefs.standing("a1").quality < 1.0
    assert beliefs.standing("b1").quality == 1.0
    assert beliefs.standing("b1").punctuality < 1.0


def test_a_quarantined_site_is_not_asked_and_comes_back() -> None:
    """After its strikes a site that works against the others sits out, then is asked again on probation."""
    names = ("a1", "b1", "c1", "d1", "bad")
    story = Story(terms(rounds=60, quorum=1), *(joined(name) for name in names))
    seen: list[bool] = []
    for round_ in range(1, 40):
        asked = {k.split("/")[3] for k in story.machine.cohorts["a"].tasks}
        seen.append("bad" in asked)
        one_round(story, round_, {"a": 0.5}, {**dict.fromkeys(names, 1.0), "bad": 0.0})
    out = seen.index(False)
    assert all(seen[:out])
    assert any(seen[out:]), "never asked again"
    assert any("in quarantine" in w.reason for d in story.decided for w in d.passed_over)


def test_replayed_events_give_the_same_beliefs() -> None:
    """Two machines that are told the same decide the same, to the last bit."""
    sites = [joined("one", a=10, b=30), joined("two", a=20, b=5), joined("three", a=7, b=9)]
    decided = []
    for _ in range(2):
        story = Story(terms(["a", "b"], policy="consilium"), *sites)
        for round_ in range(1, 6):
            one_round(story, round_, {"a": 0.8**round_, "b": 0.95**round_}, {"one": 0.7, "two": 1.0})
        decided.append(story.decided)
    assert decided[0] == decided[1]
    assert len(decided[0]) == 6


def test_a_poll_comes_before_the_allocation_that_needs_it() -> None:
    """`vote` has nothing to vote on in round 1; before round 2 the sites are polled, then it allocates."""
    story = Story(terms({"a": {"max_sites": 1}}, policy="vote"), *(joined(n) for n in ("x1", "y1", "z1")))
    asked = next(iter(story.machine.cohorts["a"].tasks)).split("/")[3]
    story.tell(arrived(1, asked))
    told_ = story.machine.handle(told(2, "a", 0.5))
    assert [i.type for i in told_] == ["poll"]
    assert isinstance(told_[0], Poll)
    votes = (
        Vote(voter="x1", order=("z1", "y1")),
        Vote(voter="y1", order=("z1", "x1")),
        Vote(voter="z1", order=("y1", "x1")),
    )
    after = story.tell(Polled(at_s=3, round=2, subtask="a", votes=votes))
    assert after[0] == "send a to z1, attempt 1"


def test_a_poll_of_another_round_is_not_used() -> None:
    """A late poll changes nothing, and neither does one of a subtask that was not asked."""
    story = Story(terms(policy="vote"), joined("x1"), joined("y1"))
    assert story.tell(Polled(at_s=1, round=7, subtask="a", votes=())) == ["wait until 60"]


def test_subtasks_join_and_leave() -> None:
    """A subtask is worked on from its first round to its last; the run ends when none is left."""
    story = Story(terms({"a": {"until_round": 1}, "b": {"from_round": 3}}, rounds=3), joined("one", a=9, b=9))
    assert set(story.machine.cohorts) == {"a"}
    one_round(story, 1, {"a": 0.5}, {})
    assert story.machine.round == 3  # nothing is to be done in round 2
    assert set(story.machine.cohorts) == {"b"}
    end = story.tell(arrived(4, "one", "b", 3), told(5, "b", 0.5, 3))
    assert end == ["finish: all 3 rounds are done"]


def test_a_site_that_joins_late_is_asked_in_the_next_round() -> None:
    """It has a clean record and is believed to be as good as the others are on the mean."""
    story = Story(terms(quorum=1), joined("old"))
    story.tell(arrived(1, "old"), joined("new", at_s=1.5))
    said = story.tell(told(2, "a", 0.4))
    assert said[:2] == ["send a to new, attempt 1", "send a to old, attempt 1"]


def test_the_decision_is_in_the_log_with_what_was_passed_over() -> None:
    """Each round has one decision; every pair that was not assigned is in it, with a reason."""
    story = Story(terms(["a", "b"], policy="random"), joined("one", a=9, b=9), joined("two", a=9))
    decided = story.decided[0]
    assigned = {tuple(k.split("/")[2:4][::-1]) for c in story.machine.cohorts.values() for k in c.tasks}
    passed_over = {(w.site, w.subtask): w.reason for w in decided.passed_over}
    assert passed_over.keys() == {(s, k) for s in ("one", "two") for k in ("a", "b")} - assigned
    assert passed_over["two", "b"] == "no data for it"
    assert (decided.policy, decided.round, decided.more) == ("random", 1, 0)
    assert key("one")  # ids are made as everywhere
    assert isinstance(story.machine, Rounds)
