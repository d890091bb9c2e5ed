"""What an answer is found to be, once: a good contribution, a bad one, or nothing that anybody waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from collab.cohort import Task
from collab.events import EVENT, Arrived, Event, Rejected, TimePassed
from collab.rounds import Rounds
from protocol.errors import ConsiliumError
from protocol.messages import Contribution
from server.courier import Arrival
from server.gate import guarded
from server.journal.store import JournalError
from server.learner import Learner
from server.record import Record

Listener = Callable[[Mapping[str, Any]], None]


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
class Judge:
    """Checks and keeps contributions, and makes events of answers; what it found is on the record.

    ``machine`` says what was assigned, ``learners`` what is demanded; ``listener`` and ``notes`` are told.
    """

    machine: Rounds
    learners: Mapping[str, Learner]
    record: Record
    notes: list[str]
    listener: Listener
    _computed_on: dict[str, str] = field(default_factory=dict)

    def event(self, arrival: Arrival) -> Event:
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
            self._computed_on.setdefault(contribution.site, contribution.computed_on)
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
        self._compare(contribution)
        return Judged(event, contribution, self.learners[task.send.subtask].spool.ref(key))

    def _compare(self, contribution: Contribution) -> None:
        """Note, once, that a site computes on something else than it did first in this run."""
        site, now = contribution.site, contribution.computed_on
        if now == self._computed_on.setdefault(site, now):
            return
        what = "computes on another device or with other releases than at first"
        note = f"{site}: {what}: the bits of a run without a crash are not promised"
        if note not in self.notes:
            self.notes.append(note)

    def _admitted(self, arrival: Arrival, task: Task) -> Contribution:
        """Check and keep a contribution; of one that is not used any more the message alone is read."""
        if task.outcome != "asked":
            return arrival.glance(Contribution)
        learner, key = self.learners[task.send.subtask], arrival.letter.about
        contribution, arrays = arrival.admit(learner.demand(key, task.send))
        with guarded():
            learner.accept(key, contribution, arrays)
        return contribution
