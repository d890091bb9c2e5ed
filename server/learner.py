"""What the conductor of a run needs of a subtask, and what all learners share.

A learner says what to send, checks what came, merges it at the close of a round, and measures
the result on federated validation rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from collab.collaboration import Collaboration
from collab.events import Send
from collab.terms import SubtaskTerms
from protocol.arrays import Arrays, Spec
from protocol.messages import Assignment, Contribution, EvaluationRequest, TrainSpec
from protocol.records import pack
from server.courier import Arrival, Courier, Letter, Patience
from server.evaluations import Evaluated, Measurement, merge_evaluations
from server.gate import Demand
from server.preparation import Prepared
from server.spool import Spool

Model = tuple[str, Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Effect:
    """What an aggregation changed: what a record can hold, and arrays by group."""

    said: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Arrays] = field(default_factory=dict, repr=False)


class Learner(Protocol):
    """What the conductor of a run needs of a subtask."""

    prepared: Prepared
    spool: Spool
    temperature: float
    """The calibration of the final model, from federated validation rows; 1 if there is none."""

    def letter(self, send: Send) -> Letter:
        """Return the assignment as a letter."""
        ...

    def demand(self, key: str, send: Send) -> Demand:
        """Return what the contribution to an assignment must be."""
        ...

    def accept(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Check what a contribution that passed the gate means, and keep it; raises ProtocolError."""
        ...

    def forget(self, key: str) -> None:
        """Drop a contribution that was kept, if it was."""
        ...

    def aggregate(self, keys: Sequence[str], notes: list[str]) -> dict[str, float]:
        """Merge the kept contributions in this order; return their credits by site (``collab.credit``)."""
        ...

    def effect(self, keys: Sequence[str]) -> Effect:
        """Return what merging the contributions of these assignments has just made of the state."""
        ...

    def take_effect(self, keys: Sequence[str], effect: Effect) -> None:
        """Bring the state to where merging had brought it, without merging."""
        ...

    def again(self, key: str, contribution: Contribution, ref: str) -> None:
        """Keep a contribution that had been accepted before the run was killed; ``ref`` has its arrays."""
        ...

    def measure(self, courier: Courier, round_: int, notes: list[str]) -> tuple[Measurement, list[Arrival]]:
        """Measure on validation rows; also return answers to other letters that came meanwhile."""
        ...

    def finish(self, courier: Courier, round_: int, notes: list[str]) -> None:
        """Do what is left to do at the end of the run."""
        ...

    def final(self) -> Model | None:
        """Return the final model's name and arrays, or None if there is none."""
        ...

    def handover(self, site: str) -> Mapping[str, NDArray[Any]] | None:
        """Return what a site's own model goes on from at the end of the run; None: from its own."""
        ...


@dataclass
class Base:
    """A collaboration's terms, a prepared subtask, and the contributions of the open round."""

    collaboration: Collaboration
    prepared: Prepared
    run: str
    spool: Spool
    kept: dict[str, Contribution] = field(default_factory=dict)
    sent: dict[str, Send] = field(default_factory=dict)
    temperature: float = 1.0

    @property
    def name(self) -> str:
        """The subtask's name."""
        return self.prepared.subtask.name

    @property
    def subtask_terms(self) -> SubtaskTerms:
        """The subtask's table in the collaboration file."""
        return self.collaboration.subtasks[self.name]

    def forget(self, key: str) -> None:
        """Drop a contribution that was kept, if it was."""
        self.sent.pop(key, None)
        if self.kept.pop(key, None) is not None:
            self.spool.drop(key)

    def again(self, key: str, contribution: Contribution, ref: str) -> None:
        """Keep a contribution that had been accepted before the run was killed; ``ref`` has its arrays."""
        self.kept[key] = contribution
        self.spool.again(key, ref)

    def _let_go(self, keys: Sequence[str]) -> None:
        """Drop contributions that have been merged."""
        for key in keys:
            self.kept.pop(key, None)
            self.spool.drop(key)

    def finish(self, courier: Courier, round_: int, notes: list[str]) -> None:
        """Nothing is left to do, unless a learner says otherwise."""

    def handover(self, site: str) -> Mapping[str, NDArray[Any]] | None:  # noqa: ARG002
        """A site goes on from its own model, unless a learner says otherwise."""
        return None

    def _letter(self, send: Send, message_type: str, arrays: Arrays | None) -> Letter:
        assignment = Assignment(
            run=self.run,
            round=send.round,
            subtask=self.prepared.subtask.model_copy(update={"train": self._train_spec(send)}),
            site=send.site,
            attempt=send.attempt,
            model=send.model,
        )
        self.sent = {k: s for k, s in self.sent.items() if s.round == send.round} | {assignment.id: send}
        return Letter(send.site, message_type, pack(assignment, arrays), assignment.id, send.round)

    def _train_spec(self, send: Send) -> TrainSpec:
        """Return how the site trains: its share of the updates, so that the cohort finishes together."""
        rows = self.prepared.summaries[send.site].train
        return self.prepared.subtask.train.shortened(send.budget, rows)

    def _demand(
        self, key: str, send: Send, spec: Spec, largest: float | None, rows: Sequence[int] | None = None
    ) -> Demand:
        """Return what a contribution of arrays of ``spec`` must be, by what was known before it came.

        ``rows`` are those of each subtask that it is of; the site's own of this one, if left out.
        """
        rows = rows or [self.prepared.summaries[send.site].train]
        subtask = self.prepared.subtask
        return Demand(
            key=key,
            model=send.model,
            exchange=subtask.exchange,
            spec=spec,
            examples=(max(rows), sum(rows)),
            classes=subtask.outputs,
            largest=largest,
            public_digest=subtask.public_digest if subtask.exchange == "soft_labels" else None,
        )

    def _keep(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Keep a contribution whose arrays, as they are used, have been checked."""
        self.kept[key] = contribution
        self.spool.put(key, arrays)

    def _request(self, round_: int, site: str, model: str) -> EvaluationRequest:
        return EvaluationRequest(
            run=self.run,
            round=round_,
            subtask=self.prepared.subtask,
            site=site,
            model=model,
            class_counts=tuple(self.prepared.class_counts.tolist()),
        )

    def _counts(self, said: Sequence[float]) -> NDArray[np.float64]:
        """Return a site's class counts, or where the terms have no mask, one for each class."""
        counts_C = np.asarray(said, dtype=np.float64)
        terms = self.subtask_terms.soft_labels
        return counts_C if terms is None or terms.mask else np.ones_like(counts_C)

    def _patience(self) -> Patience:
        """An evaluation closes as a cohort does: one silent site must not cost everybody a deadline."""
        terms = self.collaboration.coordination_of(self.name)
        return Patience(terms.deadline_s, terms.quorum, terms.grace_s)

    def _ask_model(
        self, courier: Courier, model: str, arrays: Arrays, round_: int, notes: list[str]
    ) -> Evaluated:
        """Have every site measure one model on its validation rows."""
        return self._ask(courier, dict.fromkeys(self.prepared.sites, (model, arrays)), round_, notes)

    def _ask(
        self, courier: Courier, models: Mapping[str, tuple[str, Arrays]], round_: int, notes: list[str]
    ) -> Evaluated:
        """Have each site measure the model that is for it on its validation rows."""
        letters = [
            Letter(s, "evaluate.model", pack(self._request(round_, s, model), arrays), self.name, round_)
            for s, (model, arrays) in sorted(models.items())
        ]
        return merge_evaluations(courier, letters, self._patience(), self.prepared, notes)

    def _ask_own(self, courier: Courier, round_: int, notes: list[str]) -> Evaluated:
        """Have each site measure its own model on its validation rows."""
        letters = [
            Letter(s, "evaluate.local", pack(self._request(round_, s, model)), self.name, round_)
            for s, model in sorted(self.prepared.models.items())
        ]
        return merge_evaluations(courier, letters, self._patience(), self.prepared, notes)
