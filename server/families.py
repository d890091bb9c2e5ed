"""Families of subtasks at the server: one preprocessing and model, a merged start, and the split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from collab.collaboration import Collaboration, kind_of
from collab.data.preprocess import ColumnStatistics, Preprocessing, merge
from collab.decomposition import affinity
from collab.decomposition.affinity_terms import AffinityTerms
from collab.decomposition.shared_encoder import ENCODER, Part, build_shared
from collab.events import Aggregate, Grouped
from protocol.errors import ConfigError, MessageError
from server.joint_learner import JointLearner, Party, party_of
from server.learner import Learner
from server.preparation import Prepared


def alike(collaboration: Collaboration, prepared: Mapping[str, Prepared]) -> dict[str, Prepared]:
    """Return ``prepared`` with one preprocessing and one model for all subtasks of each family.

    The preprocessing is fitted on the statistics of all of them; the model is the smallest of those that
    they would have had.

    Raises:
        ConfigError: their inputs differ, or the model has no layer to share.
    """
    found = dict(prepared)
    for name, terms in collaboration.families.items():
        members = {member: found[member] for member in terms.subtasks}
        fitted = _fitted(name, members)
        used = {model for one in members.values() for model in one.models.values()}
        first = members[terms.subtasks[0]]
        model = min(sorted(used), key=lambda m: first.model_mib[m])
        parts = [
            Part(member, kind_of(collaboration.subtasks[member]), one.subtask.outputs)
            for member, one in members.items()
        ]
        try:
            build_shared(model, fitted.input_shape, parts, 0)
        except ConfigError as error:
            raise ConfigError(f"decomposition '{name}': {error}") from None
        for member, one in members.items():
            subtask = one.subtask.model_copy(update={"preprocessing": fitted.model_dump_json()})
            found[member] = replace(one, subtask=subtask, models=dict.fromkeys(one.models, model))
    return found


def _fitted(name: str, members: Mapping[str, Prepared]) -> Preprocessing:
    """Return the preprocessing of all subtasks of a family."""
    said = [s.statistics for one in members.values() for _, s in sorted(one.summaries.items())]
    try:
        return Preprocessing.fit(merge([ColumnStatistics.model_validate_json(text) for text in said]))
    except MessageError as error:
        raise ConfigError(
            f"decomposition '{name}': its subtasks share an encoder, but their inputs differ ({error}): "
            "give their data blocks the same features, without each other's targets"
        ) from None


@dataclass
class Family:
    """One family during a run: who trains together, and how it came to be split."""

    name: str
    terms: AffinityTerms
    learners: Mapping[str, JointLearner]
    merged: Party
    grouped: Grouped | None = None

    def decide(self, done: Aggregate, now_s: float) -> Grouped | None:
        """Split the family if it is time: its last merged round was aggregated, and something was measured.

        Returns:
            the event that says so to the state machine, or None.
        """
        first = self.terms.subtasks[0]
        if self.grouped is not None or done.subtask != first or done.round < self.terms.merge_rounds:
            return None
        sums = self.merged.sums
        if not sums["rows"].any():
            return None
        found = affinity.partition(affinity.means(sums), self.terms.options)
        groups = tuple(tuple(self.terms.subtasks[k] for k in group) for group in found.groups)
        for group in groups:
            party_of({member: self.learners[member] for member in group}, None)
        errors_KK = affinity.standard_errors(sums)
        self.grouped = Grouped(
            at_s=now_s,
            round=done.round,
            family=self.name,
            subtasks=self.terms.subtasks,
            groups=groups,
            affinity=tuple(tuple(map(float, row_K)) for row_K in affinity.means(sums)),
            standard_errors=tuple(
                tuple(float(e) if np.isfinite(e) else None for e in row_K) for row_K in errors_KK
            ),
            value=found.value,
            exact=found.exact,
            looked=self.merged.looked,
        )
        return self.grouped

    def as_json(self) -> dict[str, Any]:
        """Return the family's entry of a summary; what was not decided is None."""
        found = self.grouped
        return {
            "by": "affinity",
            "subtasks": list(self.terms.subtasks),
            "merge_rounds": self.terms.merge_rounds,
            "split_after": found and found.round,
            "groups": found and [list(group) for group in found.groups],
            "affinity": found and [list(row) for row in found.affinity],
            "standard_errors": found and [list(row) for row in found.standard_errors],
            "value": found and found.value,
            "exact": found and found.exact,
            "measuring_examples": self.merged.looked,
        }


def said(grouped: Grouped) -> str:
    """Return a split in one line: "signs, after round 5: shape + colour | speed"."""
    groups = " | ".join(" + ".join(group) for group in grouped.groups)
    return f"{grouped.family}, after round {grouped.round}: {groups}"


def families_of(collaboration: Collaboration, learners: Mapping[str, Learner]) -> tuple[Family, ...]:
    """Return the families of a run, merged: all start from the first subtask's encoder."""
    found = []
    for name, terms in collaboration.families.items():
        members: dict[str, JointLearner] = {}
        for member in terms.subtasks:
            learner = learners[member]
            if not isinstance(learner, JointLearner):
                raise ConfigError(f"decomposition '{name}': subtask '{member}' does not exchange weights")
            members[member] = learner
        merged = party_of(members, terms.every)
        start = {n: a for n, a in members[terms.subtasks[0]].named().items() if n.startswith(ENCODER)}
        for one in members.values():
            one.take(start)
        found.append(Family(name, terms, members, merged))
    return tuple(found)
