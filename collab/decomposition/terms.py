"""``[decomposition.NAME]``: how a subtask is taken apart, and after it was, what it was."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, model_validator

from collab.data.keys import FilePath
from collab.decomposition.affinity_terms import AffinityTerms
from collab.decomposition.label_hierarchy import GATE, Hierarchy, Part
from collab.decomposition.modality_terms import ModalityTerms
from protocol.bounds import Frozen, Label, Name
from protocol.errors import ConfigError
from protocol.parts import PartOf

Fusion = Literal["soft_gate", "hard_gate", "closed_set", "open_set"]
GATED: Final = frozenset({"soft_gate", "hard_gate"})
# What follows from the map, or means nothing for parts that have other labels than the whole.
_NOT_OF_PARTS: Final = ("labels", "teacher", "part_of")
_NOT_OF_GATE: Final = (*_NOT_OF_PARTS, "kind", "data", "root", "family")


class LabelHierarchyTerms(Frozen):
    """One ``[decomposition.NAME]`` by labels: a gate and an expert for each group.

    Attributes:
        by: the labels, in groups.
        map: a file with a map group -> labels, TOML or JSON.
        groups: the same map here; filled in from the file, so that a run's folder needs no other file.
        outside: the data's label of rows of no group.
        refuses: who learns to say so: every expert and the gate, or the gate alone. Where a group's rows lie
            at one site, few or none of which are outside, an expert has little to learn it from.
        threshold: a row whose surest label is below a threshold is refused too. It is chosen on the sites'
            validation rows for what is named (``out_of_scope``); with "none" there is no threshold.
        fusion: how the parts answer together; without a gate none is trained.
        sites: the site of each group (and of ``outside``), where a group's rows lie at one site.
        gate: what the gate's subtask says otherwise than the whole.
        subtask: the whole's table as it was written, once it has been replaced by its parts.
    """

    by: Literal["label_hierarchy"]
    map: FilePath | None = None
    groups: Annotated[dict[Name, tuple[Label, ...]], Field(max_length=1_000)] = {}
    outside: Label | None = None
    refuses: Literal["experts", "gate"] = "experts"
    threshold: Literal["accuracy", "balanced", "none"] = "accuracy"
    fusion: Fusion = "soft_gate"
    sites: Annotated[dict[Label, Name], Field(max_length=1_001)] = {}
    gate: dict[Name, Any] = {}
    subtask: dict[Name, Any] | None = None

    @model_validator(mode="after")
    def _keys_go_together(self) -> LabelHierarchyTerms:
        if self.map is None and not self.groups:
            raise ValueError("give map = FILE, or groups = { GROUP = [LABEL, ...] }")
        if self.fusion == "closed_set" and self.outside is not None:
            raise ValueError("fusion 'closed_set' cannot refuse a row: with outside use 'open_set' or a gate")
        if self.fusion == "open_set" and self.outside is None:
            raise ValueError("fusion 'open_set' needs outside, the label of rows of no group")
        if self.refuses == "gate" and not (self.is_gated and self.outside):
            raise ValueError("refuses = 'gate' needs a gate, and outside, the label of rows of no group")
        if self.gate and not self.is_gated:
            raise ValueError(f"fusion '{self.fusion}' has no gate: leave out gate")
        return self

    @property
    def is_gated(self) -> bool:
        """Whether a gate is one of the parts."""
        return self.fusion in GATED

    @cached_property
    def hierarchy(self) -> Hierarchy:
        """The groups; raises ``ConfigError`` if they are no hierarchy."""
        return Hierarchy(self.groups)

    @property
    def has_naive(self) -> bool:
        """Whether experts can answer side by side: one of a single label would always be surest."""
        return min(self.hierarchy.sizes) > 1

    @property
    def labels(self) -> tuple[str, ...]:
        """The whole's classes: the groups' labels, group after group, then ``outside`` if there is one."""
        return (*self.hierarchy.labels, *(() if self.outside is None else (self.outside,)))

    @cached_property
    def parts(self) -> Mapping[str, Part]:
        """The parts by their short names: the gate if there is one, and the groups with an expert."""
        experts_refuse = self.refuses == "experts"
        gate, *experts = self.hierarchy.parts(self.outside, experts_refuse=experts_refuse)
        return {part.name: part for part in ([gate, *experts] if self.is_gated else experts)}

    @property
    def names(self) -> tuple[str, ...]:
        """The short names of the parts."""
        return tuple(self.parts)

    def part_tables(self, name: str, whole: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return what each part's subtask says otherwise than the whole's own table.

        Raises:
            ConfigError: a key cannot be, or the fusion does not go with the groups.
        """
        if self.fusion == "closed_set" and not self.has_naive:
            raise ConfigError("fusion 'closed_set' needs two labels or more in each group: use a gate")
        for key in _NOT_OF_PARTS:
            if key in whole:
                raise ConfigError(f"[subtasks.{name}] is taken apart by its labels: leave out {key}")
        for key in _NOT_OF_GATE:
            if key in self.gate:
                raise ConfigError(f"gate.{key}: it is the whole's; leave it out")
        own = {part: self.gate if part == GATE else {} for part in self.names}
        return {part: {**table, "labels": list(self.parts[part].labels)} for part, table in own.items()}

    def view(self, whole: str, part: str) -> PartOf:
        """Return which rows of the whole the part called ``part`` takes, and as which of its classes."""
        found = self.parts[part]
        place = {label: i for i, label in enumerate(found.labels)}
        taken = {label: place[found.label_map.get(label, label)] for label in found.only}
        labels = self.labels
        return PartOf(whole=whole, labels=labels, classes=tuple(taken.get(label) for label in labels))


# A whole: the subtask of its name is replaced by its parts. Each rule has ``names`` of its parts, ``labels``
# of the whole, ``part_tables``, a ``view`` of each part, and the whole's ``subtask``.
WholeTerms: TypeAlias = LabelHierarchyTerms | ModalityTerms
# One ``[decomposition.NAME]``: a whole, or a family, whose subtasks stay what they are.
DecompositionTerms: TypeAlias = Annotated[WholeTerms | AffinityTerms, Field(discriminator="by")]
RULES: Final[Mapping[str, type[WholeTerms | AffinityTerms]]] = MappingProxyType(
    {"label_hierarchy": LabelHierarchyTerms, "modality": ModalityTerms, "affinity": AffinityTerms}
)


def name_of(whole: str, part: str) -> str:
    """Return the name of a part's subtask."""
    return f"{whole}-{part}"
