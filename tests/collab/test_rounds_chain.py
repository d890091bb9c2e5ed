"""The state machine with subtasks that come after others: who waits, what stands, what never starts."""

from __future__ import annotations

from typing import Any

from collab.collaboration import Collaboration
from collab.events import Settled
from collab.rounds import Rounds
from tests.collab.round_cases import RUN, Story, arrived, evaluated, joined, lost, terms


def chain(*, rounds: int = 5, **keys: Any) -> Collaboration:
    """Terms of ``a``, and ``b`` after it."""
    return terms({"a": {"until_round": 2, **keys}, "b": {"after": ["a"]}}, rounds=rounds)


def settled(at_s: float, round_: int, subtask: str = "a", *, has_model: bool = True) -> Settled:
    """The final model of a subtask stands, or there is none."""
    return Settled(at_s=at_s, round=round_, subtask=subtask, has_model=has_model)


def _round(story: Story, round_: int, subtask: str, value: float = 0.5) -> list[str]:
    """Have the one site contribute to a round's only subtask; return what its measurement leads to."""
    story.tell(arrived(round_, "one", subtask, round_))
    return story.tell(evaluated(round_, round_, subtask, value))


def test_downstream_waits_until_upstream_is_over_and_settled() -> None:
    """Its first assignment goes out once the final model of what it comes after stands."""
    story = Story(chain(), joined("one", a=10, b=10))
    assert story.opening == ["send a to one, attempt 1", "wait until 60"]
    assert _round(story, 1, "a") == ["send a to one, attempt 1", "wait until 61"]
    assert _round(story, 2, "a") == ["settle"]
    assert story.tell(settled(2, 2)) == ["send b to one, attempt 1", "wait until 62"]


def test_a_target_that_is_reached_lets_downstream_begin() -> None:
    """Upstream is over as soon as it is good enough, rounds before its last."""
    story = Story(chain(target=0.9), joined("one", a=10, b=10))
    assert _round(story, 1, "a", value=0.95) == ["settle"]
    assert story.tell(settled(1, 1)) == ["send b to one, attempt 1", "wait until 61"]


def test_all_of_several_must_be_over() -> None:
    """One that is over settles at once; the other is worked on, and downstream waits for both."""
    tables = {"a": {"until_round": 1}, "b": {"until_round": 2}, "c": {"after": ["a", "b"]}}
    story = Story(terms(tables), joined("one", a=10, b=10, c=10), joined("two", a=10, b=10, c=10))
    sent = [line for line in story.opening if line.startswith("send")]
    assert {line.split()[1] for line in sent} == {"a", "b"}
    story.tell(*(arrived(1, site, name) for name in ("a", "b") for site in ("one", "two")))
    story.tell(evaluated(1, subtask="a"))
    assert story.tell(evaluated(1, subtask="b")) == ["settle"]
    said = story.tell(settled(1, 1))
    assert {line.split()[1] for line in said if line.startswith("send")} == {"b"}
    story.tell(*(arrived(2, site, "b", 2) for site in ("one", "two")))
    assert story.tell(evaluated(2, 2, "b")) == ["settle"]
    assert {line.split()[1] for line in story.tell(settled(2, 2, "b")) if "send" in line} == {"c"}


def test_levels_follow_each_other() -> None:
    """What is upstream of one may be downstream of another."""
    tables = {"a": {"until_round": 1}, "b": {"after": ["a"], "until_round": 2}, "c": {"after": ["b"]}}
    story = Story(terms(tables, rounds=3), joined("one", a=10, b=10, c=10))
    assert _round(story, 1, "a") == ["settle"]
    assert story.tell(settled(1, 1))[0] == "send b to one, attempt 1"
    assert _round(story, 2, "b") == ["settle"]
    assert story.tell(settled(2, 2, "b"))[0] == "send c to one, attempt 1"
    assert _round(story, 3, "c") == ["finish: all 3 rounds are done"]


def test_without_a_final_model_what_comes_after_never_starts() -> None:
    """Upstream was never aggregated: the run ends, and says what never began and why."""
    tables = {"a": {"until_round": 1}, "b": {"after": ["a"], "until_round": 3}, "c": {"after": ["b"]}}
    story = Story(terms(tables), joined("one", a=10, b=10, c=10))
    assert _round(story, 1, "a") == ["settle"]
    assert story.tell(settled(1, 1, has_model=False)) == [
        (
            "finish: every subtask reached its target or its last round; never started: "
            "'b' (no final model of 'a'), 'c' (no final model of 'a')"
        )
    ]


def test_the_others_go_on_where_one_never_starts() -> None:
    """A chain that is broken stops nobody else."""
    tables = {"a": {"until_round": 1}, "b": {"after": ["a"]}, "free": {}}
    story = Story(terms(tables, rounds=2), joined("one", a=10, b=10), joined("two", free=10))
    story.tell(arrived(1, "one", "a"), arrived(1, "two", "free"), evaluated(1, subtask="a"))
    assert story.tell(evaluated(1, subtask="free")) == ["settle"]
    said = story.tell(settled(1, 1, has_model=False))
    assert said[0] == "send free to two, attempt 1"
    story.tell(arrived(2, "two", "free", 2))
    assert story.tell(evaluated(2, 2, "free")) == [
        "finish: all 2 rounds are done; never started: 'b' (no final model of 'a')"
    ]


def test_a_run_that_ends_early_says_what_was_still_waiting() -> None:
    """Upstream takes the last round: what comes after it would have begun in the next."""
    story = Story(chain(rounds=5), joined("one", a=10, b=10))
    story.machine._terms = story.machine._terms.model_copy(update={"rounds": 1})  # as if it were cut short
    assert _round(story, 1, "a") == ["finish: all 1 rounds are done; never started: 'b' (it comes after a)"]


def test_nothing_settles_that_nobody_comes_after() -> None:
    """Only the final models that are needed are asked for, and each once."""
    story = Story(terms({"a": {"until_round": 1}, "b": {"until_round": 2}}), joined("one", a=10, b=10))
    story.tell(arrived(1, "one", "a"), evaluated(1, subtask="a"))
    machine = story.machine
    assert machine._sequence.unsettled(2) == []


def test_a_settled_event_that_nobody_waits_for_changes_nothing() -> None:
    """Out of turn, of another round or of another subtask it is passed over."""
    story = Story(chain(), joined("one", a=10, b=10))
    assert story.tell(settled(1, 1)) == ["wait until 60"]
    _round(story, 1, "a")
    assert _round(story, 2, "a") == ["settle"]
    assert story.tell(settled(2, 1)) == []
    assert story.tell(settled(2, 2, "b")) == []
    assert story.tell(settled(2, 2))[0] == "send b to one, attempt 1"


def test_sites_may_leave_while_a_model_is_settled() -> None:
    """Whoever is left does what comes after; with nobody left the run stops and says so."""
    story = Story(chain(), joined("one", a=10, b=10), joined("two", b=10))
    _round(story, 1, "a")
    assert _round(story, 2, "a") == ["settle"]
    assert story.tell(lost("one", 2)) == []
    assert story.tell(settled(2, 2))[0] == "send b to two, attempt 1"


def test_the_same_events_give_the_same_instructions() -> None:
    """A replay needs nothing but the events: what waited then waits again."""
    events = [
        *(joined("one", a=10, b=10), arrived(1, "one", "a", 1), evaluated(1, 1, "a")),
        *(arrived(2, "one", "a", 2), evaluated(2, 2, "a"), settled(2, 2), arrived(3, "one", "b", 3)),
        evaluated(3, 3, "b"),
    ]
    first, second = (Rounds(chain(), RUN) for _ in range(2))
    assert [first.handle(e) for e in events] == [second.handle(e) for e in events]
    assert first.round == second.round
