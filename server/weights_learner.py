"""Exchange ``weights``: global arrays of one architecture or of each, and the rule's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab import credit, metrics
from collab.aggregation import contract as hooks
from collab.aggregation.accumulate import Accumulator
from collab.aggregation.contract import About
from collab.aggregation.updates import Updates
from collab.collaboration import metric_of
from collab.distillation import by_entropy
from collab.events import Send
from collab.personal import kept_local
from collab.plugins import load
from collab.soft_labels.contract import SoftLabels
from protocol.arrays import Arrays, spec_of
from protocol.errors import ArraysError, ConsiliumError, MessageError
from protocol.messages import Contribution
from protocol.quantise_delta import decode_delta, wire_spec
from server import teachers
from server.courier import Arrival, Courier, Letter
from server.distiller import Distiller, root_update, sharpenings
from server.evaluations import Measurement
from server.gate import LARGEST_MODEL, Demand, check_norm
from server.journal.store import JournalError
from server.learner import Base, Effect, Model

# The bound of the norm of what is quadratic in the features: sums over a site's rows.
LARGEST_SUM = LARGEST_MODEL**2


@dataclass
class Group:
    """One architecture's global arrays, and what the aggregation rule keeps for it.

    ``kept`` names the layers that stay at the sites: they have no global version.
    """

    arrays: dict[str, NDArray[Any]]
    state: dict[str, NDArray[Any]]
    kept: frozenset[str] = frozenset()
    aggregated: bool = False

    @property
    def shared(self) -> dict[str, NDArray[Any]]:
        """The arrays that travel."""
        return {name: array for name, array in self.arrays.items() if name not in self.kept}


@dataclass
class WeightsLearner(Base):
    """Averages, one for all sites or one an architecture; FedDF distils the cohort's ensemble into them."""

    groups: dict[str, Group] = field(default_factory=dict)
    chosen: str = ""
    ensemble: list[SoftLabels] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.rule = load("aggregation", self.subtask_terms.aggregation.rule)
        self.options = self.subtask_terms.aggregation.options
        for model in sorted(set(self.prepared.models.values())):
            arrays = self.prepared.fresh_arrays(model)
            teacher = self.subtask_terms.teacher
            if teacher is not None and teacher.join == "initialisation" and teacher.model == model:
                arrays = teachers.load_arrays(Path(teacher.path), model, arrays)
            personal = self.prepared.subtask.personal
            kept = kept_local(self.prepared.module(model), personal.rule) if personal else frozenset()
            shared = {n: a for n, a in arrays.items() if n not in kept}
            self.groups[model] = Group(arrays, self.rule.init(shared, **self.options), kept)
        self.chosen = next(iter(self.groups))
        self.distiller = Distiller(
            self.prepared,
            self.subtask_terms.distillation,
            1 / self.collaboration.server.examples_per_s,
            self.spool.record,
        )

    def letter(self, send: Send) -> Letter:
        """Return the assignment with the global arrays of the site's architecture."""
        group = self.groups[send.model]
        arrays = hooks.send(self.rule, group.shared, group.state, **self.options)
        return self._letter(send, "train.weights", arrays)

    def demand(self, key: str, send: Send) -> Demand:
        """Return names, shapes and dtypes of what comes back, as it travels, and the bound of its norm."""
        spec = spec_of(self._base(send.model))
        if self.prepared.subtask.wire.form == "int8_delta":
            return self._demand(key, send, wire_spec(spec), None)
        sums = "normal_equations" in hooks.needs(self.rule)
        return self._demand(key, send, spec, LARGEST_SUM if sums else LARGEST_MODEL)

    def accept(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Check what changes and sums come to, then keep."""
        if self.prepared.subtask.wire.form == "int8_delta":
            base = self._base(contribution.model)
            change = decode_delta(arrays, spec_of(base))
            check_norm(change, LARGEST_MODEL)  # so that nothing overflows below
            arrays = {n: a if a.dtype.kind != "f" else base[n] + a for n, a in change.items()}
            check_norm(arrays, LARGEST_MODEL)
        if "normal_equations" in hooks.needs(self.rule):
            self._check_sums(contribution, arrays)
        if "steps" in hooks.needs(self.rule) and contribution.steps != self._steps(key, contribution):
            raise MessageError("it says another number of steps than its examples take")
        self._keep(key, contribution, arrays)

    def aggregate(self, keys: Sequence[str], notes: list[str]) -> dict[str, float]:
        """Merge in the given order, inside each architecture; what a rule refuses changes nothing."""
        said = {key: self.kept.pop(key) for key in keys}
        credits_: dict[str, float] = {}
        for model, group in self.groups.items():
            given = {key: c for key, c in said.items() if c.model == model}
            if not given:
                continue
            before = group.shared
            try:
                self._merge(model, group, given)
                group.aggregated = True
                credits_ |= self._credits(before, group.shared, given)
            except JournalError:
                raise
            except ConsiliumError as error:
                self.ensemble = []
                notes.append(f"{self.name}: contributions not merged, the arrays stay: {error}")
            for key in given:
                self.spool.drop(key)
        return credits_

    def effect(self, keys: Sequence[str]) -> Effect:  # noqa: ARG002
        """Return the global arrays and the rule's state of each architecture, and the ensemble's votes."""
        arrays: dict[str, Arrays] = {}
        for model, group in self.groups.items():
            arrays |= {f"arrays/{model}": group.arrays, f"state/{model}": group.state}
        for number, vote in enumerate(self.ensemble):
            arrays[f"vote/{number}"] = {"p": vote.probabilities_NC, "counts": vote.class_counts_C}
        return Effect({"aggregated": [m for m, g in self.groups.items() if g.aggregated]}, arrays)

    def take_effect(self, keys: Sequence[str], effect: Effect) -> None:
        """Bring arrays, rule's state and ensemble to where merging had brought them."""
        for model, group in self.groups.items():
            group.arrays = dict(effect.arrays[f"arrays/{model}"])
            group.state = dict(effect.arrays[f"state/{model}"])
            group.aggregated = model in effect.said["aggregated"]
        votes = [effect.arrays[name] for name in effect.arrays if name.startswith("vote/")]
        self.ensemble = [SoftLabels(vote["p"], vote["counts"]) for vote in votes]
        self._let_go(keys)

    def _credits(self, before: Arrays, after: Arrays, given: Mapping[str, Contribution]) -> dict[str, float]:
        """Return each contribution's credit among those of its architecture; none where sums were sent."""
        if "normal_equations" in hooks.needs(self.rule):
            return {}
        return credit.relative(
            {c.site: credit.alignment(before, after, self.spool.read(key)) for key, c in given.items()}
        )

    def measure(self, courier: Courier, round_: int, notes: list[str]) -> tuple[Measurement, list[Arrival]]:
        """Measure the global arrays at all sites that have the subtask, each with its architecture's."""
        if self.ensemble:
            self._distil_ensemble(courier, round_, notes)
        models = {s: (m, self.groups[m].shared) for s, m in self.prepared.models.items()}
        found = self._ask(courier, models, round_, notes)
        self.temperature = found.temperature
        return found.measurement, found.others

    def finish(self, courier: Courier, round_: int, notes: list[str]) -> None:
        """With several architectures, find the one whose average is best on all validation rows."""
        if len(self.groups) == 1 or not any(g.aggregated for g in self.groups.values()):
            return
        metric, best = metric_of(self.subtask_terms), None
        for model, group in self.groups.items():
            if not group.aggregated:
                continue
            found = self._ask_model(courier, model, group.arrays, round_, notes)
            value = found.measurement.metrics.get(metric)
            if value is not None and (best is None or metrics.is_better(metric, value, best)):
                best, self.chosen, self.temperature = value, model, found.temperature

    def final(self) -> Model | None:
        """Return the global arrays, unless nobody contributed or some of their layers are the sites' own."""
        group = self.groups[self.chosen]
        if not group.aggregated:  # nothing told which is best: the one that most sites hold
            merged = [m for m in self.prepared.models.values() if self.groups[m].aggregated]
            if not merged:
                return None
            self.chosen = max(sorted(set(merged)), key=merged.count)
            group = self.groups[self.chosen]
        return None if group.kept else (self.chosen, group.arrays)

    def handover(self, site: str) -> Mapping[str, NDArray[Any]] | None:
        """Return the shared arrays of the site's architecture; a Ditto site goes on from its own model."""
        group = self.groups[self.prepared.models[site]]
        personal = self.prepared.subtask.personal
        stays = not group.aggregated or (personal is not None and not personal.keeps_layers)
        return None if stays else group.shared

    def _merge(self, model: str, group: Group, given: Mapping[str, Contribution]) -> None:
        if "updates" in hooks.needs(self.rule):
            self._merge_updates(model, group, given)
            return
        everybody = sum(
            s.train for n, s in self.prepared.summaries.items() if self.prepared.models.get(n) == model
        )
        chances = {key: self._inclusion(key) for key in given}
        share = sum(c.num_examples for c in given.values()) / max(everybody, 1)
        shared = group.shared
        accumulator = Accumulator(hooks.like(self.rule, shared, **self.options))
        for key, said in given.items():
            about = About(said.num_examples, said.steps, min(share, 1.0))
            arrays = self._taken(model, said, key)
            part = hooks.contribute(self.rule, shared, arrays, about, **self.options)
            accumulator.add(part, said.num_examples / chances[key])
        mean, drawn = accumulator.mean(), 1.0
        if any(chance < 1 for chance in chances.values()):
            drawn = sum(c.num_examples / chances[key] for key, c in given.items()) / max(everybody, 1)
        # A rule that normalises by steps averages changes, so it is the step it makes of them that is scaled.
        after = "steps" in hooks.needs(self.rule)
        mean = mean if after else unbiased(shared, mean, drawn)
        merged, group.state = self.rule.apply(shared, mean, group.state, **self.options)
        group.arrays |= unbiased(shared, merged, drawn) if after else merged

    def _inclusion(self, key: str) -> float:
        """Return the chance with which a policy drew this assignment; 1 where it did not draw."""
        sent = self.sent.get(key)
        return 1.0 if sent is None or sent.inclusion is None else sent.inclusion

    def _merge_updates(self, model: str, group: Group, given: Mapping[str, Contribution]) -> None:
        """Merge flat changes, unweighted: a Byzantine site would choose its own weight."""
        updates, root = Updates(group.shared, len(given)), None
        for key, said in given.items():
            updates.add(self._taken(model, said, key))
        if "root" in hooks.needs(self.rule):
            round_ = next(iter(given.values())).round
            trained = root_update(self.prepared, model, group.arrays, round_)
            root = {name: trained[name] for name in group.shared}
        merged, group.state = updates.merge(self.rule, group.state, root, **self.options)
        group.arrays |= merged

    def _base(self, model: str) -> Arrays:
        """Return the names, shapes and dtypes of what a site returns, as arrays."""
        return hooks.given(self.rule, self.groups[model].shared, **self.options)

    def _check_sums(self, contribution: Contribution, arrays: Arrays) -> None:
        """Refuse sums that are not of so many rows, or that cannot be solved alone: they spoil the total."""
        if arrays["n"][0] != contribution.num_examples:
            raise ArraysError("its sums are not of the number of examples that it says")
        shared = self.groups[contribution.model].shared
        about = About(contribution.num_examples, 1, 1.0)
        alone = hooks.contribute(self.rule, shared, arrays, about, **self.options)
        self.rule.apply(shared, alone, {}, **self.options)

    def _steps(self, key: str, contribution: Contribution) -> int:
        """Return how many steps an assignment takes on so many examples: a site must not choose them."""
        sent = self.sent.get(key)
        spec = self._train_spec(sent) if sent else self.prepared.subtask.train
        return spec.steps(contribution.num_examples)

    def _taken(self, model: str, said: Contribution, key: str) -> dict[str, NDArray[Any]]:
        arrays = self.spool.read(key)
        if self.subtask_terms.distillation.ensemble:
            outputs_NC = self.distiller.outputs(model, arrays)
            if np.isfinite(outputs_NC).all():
                counts_C = self._counts(self.prepared.summaries[said.site].class_counts)
                self.ensemble.append(SoftLabels(outputs_NC, counts_C))
        return arrays

    def _distil_ensemble(self, courier: Courier, round_: int, notes: list[str]) -> None:
        """Distil the cohort's combined outputs into each architecture's average."""
        terms = self.subtask_terms
        combine = terms.soft_labels.combine if terms.soft_labels else None
        rule, options = (combine.rule, combine.options) if combine else ("mean_logit", {})
        votes, self.ensemble = self.ensemble, []
        try:
            teacher_NC = load("soft_labels", rule).combine(votes, **options)
        except ConsiliumError as error:
            notes.append(f"{self.name}: nothing distilled, the averages stay: {error}")
            return
        chosen = sharpenings(terms.distillation)
        sharpening = chosen[0] if len(chosen) == 1 else by_entropy(teacher_NC)
        for model, group in self.groups.items():
            start = (model, group.arrays)
            student = self.distiller.student(courier, start, teacher_NC, sharpening, round_)
            if all(np.isfinite(array).all() for array in student.values()):
                group.arrays = student


def unbiased(start: Arrays, mean: Arrays, drawn: float) -> dict[str, NDArray[Any]]:
    """Return start + drawn * (mean − start): Horvitz and Thompson's estimate of everybody's mean.

    ``drawn`` is the sum of n_i / p_i of those drawn over the examples of all: 1 on average. Divided by
    itself, as a plain weighted mean does, the estimate would be biased. What a rule averages beside the
    model's arrays, such as SCAFFOLD's controls, stays as it is.
    """
    if drawn == 1.0:
        return dict(mean)
    return {
        name: (start[name] + drawn * (array - start[name])).astype(array.dtype)
        if array.dtype.kind == "f" and name in start
        else array
        for name, array in mean.items()
    }
