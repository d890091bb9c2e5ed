"""Carry a run out: feed events to the state machine, do what it says, put both on the record."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from collab.cohort import Task
from collab.collaboration import Collaboration, metric_of
from collab.events import (
    EVENT,
    Abort,
    Aggregate,
    Arrived,
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
    Rejected,
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
from protocol.errors import ConsiliumError, RunError
from protocol.messages import Capability, Contribution, assignment_id
from server import ballots
from server.courier import Account, Arrival, Courier, Letter
from server.coverage import statement, unmeasured
from server.coverage_view import announced
from server.families import Family, said
from server.gate import guarded
from server.journal.store import JournalError
from server.learner import Effect, Learner
from server.preparation import predicted_seconds
from server.record import Record
from server.roll_call import RollCall, admit, dismiss, nobody
from server.runlog import EVENT_ROW, row_of
from server.upstream import Settler, nothing

Listener = Callable[[Mapping[str, Any]], None]


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


@dataclass(frozen=True)
class Judged:
    """What an answer was found to be; with ``contribution`` its arrays are kept at ``ref``."""

    event: Arrived | Rejected | TimePassed
    contribution: Contribution | None = None
    ref: str = ""

    def row(self, notes: Sequence[str]) -> dict[str, Any]:
        """Return it as the record keeps it."""
        return {
            "event": self.event.model_dump(mode="json"),
            "contribution": self.contribution and self.contribution.model_dump(mode="json"),
            "arrays": self.ref,
            "notes": list(notes),
        }


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
            self._events.append(self._opened(arrival))

    def _opened(self, arrival: Arrival) -> Event:
        """Return the event that an answer is; what was judged before a crash is not judged again."""
        key = arrival.letter.about
        said = self.record.replayed("judged", key)
        if said is None:
            noted = len(self.notes)
            judged = self._judged(arrival)
            said = self.record.note("judged", key, judged.row(self.notes[noted:]))
        else:
            self._again(key, said)
        for ref in arrival.refs if arrival.letter.is_training else ():
            self.record.content.drop(ref)  # it was kept as it is used, or is not used
        event = EVENT.validate_python(said["event"])
        self._tell(arrival, event)
        return event

    def _again(self, key: str, said: Mapping[str, Any]) -> None:
        """Take up what an earlier process had judged."""
        self.notes.extend(said["notes"])
        task = self.machine.task(key)
        if said["contribution"] is not None and task is not None:
            contribution = Contribution.model_validate(said["contribution"])
            self.learners[task.send.subtask].again(key, contribution, said["arrays"])

    def _tell(self, arrival: Arrival, event: Event) -> None:
        site, key = arrival.letter.site, arrival.letter.about
        if isinstance(event, Rejected):
            about = {"site": site, "subtask": arrival.letter.subtask, "about": key}
            self.listener({"type": "rejected", **about, "code": event.code, "detail": event.detail})
        elif isinstance(event, Arrived):
            self.listener({"type": "arrived", "site": site, "about": key})

    def _judged(self, arrival: Arrival) -> Judged:
        """Check a contribution; a bad one becomes Rejected under the site's name, and nothing else stops."""
        key = arrival.letter.about
        task = self.machine.task(key)
        if task is None:  # no contribution: an evaluation that came after its time, or twice
            what = f"{arrival.letter.site}: answer to {arrival.letter.message_type} of {key}"
            note = f"{what} not used, it came too late or twice"
            if note not in self.notes:  # a slow site may be late every round
                self.notes.append(note)
            return Judged(TimePassed(at_s=arrival.at_s))
        if task.outcome == "contributed" and arrival.content is None:
            return Judged(TimePassed(at_s=arrival.at_s))  # what has answered has not failed
        try:
            contribution = self._admitted(arrival, task)
        except JournalError:
            raise  # a full disk is no fault of the site's
        except ConsiliumError as error:
            self.notes.append(f"{arrival.letter.site}: contribution to {key} rejected: {error}")
            return Judged(
                Rejected(at_s=arrival.at_s, assignment=key, code=error.code, detail=str(error)[:500])
            )
        event = Arrived(
            at_s=arrival.at_s,
            assignment=key,
            num_examples=contribution.num_examples,
            digest=contribution.digest,
        )
        if task.outcome != "asked":
            return Judged(event)
        return Judged(event, contribution, self.learners[task.send.subtask].spool.ref(key))

    def _admitted(self, arrival: Arrival, task: Task) -> Contribution:
        """Check and keep a contribution; of one that is not used any more the message alone is read."""
        if task.outcome != "asked":
            return arrival.glance(Contribution)
        learner, key = self.learners[task.send.subtask], arrival.letter.about
        contribution, arrays = arrival.admit(learner.demand(key, task.send))
        with guarded():
            learner.accept(key, contribution, arrays)
        return contribution

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
            self._events.extend(self._opened(a) for a in others)
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
            self._events.extend(self._opened(a) for a in others)
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
