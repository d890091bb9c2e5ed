"""Laws of the state machine under any events at all, and under any network that does as it is told."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from collab.collaboration import Collaboration
from collab.events import (
    EVENT,
    INSTRUCTION,
    Abort,
    Aggregate,
    Arrived,
    Discard,
    Evaluate,
    Event,
    Finish,
    Instruction,
    Send,
    Started,
    TimePassed,
    Wait,
)
from collab.rounds import Rounds
from protocol.messages import assignment_id
from tests.collab.round_cases import (
    RUN,
    arrived,
    evaluated,
    joined,
    lost,
    passed,
    rejected,
    terms,
)

laws = settings(deadline=None, max_examples=80, derandomize=True)
Step = tuple[Event, tuple[Instruction, ...]]

SITES, SUBTASKS = ("east", "north", "west"), ("a", "b")
CASES = tuple(
    terms(
        {"a": {"target": 0.8}, "b": {"coordination": {"deadline_s": 20, "quorum": 1, "min_coverage": least}}},
        rounds=4,
        policy=policy,
        min_coverage=least,
    )
    for policy in ("everyone", "round_robin")
    for least in (0, 0.5)
)

site, subtask, attempt = st.sampled_from(SITES), st.sampled_from(SUBTASKS), st.integers(1, 3)
counts = st.sampled_from([{"a": 50}, {"b": 70}, {"a": 10, "b": 200}])
pauses = st.sampled_from([0.0, 0.0, 1.0, 4.0, 5.0, 20.0, 70.0])
anything = st.one_of(
    st.builds(arrived, pauses, site, subtask, st.integers(1, 4), attempt),
    st.builds(rejected, pauses, site, subtask, st.integers(1, 4), attempt),
    st.builds(evaluated, pauses, st.integers(1, 4), subtask, st.sampled_from([None, 0.1, 0.9])),
    st.builds(lost, site, pauses),
    st.builds(lambda name, has, at_s: joined(name, at_s, **has), site, counts, pauses),
    st.builds(passed, pauses),
    st.builds(Started, at_s=pauses),
)


@st.composite
def stories(draw: st.DrawFn) -> tuple[Collaboration, list[Step]]:
    """A machine that was told anything, in order of time: each event and what followed."""
    collaboration = draw(st.sampled_from(CASES))
    machine, now_s, steps = Rounds(collaboration, RUN), 0.0, []
    opening = [joined(name, **draw(counts)) for name in draw(st.sets(site, min_size=1))]
    for event in (*opening, Started(at_s=0), *draw(st.lists(anything, max_size=30))):
        now_s += event.at_s  # a pause since the event before
        told = event.model_copy(update={"at_s": now_s})
        steps.append((told, machine.handle(told)))
    return collaboration, steps


def instructions(steps: list[Step]) -> list[Instruction]:
    """All that a story led to, in order."""
    return [instruction for _, found in steps for instruction in found]


@laws
@given(stories())
def test_a_contribution_is_merged_once_discarded_or_waiting(story: tuple[Collaboration, list[Step]]) -> None:
    """No contribution is lost or counted twice: each that is not discarded is merged once, or still waits."""
    _, steps = story
    taken: list[str] = []
    running = True
    for event, found in steps:
        if isinstance(event, Arrived) and running:
            discarded = [i.assignment for i in found if isinstance(i, Discard)]
            assert discarded in ([], [event.assignment])
            taken += [] if discarded else [event.assignment]
        running = running and not any(isinstance(i, Finish | Abort) for i in found)
    merged = [key for i in instructions(steps) if isinstance(i, Aggregate) for key in i.assignments]
    assert max(Counter(taken).values(), default=1) == 1
    assert max(Counter(merged).values(), default=1) == 1
    assert set(merged) <= set(taken)
    closed = {(i.round, i.subtask) for i in instructions(steps) if isinstance(i, Aggregate)}
    waiting = [key.split("/") for key in set(taken) - set(merged)]
    assert not [key for key in waiting if (int(key[1]), key[2]) in closed]


@laws
@given(stories())
def test_only_what_was_asked_is_merged_in_site_order(story: tuple[Collaboration, list[Step]]) -> None:
    """A merge names assignments of its own round and subtask, each of another site, in order of name."""
    sent = {
        assignment_id(RUN, i.round, i.subtask, i.site, i.attempt): i
        for i in instructions(story[1])
        if isinstance(i, Send)
    }
    for merge in (i for i in instructions(story[1]) if isinstance(i, Aggregate)):
        sends = [sent[key] for key in merge.assignments]
        sites = [send.site for send in sends]
        assert sites == sorted(set(sites))
        assert {(send.round, send.subtask) for send in sends} == {(merge.round, merge.subtask)}
        assert 0 < merge.coverage <= 1


@laws
@given(stories())
def test_the_end_is_the_end(story: tuple[Collaboration, list[Step]]) -> None:
    """A run ends once, by its last instruction, and says why in one line."""
    found = instructions(story[1])
    ends = [i for i in found if isinstance(i, Finish | Abort)]
    assert ends in ([], found[-1:])
    assert all(end.reason and end.reason.isprintable() for end in ends)


@laws
@given(stories())
def test_rounds_only_go_forward(story: tuple[Collaboration, list[Step]]) -> None:
    """Rounds never go back, nor beyond their number."""
    collaboration, steps = story
    rounds = [i.round for i in instructions(steps) if isinstance(i, Send | Aggregate | Evaluate)]
    assert rounds == sorted(rounds)
    assert max(rounds, default=0) <= collaboration.rounds


@laws
@given(stories())
def test_a_wait_is_the_last_word(story: tuple[Collaboration, list[Step]]) -> None:
    """While a cohort is open, every event ends in one wait, for a time that has not passed."""
    collaboration, steps = story
    machine = Rounds(collaboration, RUN)
    for event, _ in steps:
        *before, last = (None, *machine.handle(event))
        assert not any(isinstance(i, Wait) for i in before)
        open_cohorts = any(not cohort.closed for cohort in machine.cohorts.values())
        assert isinstance(last, Wait) == (open_cohorts and not machine.over)
        assert not isinstance(last, Wait) or last.until_s >= event.at_s


@laws
@given(stories())
def test_a_log_replays(story: tuple[Collaboration, list[Step]]) -> None:
    """Events and instructions survive JSON; the same events give a fresh machine the same instructions."""
    collaboration, steps = story
    machine = Rounds(collaboration, RUN)
    for event, found in steps:
        read = EVENT.validate_json(EVENT.dump_json(event))
        logged = tuple(INSTRUCTION.validate_json(INSTRUCTION.dump_json(i)) for i in found)
        assert (read, logged) == (event, found)
        assert machine.handle(read) == found


@dataclass
class Network:
    """Sites that do as they are told: each assignment meets the next of ``fates``, again and again."""

    machine: Rounds
    fates: list[tuple[float, str]]
    events: list[tuple[float, int, Event]] = field(default_factory=list)
    sent: int = 0
    now_s: float = 0.0
    until_s: float = 0.0

    def carry_out(self, instruction: Instruction) -> None:
        """Do what the machine says, as a conductor would."""
        match instruction:
            case Send():
                delay_s, fate = self.fates[self.sent % len(self.fates)]
                where = (instruction.site, instruction.subtask, instruction.round, instruction.attempt)
                at_s = self.now_s + delay_s
                if fate == "lost":
                    self.expect(lost(instruction.site, at_s))
                elif fate != "silent":
                    self.expect(arrived(at_s, *where) if fate == "good" else rejected(at_s, *where))
                self.sent += 1
            case Wait():
                self.until_s = instruction.until_s
            case Evaluate():
                for name in instruction.subtasks:
                    self.expect(evaluated(self.now_s, instruction.round, name))

    def expect(self, event: Event) -> None:
        """Have the event happen in its time."""
        heapq.heappush(self.events, (event.at_s, len(self.events) + 1000 * self.sent, event))

    def next(self) -> Event:
        """Return what happens next, or the end of the wait."""
        if self.events and self.events[0][0] <= self.until_s:
            event = heapq.heappop(self.events)[2]
        else:
            event = TimePassed(at_s=self.until_s)
        self.now_s = max(self.now_s, event.at_s)
        return event


fates = st.tuples(
    st.sampled_from([0.0, 1.0, 3.0, 8.0, 30.0, 90.0]),
    st.sampled_from(["good", "good", "bad", "silent", "lost"]),
)


@laws
@given(st.sampled_from(CASES), st.lists(fates, min_size=1, max_size=12))
def test_every_run_ends(collaboration: Collaboration, fates: list[tuple[float, str]]) -> None:
    """Whoever carries out the instructions reaches the end, and no cohort stays open past its deadline."""
    machine = Rounds(collaboration, RUN)
    network = Network(machine, fates)
    opening = (joined("east", a=10, b=10), joined("north", a=50), joined("west", b=20), Started(at_s=0))
    for event in opening:
        for instruction in machine.handle(event):
            network.carry_out(instruction)
    for _ in range(300):
        if machine.over:
            break
        for instruction in machine.handle(network.next()):
            network.carry_out(instruction)
        for cohort in machine.cohorts.values():
            deadline_s = collaboration.coordination_of(cohort.subtask).deadline_s
            assert cohort.closed or machine.over or network.now_s < cohort.opened_s + deadline_s
    assert machine.over
