"""Exchange ``soft_labels``: the combined soft labels of the last round, and one student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from collab import credit, metrics
from collab.collaboration import metric_of
from collab.distillation import Sharpening, by_entropy, sharpen
from collab.events import Send
from collab.models.contract import build
from collab.paired import beats
from collab.plugins import load
from collab.soft_labels import class_counts
from collab.soft_labels.contract import SoftLabels, check_soft_labels, needs
from collab.teacher import TeacherFile
from collab.terms import DistillationTerms, Rule, SoftLabelTerms
from protocol.arrays import Arrays
from protocol.errors import MessageError, RunError
from protocol.messages import Contribution
from protocol.quantise_labels import decode_soft_labels, encode_soft_labels, wire_spec
from protocol.records import pack
from server import fitting, teachers
from server.courier import Arrival, Courier, Letter
from server.distiller import Distiller, Student, sharpenings
from server.evaluations import Evaluated, Measurement, merge_evaluations
from server.gate import Demand
from server.learner import Base, Effect, Model
from server.preparation import Prepared


@dataclass
class SoftLabelLearner(Base):
    """The last soft labels of every site, what they came to, and the student that learned from it."""

    votes: dict[str, SoftLabels] = field(default_factory=dict)
    teacher: SoftLabels | None = None
    soft_labels_NC: NDArray[np.float32] | None = None
    sharpening: Sharpening | None = None
    student: Student | None = None
    distilled_round: int = 0
    is_new: bool = False

    def __post_init__(self) -> None:
        speed = self.collaboration.server.examples_per_s
        self.distiller = Distiller(self.prepared, self.terms, 1 / speed, self.spool.record)
        imported = self.subtask_terms.teacher
        if imported is not None and imported.join == "teacher":
            self.teacher = _vote(imported, self.prepared)

    @property
    def terms(self) -> DistillationTerms:
        """The subtask's distillation terms."""
        return self.subtask_terms.distillation

    @property
    def exchange_terms(self) -> SoftLabelTerms:
        """The subtask's soft-label terms."""
        if self.subtask_terms.soft_labels is None:
            raise MessageError(f"subtask '{self.name}' has no soft_labels table")
        return self.subtask_terms.soft_labels

    @property
    def combination(self) -> Rule:
        """The rule that combines, and its options."""
        return self.exchange_terms.combine

    def letter(self, send: Send) -> Letter:
        """Return the assignment; the site has digested the last soft labels already."""
        return self._letter(send, "train.soft_labels", None)

    def demand(self, key: str, send: Send) -> Demand:
        """Return the form in which soft labels of so many public rows travel; their sums bound their norm."""
        rows, subtask = self._public_rows(), self.prepared.subtask
        spec = wire_spec(subtask.wire.form, rows, subtask.outputs, subtask.wire.top_k)
        return self._demand(key, send, spec, None)

    def accept(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Check that these are probabilities on the public set, then keep."""
        rows, classes = self._public_rows(), self.prepared.subtask.outputs
        probabilities_NC = decode_soft_labels(arrays, self.prepared.subtask.wire.form, rows, classes)
        may_abstain = self.exchange_terms.selective is not None
        check_soft_labels(probabilities_NC, rows, classes, allow_silent=may_abstain)
        if contribution.class_counts != self.prepared.summaries[contribution.site].class_counts:
            raise MessageError("other class counts than the site said it has")
        if "accuracy" in needs(load("soft_labels", self.combination.rule)) and contribution.accuracy is None:
            raise MessageError("it does not say its accuracy")
        self._keep(key, contribution, {"probabilities": probabilities_NC})

    def aggregate(self, keys: Sequence[str], notes: list[str]) -> dict[str, float]:  # noqa: ARG002
        """Take in the last soft labels of every site that ever gave some.

        A cohort alone would lack the classes of the sites that had something else to do this round;
        the public set stays the same, so a site's opinion of an earlier round still counts.
        """
        given = []
        for key in keys:
            said = self.kept.pop(key)
            given.append(said.site)
            probabilities_NC = self.spool.take(key)["probabilities"]
            self.votes[said.site] = SoftLabels(
                probabilities_NC,
                self._counts(said.class_counts),
                accuracy=said.accuracy,
                abstains_N=probabilities_NC.sum(axis=1) == 0,
            )
        self.is_new = True
        return self._credits(given)

    def effect(self, keys: Sequence[str]) -> Effect:  # noqa: ARG002
        """Return the last soft labels of every site."""
        said = {site: vote.accuracy for site, vote in self.votes.items()}
        votes = {s: {"p": v.probabilities_NC, "counts": v.class_counts_C} for s, v in self.votes.items()}
        return Effect(said, votes)

    def take_effect(self, keys: Sequence[str], effect: Effect) -> None:
        """Take up the last soft labels of every site."""
        self.votes = {
            site: SoftLabels(
                found["p"],
                found["counts"],
                accuracy=effect.said[site],
                abstains_N=found["p"].sum(axis=1) == 0,
            )
            for site, found in effect.arrays.items()
        }
        self.is_new = True
        self._let_go(keys)

    def _credits(self, sites: Sequence[str]) -> dict[str, float]:
        """Return what these sites' votes are worth beside all last votes.

        Those are weighed by class whatever rule combines: who has rows of a class sets its measure.
        """
        combined_NC = class_counts.combine([self.votes[site] for site in sorted(self.votes)])
        votes = {site: self.votes[site] for site in sites}
        return credit.relative(
            {s: credit.agreement(v.probabilities_NC, combined_NC, v.class_counts_C) for s, v in votes.items()}
        )

    def measure(self, courier: Courier, round_: int, notes: list[str]) -> tuple[Measurement, list[Arrival]]:
        """Have every site measure its own model, after its digest if any; now and then distil a student."""
        if self.prepared.subtask.digest.epochs:
            found = self._digested(courier, round_, notes)
        else:
            found = self._ask_own(courier, round_, notes) if self.votes else None
        if found is None:
            return Measurement({}, 0, ()), []
        others = found.others
        if round_ % self.exchange_terms.student_every == 0:
            others = others + self._distil(courier, round_, notes)
        return found.measurement, others

    def finish(self, courier: Courier, round_: int, notes: list[str]) -> None:
        """Distil the last soft labels, unless that was just done."""
        if self.distilled_round < round_:
            self._distil(courier, round_, notes)

    def final(self) -> Model | None:
        """Return the last accepted student."""
        return (str(self.terms.student), self.student.arrays) if self.student else None

    def _digested(self, courier: Courier, round_: int, notes: list[str]) -> Evaluated | None:
        """Have every site digest the combined soft labels and measure its own model; None without any."""
        self._combine(courier, notes)
        if self.soft_labels_NC is None:
            return None
        wire = self.prepared.subtask.wire
        arrays = encode_soft_labels(self._teacher(), wire.form, wire.top_k)
        letters = [
            Letter(s, "evaluate.digest", pack(self._request(round_, s, model), arrays), self.name, round_)
            for s, model in sorted(self.prepared.models.items())
        ]
        return merge_evaluations(courier, letters, self._patience(), self.prepared, notes)

    def _combine(self, courier: Courier, notes: list[str]) -> None:
        """Combine the votes anew if any came; rows on which nobody has an opinion keep their last one."""
        if not self.is_new:
            return
        self.is_new = False
        rule = load("soft_labels", self.combination.rule)
        votes = self.votes
        if "shared_models" in needs(rule):
            votes = fitting.with_class_weights(courier, self.prepared, self.run, votes, notes)
        given = [votes[site] for site in sorted(votes)] + ([self.teacher] if self.teacher else [])
        try:
            combined_NC = rule.combine(given, **self.combination.options)
        except RunError as error:
            notes.append(f"{self.name}: soft labels not combined, the last ones stay: {error}")
            return
        if self.soft_labels_NC is not None:
            silent_N1 = combined_NC.sum(axis=1, keepdims=True) == 0
            combined_NC = np.where(silent_N1, self.soft_labels_NC, combined_NC)
        self.soft_labels_NC = combined_NC

    def _teacher(self) -> NDArray[np.float32]:
        """Return the combined soft labels as the last student's teacher was sharpened; silent rows stay 0."""
        if self.soft_labels_NC is None:
            raise MessageError(f"subtask '{self.name}' has no soft labels yet")
        known_N = self.soft_labels_NC.sum(axis=1) > 0
        known_KC = self.soft_labels_NC[known_N]
        chosen = sharpenings(self.terms)
        sharpening = chosen[0] if len(chosen) == 1 else self.sharpening or by_entropy(known_KC)
        teacher_NC = np.zeros_like(self.soft_labels_NC)
        teacher_NC[known_N] = sharpen(known_KC, sharpening)
        return teacher_NC

    def _distil(self, courier: Courier, round_: int, notes: list[str]) -> list[Arrival]:
        """Distil with each sharpening and keep the best on federated validation.

        A student that is not better than the class frequencies alone by 2 standard errors, in log
        loss and in error rate, is refused whatever its metric: so ends a public set of noise.
        """
        self._combine(courier, notes)
        if self.soft_labels_NC is None:
            return []
        self.distilled_round = round_
        metric = metric_of(self.subtask_terms)
        best: Student | None = None
        others: list[Arrival] = []
        for sharpening in sharpenings(self.terms):
            arrays = self._train_student(courier, sharpening, round_)
            found = self._ask_model(courier, str(self.terms.student), arrays, round_, notes)
            others += found.others
            value = found.measurement.metrics.get(metric)
            if value is None or not beats(found.versus_constant, ("log_loss", "error")):
                continue
            if best is None or metrics.is_better(metric, value, best.validation):
                best = Student(arrays, sharpening, round_, value, found.temperature)
        if best is None:
            notes.append(
                f"{self.name}, round {round_}: student refused: on validation it is not better than the "
                "class frequencies alone by 2 standard errors; the last one is kept"
            )
        else:
            self.student, self.sharpening, self.temperature = best, best.sharpening, best.temperature
        return others

    def _train_student(self, courier: Courier, sharpening: Sharpening, round_: int) -> Arrays:
        if self.soft_labels_NC is None:
            raise MessageError(f"subtask '{self.name}' has no soft labels to distil from")
        name = str(self.terms.student)
        imported = self.subtask_terms.teacher
        start: Arrays
        if self.student is not None:
            start = self.student.arrays
        elif imported is not None and imported.join == "initialisation" and imported.model == name:
            start = teachers.load_arrays(Path(imported.path), name, self.prepared.fresh_arrays(name))
        else:
            start = self.prepared.fresh_arrays(name)
        return self.distiller.student(courier, (name, start), self.soft_labels_NC, sharpening, round_)

    def _public_rows(self) -> int:
        return 0 if self.prepared.public is None else len(self.prepared.public)


def _vote(imported: TeacherFile, prepared: Prepared) -> SoftLabels:
    """Return what an imported teacher says of the public set, as one more site would."""
    public = prepared.public
    if public is None:
        raise MessageError(f"subtask '{prepared.subtask.name}' has no public set for its teacher")
    labels = prepared.subtask.labels
    labels = prepared.subtask.outputs if labels is None else labels

    def fresh(model: str, outputs: int) -> nn.Module:
        return build(model, public.shape[1:], outputs, seed=0)

    probabilities_NC = teachers.soft_labels(imported, Path(), public, prepared.public_raw, labels, fresh)
    return SoftLabels(
        probabilities_NC,
        teachers.class_counts(imported, labels),
        abstains_N=probabilities_NC.sum(axis=1) == 0,
    )
