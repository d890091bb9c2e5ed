"""The state machine beside a small independent model, under any events: nothing is lost or counted twice.

The model knows what was sent and what came in: which contribution must be merged, and which discarded by
which name. It has no quorum, grace or substitutes; when a cohort closes it takes from the instructions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from collab.collaboration import Collaboration
from collab.events import (
    Abort,
    Aggregate,
    Discard,
    Evaluate,
    Event,
    Finish,
    Grouped,
    Instruction,
    Poll,
    Polled,
    Send,
    Settle,
    Settled,
    Skip,
    Started,
    Wait,
)
from collab.rounds import MAX_ATTEMPTS, Rounds
from collab.settings import parse
from protocol.messages import assignment_id
from tests.collab.round_cases import RUN, arrived, evaluated, joined, key, lost, passed, rejected

SITES = ("east", "north", "south", "west")
NAMES = ("a", "b", "c", "d")
DEADLINE_S = 30.0
SIZES = {"a": 50, "b": 70, "c": 20, "d": 40}


def terms(policy: str, capacity: int, patience: float | None, least: float) -> Collaboration:
    """Return four subtasks: ``a`` and ``b`` a family that is split after a round, ``d`` after ``c``."""
    own = {"kind": "tabular_classification", "labels": 2, "metric": "accuracy", "models": ["mlp_small"]}
    more: dict[str, dict[str, Any]] = {"c": {"until_round": 2}, "d": {"after": ["c"]}}
    tables = {
        "name": "case",
        "rounds": 5,
        "subtasks": {name: {**own, **more.get(name, {})} for name in NAMES},
        "decomposition": {"ab": {"by": "affinity", "subtasks": ["a", "b"], "merge_rounds": 1}},
        "allocation": {"policy": policy, "max_subtasks_per_site": capacity},
        "coordination": {
            "quorum": 0.6,
            "grace_s": 5,
            "deadline_s": DEADLINE_S,
            "min_coverage": least,
            **({} if patience is None else {"patience": patience}),
        },
    }
    return parse(tables, "case")


@dataclass
class Asked:
    """One assignment as the model knows it: open, arriving, good, failed or given up."""

    send: Send
    by_s: float
    state: str = "open"
    merged: int = 0


@dataclass
class Model:
    """What was sent, what came of it, and which cohorts have closed; it is told in the order of events."""

    asked: dict[str, Asked] = field(default_factory=dict)
    closed: set[tuple[int, str]] = field(default_factory=set)
    unmeasured: set[str] = field(default_factory=set)
    measured_round: int = 0
    round: int = 0
    over: bool = False

    def send(self, send: Send, now_s: float) -> None:
        """A site is asked: never twice for one subtask in a round, nor after the cohort has closed."""
        made = assignment_id(RUN, send.round, send.subtask, send.site, send.attempt)
        rest = [a.send for a in self.asked.values() if a.send.round == send.round]
        assert send.site not in [s.site for s in rest if s.subtask == send.subtask]
        assert (send.round, send.subtask) not in self.closed
        assert 1 <= send.attempt <= MAX_ATTEMPTS
        assert send.round >= self.round
        if send.round > self.round:
            assert not self.open_keys(), "a round opened over one that is not done"
            self.round = send.round
        self.asked[made] = Asked(send, now_s + DEADLINE_S)

    def open_keys(self) -> list[str]:
        """Return the assignments that are still waited for."""
        return [made for made, a in self.asked.items() if a.state == "open"]

    def close(self, round_: int, subtask: str, merged: tuple[str, ...]) -> None:
        """A cohort closes, once: each good contribution of it is merged once; who is open is given up."""
        assert (round_, subtask) not in self.closed
        self.closed.add((round_, subtask))
        mine = {m: a for m, a in self.asked.items() if (a.send.round, a.send.subtask) == (round_, subtask)}
        for made, one in mine.items():
            if one.state == "arriving" and made in merged:
                one.state = (
                    "good"  # this very event closes the cohort; whether it was in time ``arrive`` checks
                )
            one.state = "given up" if one.state in {"open", "arriving"} else one.state
        good = [m for m, a in sorted(mine.items(), key=lambda one: one[1].send.site) if a.state == "good"]
        assert list(merged) == good
        for made in merged:
            self.asked[made].merged += 1


class RoundsModel(RuleBasedStateMachine):
    """Random events to both; what the machine says is checked against what the model knows."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Rounds(terms("everyone", 1, None, 0), RUN)  # another, once it has been drawn
        self.model = Model()
        self.now_s = 0.0
        self.was_over = False
        self.polling: set[str] = set()
        self.settling: set[str] = set()

    @initialize(
        policy=st.sampled_from(["everyone", "round_robin", "vote"]),
        capacity=st.integers(1, 3),
        patience=st.sampled_from([None, 2.0]),
        least=st.sampled_from([0.0, 0.0, 0.3]),
        sites=st.dictionaries(
            st.sampled_from(SITES), st.sets(st.sampled_from(NAMES), min_size=1), min_size=2
        ),
    )
    def start(
        self, policy: str, capacity: int, patience: float | None, least: float, sites: dict[str, set[str]]
    ) -> None:
        """Let sites join and the run start."""
        self.machine = Rounds(terms(policy, capacity, patience, least), RUN)
        for name, has in sorted(sites.items()):
            self.tell(joined(name, **{subtask: SIZES[subtask] for subtask in sorted(has)}))
        self.tell(Started(at_s=0))

    # -- what happens ---------------------------------------------------------------------------

    @precondition(lambda self: self.model.open_keys())
    @rule(data=st.data(), pause=st.sampled_from([0.0, 1.0, 3.0]), slept=st.booleans())
    def good(self, data: st.DataObject, pause: float, slept: bool) -> None:
        """A contribution comes that is waited for, though perhaps just too late."""
        self.arrive(data.draw(st.sampled_from(self.model.open_keys())), pause, slept)

    @precondition(lambda self: self.model.asked)
    @rule(data=st.data(), pause=st.sampled_from([0.0, 1.0, 31.0]), slept=st.booleans())
    def late_or_twice(self, data: st.DataObject, pause: float, slept: bool) -> None:
        """A contribution to whatever was ever asked: of an earlier round, once more, or too late."""
        self.arrive(data.draw(st.sampled_from(list(self.model.asked))), pause, slept)

    @rule(site=st.sampled_from(SITES), name=st.sampled_from(NAMES), attempt=st.integers(1, 4))
    def never_asked(self, site: str, name: str, attempt: int) -> None:
        """A contribution to something that the model may know or not."""
        made = key(site, name, self.model.round + 1, attempt)
        told = self.tell(arrived(self.now_s, site, name, self.model.round + 1, attempt))
        if not self.was_over:
            assert [(i.assignment, i.code) for i in told if isinstance(i, Discard)] == [(made, "unknown")]

    @precondition(lambda self: self.model.asked)
    @rule(data=st.data(), pause=st.sampled_from([0.0, 1.0]))
    def bad(self, data: st.DataObject, pause: float) -> None:
        """A site's answer cannot be used; it is handed on at most once, and only if it was waited for."""
        made = data.draw(st.sampled_from(list(self.model.asked)))
        s = self.model.asked[made].send
        self.awake(pause)
        if self.model.asked[made].state == "open":
            self.model.asked[made].state = "failed"
        told = self.tell(rejected(self.now_s, s.site, s.subtask, s.round, s.attempt))
        again = [i for i in told if isinstance(i, Send) and (i.round, i.subtask) == (s.round, s.subtask)]
        assert [i.attempt for i in again] in ([], [s.attempt + 1])

    @rule(site=st.sampled_from(SITES), pause=st.sampled_from([0.0, 1.0]))
    def leaves(self, site: str, pause: float) -> None:
        """A site is gone: nothing more is waited for from it."""
        self.awake(pause)
        for made in self.model.open_keys():
            if self.model.asked[made].send.site == site:
                self.model.asked[made].state = "failed"
        self.tell(lost(site, self.now_s))

    @rule(site=st.sampled_from(SITES), has=st.sets(st.sampled_from(NAMES), min_size=1))
    def joins(self, site: str, has: set[str]) -> None:
        """A site comes, comes back, or has other data than it had."""
        self.tell(joined(site, self.now_s, **{subtask: SIZES[subtask] for subtask in sorted(has)}))

    @rule(pause=st.sampled_from([1.0, 5.0, 40.0]))
    def time_passes(self, pause: float) -> None:
        """The clock goes on; what is due closes."""
        self.awake(pause)

    @precondition(lambda self: self.model.unmeasured)
    @rule(data=st.data(), value=st.sampled_from([None, 0.4, 0.7]))
    def measures(self, data: st.DataObject, value: float | None) -> None:
        """A subtask is measured that was to be."""
        name = data.draw(st.sampled_from(sorted(self.model.unmeasured)))
        self.model.unmeasured.discard(name)
        self.tell(evaluated(self.now_s, self.model.measured_round, name, value))

    @precondition(lambda self: self.model.unmeasured)
    @rule()
    def measures_all(self) -> None:
        """All is measured, so that rounds go by."""
        for name in sorted(self.model.unmeasured):
            self.model.unmeasured.discard(name)
            self.tell(evaluated(self.now_s, self.model.measured_round, name))

    @rule(name=st.sampled_from(NAMES), back=st.integers(-1, 2))
    def measures_amiss(self, name: str, back: int) -> None:
        """A measurement that nobody waits for, of another round or said twice: it changes nothing."""
        self.awake(0)
        round_ = max(self.model.measured_round - back, 1)
        if round_ != self.model.measured_round or name not in self.model.unmeasured:
            self.no_news(evaluated(self.now_s, round_, name))

    @rule(data=st.data(), name=st.sampled_from(NAMES), amiss=st.booleans())
    def polled(self, data: st.DataObject, name: str, amiss: bool) -> None:
        """The sites have voted, or say so of what nobody asked."""
        self.awake(0)
        waited = sorted(self.polling)
        if waited and not amiss:
            name = data.draw(st.sampled_from(waited))
            self.polling.discard(name)
            self.tell(Polled(at_s=self.now_s, round=self.machine.round, subtask=name, votes=()))
        elif name not in self.polling:
            self.no_news(Polled(at_s=self.now_s, round=self.machine.round or 1, subtask=name, votes=()))

    @rule(data=st.data(), name=st.sampled_from(NAMES), amiss=st.booleans(), has_model=st.booleans())
    def settled(self, data: st.DataObject, name: str, amiss: bool, has_model: bool) -> None:
        """What others come after stands, or somebody says so unasked."""
        self.awake(0)
        waited = sorted(self.settling)
        at_s, round_ = self.now_s, self.machine.round or 1
        if waited and not amiss:
            name = data.draw(st.sampled_from(waited))
            self.settling.discard(name)
            self.tell(Settled(at_s=at_s, round=round_, subtask=name, has_model=has_model))
        elif name not in self.settling:
            self.no_news(Settled(at_s=at_s, round=round_, subtask=name, has_model=has_model))

    @precondition(lambda self: self.model.closed)
    @rule(apart=st.booleans())
    def splits(self, apart: bool) -> None:
        """The family goes on in other groups from the next round on."""
        zeros = ((0.0,) * 2,) * 2
        self.tell(
            Grouped(
                at_s=self.now_s,
                round=self.model.round,
                family="ab",
                subtasks=("a", "b"),
                groups=(("a",), ("b",)) if apart else (("b", "a"),),
                affinity=zeros,
                standard_errors=zeros,
                value=0.0,
                exact=True,
                looked=0,
            )
        )

    # -- what must hold -------------------------------------------------------------------------

    @invariant()
    def each_has_one_state(self) -> None:
        """Both agree on every assignment; a good one of a closed cohort was merged once, no other ever."""
        names = {
            "asked": "open",
            "contributed": "good",
            "rejected": "failed",
            "lost": "failed",
            "silent": "given up",
            "late": "given up",
        }
        for made, one in self.model.asked.items():
            task = self.machine.task(made)
            assert task is not None
            if self.model.over:
                assert one.merged <= (task.outcome == "contributed")
                continue
            assert names[task.outcome] == one.state
            closed = (one.send.round, one.send.subtask) in self.model.closed
            assert one.merged == (1 if closed and one.state == "good" else 0)
            assert not closed or one.state != "open"

    @invariant()
    def shares_are_shares(self) -> None:
        """What a cohort says of its coverage follows from who contributed."""
        for cohort in self.machine.history:
            assert cohort.coverage is not None
            first = sum(t.examples for t in cohort.tasks.values() if t.send.attempt == 1)
            given = sum(t.examples for t in cohort.tasks.values() if t.outcome == "contributed")
            assert cohort.coverage == (min(1.0, given / first) if first else 0.0)

    def arrive(self, made: str, pause: float, slept: bool) -> None:
        """Have a contribution come, and check what becomes of it.

        ``slept``: nothing told the machine of the time that passed before.
        """
        if slept:
            self.now_s += pause
        else:
            self.awake(pause)
        one = self.model.asked[made]
        before, send = one.state, one.send
        one.state = "arriving" if before == "open" else before
        told = self.tell(arrived(self.now_s, send.site, send.subtask, send.round, send.attempt))
        if self.model.over:
            return
        one.state = "good" if one.state == "arriving" else one.state
        codes = {"good": "duplicate"} if before == "good" else {"failed": "late", "given up": "late"}
        expected = [(made, codes[one.state])] if one.state in codes else []
        assert [(i.assignment, i.code) for i in told if isinstance(i, Discard)] == expected
        if before == "open":
            assert one.state == "good" or slept, "it came in time"
            assert one.state == "given up" or self.now_s <= one.by_s, "it came after the deadline"

    def awake(self, pause: float) -> None:
        """Let so many seconds pass, and the machine know it."""
        self.now_s += pause
        self.tell(passed(self.now_s))

    def no_news(self, event: Event) -> None:
        """Tell what must change nothing: no instruction but to go on waiting."""
        rounds = self.machine.round
        assert all(isinstance(i, Wait) for i in self.tell(event))
        assert self.machine.round == rounds

    def tell(self, event: Event) -> tuple[Instruction, ...]:
        """Tell the machine, and the model what the machine wants done."""
        self.was_over = self.machine.over
        told = self.machine.handle(event)
        assert not (self.was_over and told)
        for instruction in told:
            self.take(instruction)
        ends = Counter(isinstance(i, Finish | Abort) for i in told)[True]
        assert ends <= 1
        return told

    def take(self, instruction: Instruction) -> None:
        """Note in the model what an instruction means."""
        match instruction:
            case Send():
                self.model.send(instruction, self.now_s)
            case Aggregate():
                assert instruction.assignments
                self.model.close(instruction.round, instruction.subtask, instruction.assignments)
            case Skip():
                self.model.close(instruction.round, instruction.subtask, ())
            case Evaluate():
                assert not self.model.open_keys(), "measured before all cohorts have closed"
                assert not self.model.unmeasured
                self.model.unmeasured = set(instruction.subtasks)
                self.model.measured_round = instruction.round
            case Poll():
                assert not self.polling
                self.polling = set(instruction.subtasks)
            case Settle():
                assert not self.settling
                self.settling = set(instruction.subtasks)
            case Finish() | Abort():
                self.model.over = True
                self.model.unmeasured = self.polling = self.settling = set()


TestRoundsModel = RoundsModel.TestCase
TestRoundsModel.settings = settings(deadline=None, max_examples=50, stateful_step_count=40, derandomize=True)
