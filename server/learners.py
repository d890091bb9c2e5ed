"""What the server holds of one subtask between rounds: global arrays, or soft labels and a student.

A learner says what to send, checks what came, merges it at the close of a round, and measures
the result on federated validation rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from collab import metrics
from collab.aggregation.accumulate import Accumulator
from collab.collaboration import Collaboration, DistillationTerms, metric_of
from collab.distillation import AUTO, Sharpening, by_entropy, distil, sharpen
from collab.events import Send
from collab.models.contract import build, from_arrays, to_arrays
from collab.paired import beats
from collab.plugins import load
from collab.rng import derive, generator
from collab.soft_labels.contract import SoftLabels, check_soft_labels
from protocol.arrays import Arrays, check, digest, spec_of
from protocol.errors import ArraysError, MessageError
from protocol.messages import Assignment, Contribution, EvaluationRequest
from protocol.records import pack
from server.courier import Arrival, Courier, Letter, Patience
from server.evaluations import Measurement, merge_evaluations
from server.preparation import Prepared
from server.spool import Spool


@dataclass(frozen=True)
class Student:
    """The last accepted student: its arrays, the teacher's sharpening and the round it was made in."""

    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    sharpening: Sharpening
    round: int
    validation: float


class Learner(Protocol):
    """What the conductor of a run needs of a subtask."""

    prepared: Prepared

    def letter(self, send: Send) -> Letter:
        """Return the assignment as a letter."""
        ...

    def accept(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Check a contribution and keep it; raise ProtocolError if it cannot be used."""
        ...

    def aggregate(self, keys: Sequence[str]) -> None:
        """Merge the kept contributions in this order."""
        ...

    def measure(self, courier: Courier, round_: int, notes: list[str]) -> tuple[Measurement, list[Arrival]]:
        """Measure on validation rows; also return answers to other letters that came meanwhile."""
        ...

    def finish(self, courier: Courier, round_: int, notes: list[str]) -> None:
        """Do what is left to do at the end of the run."""
        ...

    def final(self) -> tuple[str, Mapping[str, NDArray[Any]]] | None:
        """Return the final model's name and arrays, or None if there is none."""
        ...


@dataclass
class _Base:
    collaboration: Collaboration
    prepared: Prepared
    run: str
    spool: Spool
    kept: dict[str, Contribution] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The subtask's name."""
        return self.prepared.subtask.name

    def _letter(self, send: Send, message_type: str, arrays: Arrays | None) -> Letter:
        assignment = Assignment(
            run=self.run,
            round=send.round,
            subtask=self.prepared.subtask,
            site=send.site,
            attempt=send.attempt,
            model=send.model,
        )
        return Letter(send.site, message_type, pack(assignment, arrays), assignment.id, send.round)

    def _keep(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Keep a contribution whose arrays have been checked, once what it says of itself is true."""
        if contribution.id != key:
            raise MessageError("it answers another assignment")
        site = contribution.site
        if contribution.num_examples > self.prepared.summaries[site].train:
            raise MessageError("more examples than the site said it has")
        if contribution.model != self.prepared.models[site]:
            raise MessageError("another model than assigned")
        if contribution.digest != digest(arrays):
            raise ArraysError("digest does not match")
        self.kept[key] = contribution
        self.spool.put(key, arrays)

    def forget(self, key: str) -> None:
        """Drop a contribution that was kept, if it was."""
        if self.kept.pop(key, None) is not None:
            self.spool.drop(key)

    def _request(self, round_: int, site: str, model: str) -> EvaluationRequest:
        counts = tuple(self.prepared.class_counts.tolist())
        return EvaluationRequest(
            run=self.run,
            round=round_,
            subtask=self.prepared.subtask,
            site=site,
            model=model,
            class_counts=counts,
        )

    def _patience(self) -> Patience:
        """An evaluation closes as a cohort does: one silent site must not cost everybody a deadline."""
        terms = self.collaboration.coordination_of(self.name)
        return Patience(terms.deadline_s, terms.quorum, terms.grace_s)

    def _ask_model(
        self, courier: Courier, model: str, arrays: Arrays, round_: int, notes: list[str]
    ) -> tuple[Measurement, Arrays, list[Arrival]]:
        letters = [
            Letter(s, "evaluate.model", pack(self._request(round_, s, model), arrays), self.name, round_)
            for s in self.prepared.sites
        ]
        return merge_evaluations(courier, letters, self._patience(), self.prepared, notes)


@dataclass
class WeightsLearner(_Base):
    """Exchange ``weights``: global arrays, and the aggregation rule's state."""

    model: str = ""
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    state: dict[str, NDArray[Any]] = field(default_factory=dict)
    aggregated: bool = False

    def __post_init__(self) -> None:
        self.model = next(iter(self.prepared.models.values()))
        self.arrays = self.prepared.fresh_arrays(self.model)
        rule = self.collaboration.subtasks[self.name].aggregation
        self.state = load("aggregation", rule.rule).init(self.arrays, **rule.options)

    def letter(self, send: Send) -> Letter:
        """Return the assignment with the global arrays."""
        return self._letter(send, "train.weights", self.arrays)

    def accept(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Check names, shapes, dtypes and finiteness, then keep."""
        check(arrays, spec_of(self.arrays))
        self._keep(key, contribution, arrays)

    def aggregate(self, keys: Sequence[str]) -> None:
        """Add in the given order, weighted by numbers of examples, and apply the rule."""
        accumulator = Accumulator(self.arrays)
        for key in keys:
            accumulator.add(self.spool.take(key), float(self.kept.pop(key).num_examples))
        rule = self.collaboration.subtasks[self.name].aggregation
        merged = load("aggregation", rule.rule).apply(
            self.arrays, accumulator.mean(), self.state, **rule.options
        )
        self.arrays, self.state = merged
        self.aggregated = True

    def measure(self, courier: Courier, round_: int, notes: list[str]) -> tuple[Measurement, list[Arrival]]:
        """Measure the global arrays at all sites that have the subtask."""
        found, _, others = self._ask_model(courier, self.model, self.arrays, round_, notes)
        return found, others

    def finish(self, courier: Courier, round_: int, notes: list[str]) -> None:
        """Nothing is left to do."""

    def final(self) -> tuple[str, Mapping[str, NDArray[Any]]] | None:
        """Return the global arrays, unless nobody ever contributed."""
        return (self.model, self.arrays) if self.aggregated else None


@dataclass
class SoftLabelLearner(_Base):
    """Exchange ``soft_labels``: the combined soft labels of the last round, and one student."""

    votes: dict[str, SoftLabels] = field(default_factory=dict)
    soft_labels_NC: NDArray[np.float32] | None = None
    sharpening: Sharpening | None = None
    student: Student | None = None
    distilled_round: int = 0
    seconds_a_example: float = 0.0

    @property
    def terms(self) -> DistillationTerms:
        """The subtask's distillation terms."""
        return self.collaboration.subtasks[self.name].distillation

    def letter(self, send: Send) -> Letter:
        """Return the assignment; the site has digested the last soft labels already."""
        return self._letter(send, "train.soft_labels", None)

    def accept(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Check that these are probabilities on the public set, then keep."""
        classes = self.prepared.subtask.outputs
        if set(arrays) != {"probabilities"}:
            raise ArraysError(f"arrays have other names: {sorted(arrays)[:5]}, expected ['probabilities']")
        check_soft_labels(arrays["probabilities"], self._public_rows(), classes)
        said = self.prepared.summaries.get(contribution.site)
        if said is None or contribution.class_counts != said.class_counts:
            raise MessageError("other class counts than the site said it has")
        self._keep(key, contribution, arrays)

    def aggregate(self, keys: Sequence[str]) -> None:
        """Combine the last soft labels of every site that ever gave some, in site order.

        A cohort alone would lack the classes of the sites that had something else to do this round;
        the public set stays the same, so a site's opinion of an earlier round still counts.
        """
        for key in keys:
            contribution = self.kept.pop(key)
            counts_C = np.asarray(contribution.class_counts, dtype=np.float64)
            self.votes[contribution.site] = SoftLabels(self.spool.take(key)["probabilities"], counts_C)
        terms = self.collaboration.subtasks[self.name].soft_labels
        rule = load("soft_labels", terms.combine if terms else "class_counts")
        self.soft_labels_NC = rule.combine([self.votes[site] for site in sorted(self.votes)])

    def measure(self, courier: Courier, round_: int, notes: list[str]) -> tuple[Measurement, list[Arrival]]:
        """Have every site digest the soft labels and measure its own model; now and then distil a student."""
        if self.soft_labels_NC is None:
            return Measurement({}, 0, ()), []
        arrays = {"soft_labels": self._teacher()}
        letters = [
            Letter(s, "evaluate.digest", pack(self._request(round_, s, model), arrays), self.name, round_)
            for s, model in sorted(self.prepared.models.items())
        ]
        found, _, others = merge_evaluations(courier, letters, self._patience(), self.prepared, notes)
        terms = self.collaboration.subtasks[self.name].soft_labels
        if terms is not None and round_ % terms.student_every == 0:
            others += self._distil(courier, round_, notes)
        return found, others

    def finish(self, courier: Courier, round_: int, notes: list[str]) -> None:
        """Distil the last soft labels, unless that was just done."""
        if self.soft_labels_NC is not None and self.distilled_round < round_:
            self._distil(courier, round_, notes)

    def final(self) -> tuple[str, Mapping[str, NDArray[Any]]] | None:
        """Return the last accepted student."""
        return (str(self.terms.student), self.student.arrays) if self.student else None

    def _teacher(self) -> NDArray[np.float32]:
        """Return the combined soft labels, sharpened as the last student's teacher was."""
        if self.soft_labels_NC is None:
            raise MessageError(f"subtask '{self.name}' has no soft labels yet")
        chosen = sharpenings(self.terms)
        sharpening = chosen[0] if len(chosen) == 1 else self.sharpening or by_entropy(self.soft_labels_NC)
        return sharpen(self.soft_labels_NC, sharpening).astype(np.float32)

    def _distil(self, courier: Courier, round_: int, notes: list[str]) -> list[Arrival]:
        """Distil with each sharpening and keep the best on federated validation.

        A student that is not better than the class frequencies alone by 2 standard errors, in log
        loss and in error rate, is refused whatever its metric: so ends a public set of noise.
        """
        self.distilled_round = round_
        metric = metric_of(self.collaboration.subtasks[self.name])
        best: tuple[float, Student] | None = None
        others: list[Arrival] = []
        for sharpening in sharpenings(self.terms):
            arrays = self._train_student(courier, sharpening, round_)
            found, paired, came = self._ask_model(courier, str(self.terms.student), arrays, round_, notes)
            others += came
            value = found.metrics.get(metric)
            if value is None or not beats(paired, ("log_loss", "error")):
                continue
            if best is None or metrics.is_better(metric, value, best[0]):
                best = (value, Student(arrays, sharpening, round_, value))
        if best is None:
            notes.append(
                f"{self.name}, round {round_}: student refused: on validation it is not better than the "
                "class frequencies alone by 2 standard errors; the last one is kept"
            )
        else:
            self.student = best[1]
            self.sharpening = best[1].sharpening
        return others

    def _train_student(
        self, courier: Courier, sharpening: Sharpening, round_: int
    ) -> dict[str, NDArray[Any]]:
        public = self.prepared.public
        if public is None or self.soft_labels_NC is None:
            raise MessageError(f"subtask '{self.name}' has no public set or no soft labels to distil from")
        name, seed = str(self.terms.student), self.prepared.subtask.seed
        module = build(
            name, public.shape[1:], self.prepared.subtask.outputs, derive(seed, self.name, name, "initial")
        )
        if self.student is not None:
            from_arrays(module, self.student.arrays)
        teacher_NC = sharpen(self.soft_labels_NC, sharpening)
        rng = generator(seed, round_, self.name, str(sharpening), "student")
        processed = distil(module, torch.as_tensor(public), teacher_NC, rng, self.terms.spec)
        courier.spend(processed * self.seconds_a_example)
        return to_arrays(module)

    def _public_rows(self) -> int:
        return 0 if self.prepared.public is None else len(self.prepared.public)


def sharpenings(terms: DistillationTerms) -> tuple[Sharpening, ...]:
    """Return the teacher's temperatures that these terms ask to try."""
    if terms.sharpen == "auto":
        return AUTO
    if terms.sharpen in {"none", "hard"}:
        return ("hard",) if terms.sharpen == "hard" else (1.0,)
    return (float(terms.sharpen),)


def make(
    collaboration: Collaboration, prepared: Prepared, run: str, spool: Spool
) -> WeightsLearner | SoftLabelLearner:
    """Return the learner that the subtask's exchange asks for."""
    if prepared.subtask.exchange == "weights":
        return WeightsLearner(collaboration, prepared, run, spool)
    speed = collaboration.server.examples_per_s
    return SoftLabelLearner(collaboration, prepared, run, spool, seconds_a_example=1 / speed)
