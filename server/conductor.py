"""Carry a run out: feed events to the state machine, do what it says, put both on the record."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from collab.collaboration import Collaboration, metric_of
from collab.events import (
    Abort,
    Aggregate,
    Decided,
    Discard,
    Evaluate,
    Evaluated,
    Event,
    Finish,
    Instruction,
    Poll,
    Polled,
    Refuse,
    Send,
    Settle,
    Settled,
    SiteJoined,
    SiteLost,
    Skip,
    Started,
    TimePassed,
    Wait,
)
from collab.rounds import Rounds
from protocol.errors import RunError
from protocol.messages import Capability, assignment_id
from server import ballots
from server.courier import Account, Courier, Letter
from server.coverage import statement, unmeasured
from server.coverage_view import announced
from server.families import Family, said
from server.judge import Judge, Listener
from server.learner import Effect, Learner
from server.preparation import predicted_seconds
from server.record import Record
from server.roll_call import RollCall, admit, dismiss, nobody
from server.runlog import EVENT_ROW, row_of
from server.upstream import Settler, nothing


class EndedError(RunError):
    """The run has come to an end that is no success; to resume it would come to the same."""

    code = "ended"


@dataclass(frozen=True)
class CurvePoint:
    """One subtask after one round, on federated validation rows; ``without`` those of these sites."""

    round: int
    simulated_s: float
    bytes: int
    value: float | None
    num_examples: int
    metrics: Mapping[str, float]
    without: tuple[str, ...] = ()


@dataclass
class Conductor:
    """One run's rounds. ``listener`` is told what a person may want to watch."""

    collaboration: Collaboration
    run: str
    courier: Courier
    learners: Mapping[str, Learner]
    record: Record
    listener: Listener
    notes: list[str] = field(default_factory=list)
    roll_call: RollCall = nobody
    settle: Settler = nothing
    families: Sequence[Family] = ()
    curves: dict[str, list[CurvePoint]] = field(default_factory=dict)
    discarded: list[Discard] = field(default_factory=list)
    decisions: list[Decided] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine = Rounds(self.collaboration, self.run)
        self._judge = Judge(self.machine, self.learners, self.record, self.notes, self.listener)
        self._events: deque[Event] = deque()
        self._wait_until_s = 0.0
        self._credits: dict[str, dict[str, float]] = {}
        self._targets: dict[str, tuple[float, float] | None] = {}
        self._finished: Finish | None = None
        self.ended = ""

    def conduct(self, capabilities: Mapping[str, Capability]) -> None:
        """Run all rounds; ``ended`` then says why they ended.

        Raises:
            EndedError: the state machine aborted.
        """
        self._events.extend(self.opening(capabilities))
        while self._finished is None:
            while self._events and self._finished is None:
                self._handle(self._events.popleft())
            if self._finished is None:
                self._listen()
        self.ended = self._finished.reason

    def opening(self, capabilities: Mapping[str, Capability]) -> list[Event]:
        """Return the events that open the run: every site joins, then it starts."""
        joined: list[Event] = [self._joined(capabilities[site]) for site in sorted(capabilities)]
        smallest = {n: min(x.prepared.model_mib.values()) for n, x in self.learners.items()}
        return [*joined, Started(at_s=self.courier.now_s, run=self.run, model_mib=smallest)]

    def _handle(self, event: Event) -> None:
        instructions = self.machine.handle(event)
        self.record.same(EVENT_ROW, event.type, row_of(event, instructions))
        letters: list[Letter] = []
        for instruction in instructions:
            if isinstance(instruction, Send):
                letters.append(self._letter(instruction))
                self.listener(
                    {"type": "assigned", **instruction.model_dump(include={"round", "site", "subtask"})}
                )
            elif isinstance(instruction, Decided):
                self.decisions.append(instruction)
                away = self.machine.roster.quarantined(instruction.round)
                self.listener({"type": "decided", "round": instruction.round, "quarantined": away})
            else:
                self._do(instruction)
        self.courier.send(letters)

    def _letter(self, send: Send) -> Letter:
        """Return the assignment as a letter that says how long its answer can be."""
        learner = self.learners[send.subtask]
        letter = learner.letter(send)
        demand = learner.demand(letter.about, send)
        return replace(letter, most_bytes=demand.limits.num_bytes + demand.body_bytes)

    def _do(self, instruction: Instruction) -> None:
        match instruction:
            case Wait():
                self._wait_until_s = instruction.until_s
            case Discard():
                self.discarded.append(instruction)
                if instruction.code == "late":
                    self._forget(instruction.assignment)
                self.notes.append(f"{instruction.assignment}: not used: {instruction.code}")
            case Aggregate():
                self._aggregate(instruction)
            case Refuse():
                self._refused(instruction)
            case Skip():
                self._cover(instruction.round, instruction.subtask)
                self.notes.append(f"round {instruction.round}, {instruction.subtask}: {instruction.reason}")
            case Evaluate() | Poll() | Settle():
                self._ask_all(instruction)
            case Finish():
                self._finished = instruction
            case Abort():
                self.ended = f"stopped: {instruction.reason}"
                raise EndedError(instruction.reason)

    def _ask_all(self, instruction: Evaluate | Poll | Settle) -> None:
        if isinstance(instruction, Evaluate):
            self._evaluate(instruction)
        elif isinstance(instruction, Settle):
            self._settle(instruction)
        else:
            self._poll(instruction)

    def _forget(self, assignment: str) -> None:
        """Drop what was checked and kept before the state machine found that it came too late."""
        task = self.machine.task(assignment)
        if task is not None:
            self.learners[task.send.subtask].forget(assignment)

    def _refused(self, instruction: Refuse) -> None:
        note = f"policy's {instruction.site} for {instruction.subtask} refused: {instruction.reason}"
        if note not in self.notes:  # a policy may suggest the same every round
            self.notes.append(note)

    def _listen(self) -> None:
        """Turn the next answer, or the passing of time, into an event."""
        arrival = self.courier.next(self._wait_until_s)
        if arrival is None:
            self._events.append(TimePassed(at_s=self.courier.now_s))
        else:
            self._events.append(self._judge.event(arrival))

    def _aggregate(self, instruction: Aggregate) -> None:
        name = instruction.subtask
        credits_ = self._merged(instruction)
        self._credits |= dict.fromkeys(self.machine.groups.led_by(name), credits_)
        for family in self.families:
            if (grouped := family.decide(instruction, self.courier.now_s)) is not None:
                self._events.append(grouped)  # before what is measured now, so before the next round
                self.listener({"type": "stage", "text": said(grouped)})
        self._cover(instruction.round, instruction.subtask)

    def _merged(self, instruction: Aggregate) -> dict[str, float]:
        """Merge contributions, or take what an earlier process had made of them; return their credits."""
        learner, keys = self.learners[instruction.subtask], instruction.assignments
        about = f"{instruction.round}/{instruction.subtask}"
        said = self.record.replayed("aggregated", about)
        if said is not None:
            found = said["arrays"].items()
            arrays = {group: self.record.arrays(kept, replayed=True) for group, kept in found}
            learner.take_effect(keys, Effect(said["said"], arrays))
            self.notes.extend(said["notes"])
            return dict(said["credits"])
        noted = len(self.notes)
        credits_ = learner.aggregate(keys, self.notes)
        if self.record.keeps:
            effect = learner.effect(keys)
            kept = {group: self.record.put_arrays(arrays) for group, arrays in effect.arrays.items()}
            body = {"assignments": list(keys), "credits": credits_, "notes": self.notes[noted:]}
            self.record.note("aggregated", about, {**body, "said": effect.said, "arrays": kept})
        return credits_

    def _commit_round(self, round_: int) -> None:
        """Close a round on the record: what is believed, what it cost, and where randomness stands by now.

        Every generator is derived from (seed, round, purpose), so the round is its position.
        """
        accounts = {site: asdict(account) for site, account in sorted(self.courier.accounts.items())}
        body = {
            "at_s": self.courier.now_s,
            "beliefs": self.machine.roster.beliefs.as_json(),
            "accounts": accounts,
            "randomness": {"seed": self.collaboration.seed, "round": round_},
            "privacy": {},  # nothing is spent: no mechanism of differential privacy is at work
        }
        self.record.same("committed", str(round_), body)
        self.record.commit()

    def _call_the_roll(self, round_: int) -> None:
        """Let sites come and go before a round; the events stand before those that open it."""
        came, went = self.roll_call(round_)
        for site, reason in went.items():
            self.courier.dismiss(site)
            for learner in self.learners.values():
                dismiss(learner, site)
            self._events.append(SiteLost(at_s=self.courier.now_s, site=site, reason=reason))
            self.notes.append(f"{site} left before round {round_}: {reason}")
        for capability in came:
            taken = [admit(self.courier, x, capability, self.notes) for x in self.learners.values()]
            if any(taken):
                self._events.append(self._joined(capability))
                self.notes.append(f"{capability.site} joined before round {round_}")

    def _evaluate(self, instruction: Evaluate) -> None:
        """Measure what was merged this round; sites do it side by side, one subtask after the other."""
        self._call_the_roll(instruction.round + 1)
        for subtask in instruction.subtasks:
            found, others = self.learners[subtask].measure(self.courier, instruction.round, self.notes)
            self._targets[subtask] = found.target
            metric = metric_of(self.collaboration.subtasks[subtask])
            value = found.metrics.get(metric)
            point = CurvePoint(
                instruction.round,
                self.courier.now_s,
                total_bytes(self.courier.accounts),
                value,
                found.num_examples,
                found.metrics,
                unmeasured(self.learners[subtask].prepared, found),
            )
            self.curves.setdefault(subtask, []).append(point)
            self._events.extend(self._judge.event(a) for a in others)
            self._events.append(
                Evaluated(
                    at_s=self.courier.now_s,
                    round=instruction.round,
                    subtask=subtask,
                    value=value,
                    num_examples=found.num_examples,
                    constant=found.constant.get(metric),
                    loss=found.loss,
                    losses=dict(found.losses),
                    credits=self._credits.pop(subtask, {}),
                )
            )
            self.listener(
                {
                    "type": "evaluated",
                    "round": instruction.round,
                    "subtask": subtask,
                    "metric": metric,
                    "value": value,
                    "without": list(point.without),
                }
            )
        self._commit_round(instruction.round)
        self.listener({"type": "round", "round": instruction.round, "simulated_s": self.courier.now_s})

    def _poll(self, instruction: Poll) -> None:
        """Have the sites vote on each other's models, one subtask after the other."""
        for subtask in instruction.subtasks:
            votes, others = ballots.gather_votes(
                self.courier, self.learners[subtask], self.run, instruction.round, self.notes
            )
            self._events.extend(self._judge.event(a) for a in others)
            self._events.append(
                Polled(at_s=self.courier.now_s, round=instruction.round, subtask=subtask, votes=votes)
            )

    def _settle(self, instruction: Settle) -> None:
        """Let the final models stand of subtasks that are over and that others come after."""
        for subtask in instruction.subtasks:
            self.listener({"type": "stage", "text": f"settling {subtask} for what comes after it"})
            has_model = self.settle(subtask, instruction.round, self._targets.get(subtask), self.notes)
            at_s, round_ = self.courier.now_s, instruction.round
            self._events.append(Settled(at_s=at_s, round=round_, subtask=subtask, has_model=has_model))

    def _cover(self, round_: int, subtask: str) -> None:
        """Tell who was in a round of a subtask, who was not, and why; the summary has it of all rounds."""
        said = statement(self.machine, self.collaboration, round_, subtask)
        if said is not None:
            self.listener(announced(said))

    def _joined(self, capability: Capability) -> SiteJoined:
        seconds, transfer, models = {}, {}, {}
        for name, learner in self.learners.items():
            prepared = learner.prepared
            if capability.site in prepared.models:
                models[name] = prepared.models[capability.site]
                seconds[name] = predicted_seconds(prepared, capability, _epochs(learner, capability.site))
                transfer[name] = predicted_seconds(prepared, capability, 0.0)
        counts = {n: self.learners[n].prepared.summaries[capability.site].train for n in models}
        return SiteJoined(
            at_s=self.courier.now_s,
            capability=capability.model_copy(update={"subtasks": counts}),
            seconds=seconds,
            transfer=transfer,
            models=models,
            class_counts={
                n: self.learners[n].prepared.summaries[capability.site].class_counts for n in models
            },
        )


def total_bytes(accounts: Mapping[str, Account]) -> int:
    """Return all bytes sent and received so far."""
    return sum(a.bytes_up + a.bytes_down for a in accounts.values())


def key_of(run: str, send: Send) -> str:
    """Return the assignment id of an instruction."""
    return assignment_id(run, send.round, send.subtask, send.site, send.attempt)


def _epochs(learner: Learner, site: str) -> float:
    spec, rows = learner.prepared.subtask.train, learner.prepared.summaries[site].train
    if spec.local_steps is None:
        return float(spec.local_epochs)
    return spec.local_steps * spec.batch_size / max(rows, 1)
