"""Subtasks of a family: while a group trains together, its first subtask's learner speaks for all of it.

Each learner holds its own subtask's ordinary arrays, encoder and head, so it is measured, fused and written
as any other. The leader sends the group's shared encoder, and puts what was merged into all its learners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab import credit, metrics
from collab.aggregation.accumulate import Accumulator
from collab.decomposition import affinity
from collab.decomposition.shared_encoder import ENCODER, HEAD
from collab.events import Send
from collab.heads import head_names
from protocol.arrays import Arrays, ArraySpec, Spec, check, spec_of
from protocol.errors import ArraysError, ConsiliumError, MessageError
from protocol.messages import Assignment, Contribution, Joint
from protocol.records import pack
from server.courier import Letter
from server.gate import LARGEST_MODEL, Demand, check_norm
from server.journal.store import JournalError
from server.learner import Effect
from server.weights_learner import WeightsLearner

AFFINITY: Final = "affinity/"
_SUMS: Final = tuple(affinity.no_sums(1))


@dataclass
class Party:
    """A group: its learners by subtask, the leader first; whether it measures affinities, and how often.

    ``sums`` [K, K] in the order of ``learners``, and ``looked``, are what was measured so far.
    """

    learners: Mapping[str, JointLearner]
    every: int | None
    sums: dict[str, NDArray[np.float64]]
    looked: int = 0

    @property
    def subtasks(self) -> tuple[str, ...]:
        """The group, the leader first."""
        return tuple(self.learners)


def party_of(learners: Mapping[str, JointLearner], every: int | None) -> Party:
    """Return a group of these learners, and let each know it."""
    made = Party(learners, every, affinity.no_sums(len(learners)))
    for learner in learners.values():
        learner.party = made
    return made


@dataclass
class JointLearner(WeightsLearner):
    """One subtask of a family."""

    party: Party | None = None
    asked: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The one model of the family."""
        return self.chosen

    @cached_property
    def head(self) -> frozenset[str]:
        """The names of the head's arrays; the others are the encoder's."""
        return frozenset(head_names(self.prepared.module(self.model)))

    def named(self) -> dict[str, NDArray[Any]]:
        """Return this subtask's arrays under the names of a shared encoder."""
        arrays = self.groups[self.model].arrays
        return {self._name(n): a for n, a in arrays.items()}

    def take(self, arrays: Arrays) -> None:
        """Take the encoder and this subtask's head out of a shared encoder's arrays."""
        group = self.groups[self.model]
        group.arrays = {n: np.array(arrays.get(self._name(n), a)) for n, a in group.arrays.items()}

    def letter(self, send: Send) -> Letter:
        """Return the assignment with the encoder, and the heads of what the site has of the group."""
        party = self._party()
        if len(party.learners) == 1:
            return super().letter(send)
        have = tuple(m for m, x in party.learners.items() if send.site in x.prepared.models)
        learners = [party.learners[m] for m in have]
        joint = Joint(
            subtasks=tuple(x.prepared.subtask.model_copy(update={"preprocessing": None}) for x in learners),
            importances=tuple(x.subtask_terms.importance for x in learners),
            every=party.every,
            budget=send.budget,
        )
        assignment = Assignment(
            run=self.run,
            round=send.round,
            subtask=self.prepared.subtask,
            site=send.site,
            attempt=send.attempt,
            model=send.model,
            joint=joint,
        )
        self.sent = {k: s for k, s in self.sent.items() if s.round == send.round} | {assignment.id: send}
        self.asked = {k: m for k, m in self.asked.items() if k in self.sent} | {assignment.id: have}
        content = pack(assignment, self._arrays(have))
        return Letter(send.site, "train.joint", content, assignment.id, send.round)

    def demand(self, key: str, send: Send) -> Demand:
        """Return a group's names and shapes and its rows: of those that subtasks share each counts once."""
        have = self.asked.get(key)
        if have is None:
            return super().demand(key, send)
        spec = spec_of(self._arrays(have))
        if self._party().every is not None:
            spec |= {AFFINITY + name: one for name, one in _spec(len(have)).items()}
        return self._demand(key, send, spec, None, self._rows(have, send.site))

    def accept(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Check the norm of a group's parameters, and its sums of affinities; then keep."""
        have = self.asked.get(key)
        if have is None:
            super().accept(key, contribution, arrays)
            return
        sums = {n: a for n, a in arrays.items() if n.startswith(AFFINITY)}
        check_norm({n: a for n, a in arrays.items() if n not in sums}, LARGEST_MODEL)
        self._check_sums_of(len(have), contribution, sums, self.sent[key].budget)
        self._keep(key, contribution, arrays)

    def aggregate(self, keys: Sequence[str], notes: list[str]) -> dict[str, float]:
        """Average the encoder by examples, and each head over those that have its subtask."""
        party = self._party()
        if len(party.learners) == 1:
            return super().aggregate(keys, notes)
        said = {key: self.kept.pop(key) for key in keys}
        given = {key: self.spool.read(key) for key in said}
        before = self._arrays(party.subtasks)
        try:
            after, trained = self._means(before, said, given)
        except JournalError:
            raise
        except ConsiliumError as error:
            notes.append(f"{self.name}: contributions not merged, the arrays stay: {error}")
            return {}
        for name, learner in party.learners.items():
            learner.take(after)
            learner.groups[learner.model].aggregated |= name in trained
        for key, contribution in said.items():
            self._measured(key, contribution, given[key])
            self.spool.drop(key)
        aligned = {c.site: credit.alignment(before, after, given[key]) for key, c in said.items()}
        return credit.relative(aligned)

    def effect(self, keys: Sequence[str]) -> Effect:
        """Return what has become of every subtask of the group, and of the sums of affinities."""
        party = self._party()
        said: dict[str, Any] = {"looked": party.looked}
        arrays: dict[str, Arrays] = {"sums": party.sums}
        for name, learner in party.learners.items():
            own = WeightsLearner.effect(learner, keys)
            said[name] = own.said
            arrays |= {f"{name}/{group}": found for group, found in own.arrays.items()}
        return Effect(said, arrays)

    def take_effect(self, keys: Sequence[str], effect: Effect) -> None:
        """Bring every subtask of the group to where merging had brought it."""
        party = self._party()
        party.looked, party.sums = effect.said["looked"], dict(effect.arrays["sums"])
        for name, learner in party.learners.items():
            own = {
                g.removeprefix(f"{name}/"): a for g, a in effect.arrays.items() if g.startswith(f"{name}/")
            }
            WeightsLearner.take_effect(learner, (), Effect(effect.said[name], own))
        self._let_go(keys)

    def _means(
        self, before: Arrays, said: Mapping[str, Contribution], given: Mapping[str, Arrays]
    ) -> tuple[dict[str, NDArray[Any]], set[str]]:
        """Return the group's arrays, averaged, and the subtasks that somebody trained."""
        learners = self._party().learners
        encoder = Accumulator(_encoder(before))
        heads = {name: Accumulator(_head(before, name)) for name in learners}
        for key, contribution in said.items():
            chance = self._inclusion(key)
            encoder.add(_encoder(given[key]), contribution.num_examples / chance)
            for name in self.asked[key]:
                examples = learners[name].prepared.summaries[contribution.site].train
                heads[name].add(_head(given[key], name), examples / chance)
        trained = {name for key in said for name in self.asked[key]}
        after = {**before, **encoder.mean()}
        for name in sorted(trained):
            after |= heads[name].mean()
        return after, trained

    # -- a group's contribution -----------------------------------------------------------------

    def _party(self) -> Party:
        if self.party is None:
            raise MessageError(f"subtask '{self.name}' is of no group")
        return self.party

    def _name(self, name: str) -> str:
        if name in self.head:
            return f"{HEAD}{self.name}/{name.rpartition('.')[2]}"
        return ENCODER + name

    def _arrays(self, subtasks: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the encoder and these subtasks' heads."""
        party, found = self._party(), _encoder(self.named())
        for name in subtasks:
            found |= _head(party.learners[name].named(), name)
        return found

    def _rows(self, have: Sequence[str], site: str) -> list[int]:
        return [self._party().learners[name].prepared.summaries[site].train for name in have]

    def _check_sums_of(self, subtasks: int, contribution: Contribution, sums: Arrays, budget: float) -> None:
        """Refuse sums that so many rows cannot give: their number is what a site's affinities count."""
        every = self._party().every
        if every is None:
            if sums or contribution.looked:
                raise ArraysError("affinities were not asked for")
            return
        named = {n.removeprefix(AFFINITY): a for n, a in sums.items()}
        check(named, _spec(subtasks))
        affinity.check_sums(named, subtasks)
        spec = self.prepared.subtask.train.shortened(budget, contribution.num_examples)
        measurements = -(-spec.steps(contribution.num_examples) // every)
        rows = min(spec.batch_size, contribution.num_examples // 2)
        if named["rows"].max(initial=0.0) > measurements * rows:
            raise ArraysError("affinities are of more rows than were to be measured")
        if contribution.looked > measurements * -(-rows * (2 + 3 * subtasks) // 3):
            raise MessageError("measuring took more than it can have")

    def _measured(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Add a site's sums where its subtasks stand in the group."""
        party, have = self._party(), self.asked[key]
        if party.every is None:
            return
        places = [party.subtasks.index(name) for name in have]
        found = affinity.no_sums(len(party.learners))
        for name in _SUMS:
            found[name][np.ix_(places, places)] = arrays[AFFINITY + name]
        party.sums = metrics.merge([party.sums, found])
        party.looked += contribution.looked


def _spec(subtasks: int) -> Spec:
    return {name: ArraySpec((subtasks, subtasks), "float64") for name in _SUMS}


def _encoder(arrays: Arrays) -> dict[str, NDArray[Any]]:
    return {n: a for n, a in arrays.items() if n.startswith(ENCODER)}


def _head(arrays: Arrays, subtask: str) -> dict[str, NDArray[Any]]:
    return {n: a for n, a in arrays.items() if n.startswith(f"{HEAD}{subtask}/")}
