"""Who is overdue is not waited for: predicted seconds, learnt pace, and what was sent before."""

from __future__ import annotations

import itertools
import math

import pytest

from collab.events import Send, Started
from collab.pace import NOISE_SD, PRIOR_SD_LEVEL
from collab.rounds import Rounds
from protocol.errors import ConfigError
from tests.collab.round_cases import RUN, Story, arrived, evaluated, joined, passed, terms

# Nothing known: e^(2 · 1.01) times the predicted second, and the grace period of 5 s.
FIRST = math.exp(2.0 * math.hypot(PRIOR_SD_LEVEL, NOISE_SD)) + 5.0


def story(**coordination: float) -> Story:
    """Three sites that predict 1 s for a round, all asked; all of them are a quorum."""
    return Story(
        terms(quorum=1, patience=2.0, **coordination), joined("east"), joined("north"), joined("west")
    )


def test_a_site_is_overdue_some_deviations_later_than_predicted() -> None:
    """The wait is for the last that is not overdue, well before the deadline; then the round closes."""
    told = story()
    assert told.opening[-1] == "wait until 60"
    (wait,) = told.tell(arrived(1, "north"), arrived(1, "east"))
    assert wait.startswith("wait until 12.")
    assert told.tell(passed(FIRST - 0.01)) == [wait]
    assert told.tell(passed(FIRST + 0.01)) == ["aggregate a of east north, 67%", "evaluate a"]


def test_a_pace_that_is_known_makes_less_patient() -> None:
    """After rounds in which all took 1 s as predicted the same site is overdue sooner."""
    told = story()
    waits = []
    for round_ in range(1, 6):
        at = 10.0 * round_
        told.tell(*(arrived(at - 9, site, round_=round_) for site in ("east", "north", "west")))
        told.tell(evaluated(at, round_=round_))
        sent = told.machine.cohorts["a"].tasks.values()
        waits.append(next(t.send.patience_s for t in sent))
    assert all(later < earlier for earlier, later in itertools.pairwise(waits))  # type: ignore[operator]
    assert waits[-1] == pytest.approx(math.exp(2 * NOISE_SD) * 1.0 + 5.0, rel=0.2)


def test_below_the_least_coverage_the_deadline_counts() -> None:
    """Closing without those that are overdue would stop the run: they have until the deadline."""
    told = Story(
        terms(quorum=1, patience=2.0, min_coverage=0.9), joined("east"), joined("north"), joined("west")
    )
    told.tell(arrived(1, "north"), arrived(1, "east"))
    assert told.tell(passed(FIRST + 1)) == ["wait until 60"]


def test_a_site_of_unknown_pace_has_until_the_deadline() -> None:
    """Without a prediction, and where patience ends after the deadline, nobody is overdue."""
    assert Story(terms(patience=100.0), joined("east")).opening[-1] == "wait until 60"
    assert Story(terms(), joined("east")).opening[-1] == "wait until 60"


def test_what_a_site_was_sent_before_in_the_round_counts() -> None:
    """A site does one thing at a time: with two subtasks the second is overdue later than the first."""
    machine = Rounds(terms(("a", "b"), policy="everyone", patience=2.0), RUN)
    machine.handle(joined("east", a=100, b=100))
    sends = [x for x in machine.handle(Started(at_s=0, model_mib={})) if isinstance(x, Send)]
    first, second = (send.patience_s for send in sends)
    assert first is not None
    assert second is not None
    assert second > first + 1.0


def test_patience_below_zero_is_refused() -> None:
    """The file's error names the key."""
    with pytest.raises(ConfigError, match="patience"):
        terms(patience=-1.0)


def test_an_answer_that_comes_too_late_teaches_the_pace() -> None:
    """A site that became slower is overdue once; what its late answer took is predicted from then on."""
    told = story()
    for round_ in range(1, 5):
        at = 10.0 * round_
        told.tell(*(arrived(at - 9, site, round_=round_) for site in ("east", "north", "west")))
        told.tell(evaluated(at, round_=round_))
    before = told.machine.roster.beliefs.seconds("west", 1.0)[0]
    told.tell(arrived(41, "east", round_=5), arrived(41, "north", round_=5), passed(49))
    told.tell(evaluated(50, round_=5))
    assert told.tell(arrived(52, "west", round_=5))[0].endswith("west/1: late")
    after = told.machine.roster.beliefs.seconds("west", 1.0)[0]
    assert after > 1.5 * before
    assert [t.outcome for t in told.machine.history[-1].tasks.values() if t.send.site == "west"] == ["late"]


def test_patience_never_closes_a_cohort_without_anybody() -> None:
    """As long as nobody has answered the deadline counts: that all are slow is no reason to give up."""
    told = story()
    assert told.tell(passed(FIRST + 1)) == ["wait until 60"]


def test_fewer_than_the_minimum_are_not_merged_early() -> None:
    """With min_sites = 3 two answers do not close the round before its deadline."""
    made = terms({"a": {"min_sites": 3}}, quorum=1, patience=2.0)
    told = Story(made, joined("east"), joined("north"), joined("west"))
    told.tell(arrived(1, "north"), arrived(1, "east"))
    assert told.tell(passed(FIRST + 1)) == ["wait until 60"]


def test_a_budget_does_not_shorten_the_transfer() -> None:
    """Of 10 s of which 6 are transfer a tenth of the work takes 6.4 s; four times it, 22 s."""
    machine = Rounds(terms(), RUN)
    machine.handle(joined("east").model_copy(update={"seconds": {"a": 10.0}, "transfer": {"a": 6.0}}))
    found = [machine.roster.work_s("east", ["a"], budget) for budget in (0.1, 1.0, 4.0)]
    assert found == pytest.approx([6.4, 10.0, 22.0])


def test_the_clock_of_a_second_subtask_starts_with_the_answer_to_the_first() -> None:
    """A site does one thing at a time: its pace is learnt of each by itself."""
    machine = Rounds(terms(("a", "b"), policy="everyone", quorum=1), RUN)
    machine.handle(
        joined("east", a=100, b=100).model_copy(update={"seconds": {"a": 10.0, "b": 2.0}, "transfer": {}})
    )
    machine.handle(Started(at_s=0, model_mib={}))
    machine.handle(arrived(10, "east"))
    machine.handle(arrived(12, "east", subtask="b"))
    assert machine.roster.beliefs.seconds("east", 2.0)[0] == pytest.approx(2.0, rel=0.05)
    assert machine.roster.beliefs.seconds("east", 10.0)[0] == pytest.approx(10.0, rel=0.05)
