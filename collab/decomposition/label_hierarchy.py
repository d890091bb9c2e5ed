"""Take a classification apart by its labels: an expert for each group, and a gate that names the group.

A hierarchy is a map group -> labels, TOML or JSON. Expert g learns p(y | x, g) on rows of its own
group, the gate p(g | x) on all rows, each label called by its group; ``gate`` puts them together.
Each is a subtask of its own: its labels, and which rows of the data under which names.

    Adaptive Mixtures of Local Experts
        Robert Jacobs, Michael Jordan, Steven Nowlan, Geoffrey Hinton. Neural Computation, 1991.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from protocol.bounds import Label, Name
from protocol.errors import ConfigError

MAX_GROUPS: Final = 1_000
MAX_LABELS: Final = 10_000
GATE: Final = "gate"

_GROUP: Final[TypeAdapter[str]] = TypeAdapter(Name)
_LABEL: Final[TypeAdapter[str]] = TypeAdapter(Label)


@dataclass(frozen=True)
class Part:
    """One subtask of a hierarchy, in the words of ``[subtasks.NAME]`` and ``[data.NAME]``.

    Attributes:
        name: of the subtask: the group's, or "gate".
        labels: its classes, position = class index.
        only: the data's labels whose rows it takes.
        label_map: what the data calls a class, and what the subtask calls it; empty: the same.
    """

    name: str
    labels: tuple[str, ...]
    only: tuple[str, ...]
    label_map: Mapping[str, str]


@dataclass(frozen=True)
class Hierarchy:
    """Groups of labels: every label in one group, no group empty, at least two groups.

    Raises:
        ConfigError: it is not so, or there are too many.
    """

    groups: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        _check(self.groups)
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))

    @property
    def names(self) -> tuple[str, ...]:
        """The groups, in order: the gate's classes."""
        return tuple(self.groups)

    @property
    def labels(self) -> tuple[str, ...]:
        """The overall task's classes: the labels, group after group."""
        return tuple(label for labels in self.groups.values() for label in labels)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many labels each group has."""
        return tuple(len(labels) for labels in self.groups.values())

    def gate(self, outside: str | None = None) -> Part:
        """Return the gate's part: every label is called by its group.

        Args:
            outside: the data's label of rows of no group, which then are the gate's last class.

        Raises:
            ConfigError: ``outside`` is the name of a label or a group.
        """
        renamed = {label: group for group, labels in self.groups.items() for label in labels}
        more = self._outside(outside)
        return Part(GATE, (*self.names, *more), (*self.labels, *more), MappingProxyType(renamed))

    def expert(self, group: str, outside: str | None = None) -> Part:
        """Return one expert's part: rows of its group, and of ``outside`` as an OTHER class, the last.

        Raises:
            ConfigError: the group has one label and there is no ``outside``, so nothing to learn; or as
                ``gate``.
        """
        labels = (*self.groups[group], *self._outside(outside))
        if len(labels) < 2:
            raise ConfigError(f"group '{group}' has one label: the gate decides it, it has no expert")
        return Part(group, labels, labels, MappingProxyType({}))

    def parts(self, outside: str | None = None, *, experts_refuse: bool = True) -> tuple[Part, ...]:
        """Return the gate and the experts of all groups that have something to learn."""
        other = outside if experts_refuse else None
        with_expert = [g for g, size in zip(self.names, self.sizes, strict=True) if size > 1 or other]
        return (self.gate(outside), *(self.expert(group, other) for group in with_expert))

    def site_of_label(self, sites: Mapping[str, str]) -> dict[str, str]:
        """Return the site of each label where a group's rows lie at one site (``data.site_of_label``).

        Args:
            sites: the site of each group.

        Raises:
            ConfigError: a group has no site.
        """
        lost = [group for group in self.groups if group not in sites]
        if lost:
            raise ConfigError(f"{len(lost)} group(s) have no site, the first is '{lost[0]}'")
        return {label: sites[group] for group, labels in self.groups.items() for label in labels}

    def _outside(self, label: str | None) -> tuple[str, ...]:
        if label is None:
            return ()
        if label in self.labels or label in self.groups:
            raise ConfigError(f"'{label}' is both a label of the hierarchy and the label of rows outside it")
        return (label,)


def parse(text: str, where: str) -> Hierarchy:
    """Return the hierarchy of a file's text: JSON if it begins with a brace, else TOML.

    Args:
        text: a map from each group's name to the list of its labels.
        where: the file, for messages.

    Raises:
        ConfigError: it is neither, or not such a map; the message names group and place.
    """
    try:
        found: Any = (
            json.loads(text, object_pairs_hook=_unique)
            if text.lstrip().startswith("{")
            else tomllib.loads(text)
        )
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, RecursionError):
        raise ConfigError(f"{where}: is neither JSON nor TOML: give GROUP = [LABEL, ...]") from None
    if not isinstance(found, Mapping) or not all(isinstance(v, list) for v in found.values()):
        raise ConfigError(f"{where}: is no map of lists: give GROUP = [LABEL, ...]")
    try:
        return Hierarchy({group: tuple(labels) for group, labels in found.items()})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a group that stands twice: JSON's reader would silently keep the last."""
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ConfigError(f"group '{twice[0]}' stands twice")
    return dict(pairs)


def _check(groups: Mapping[str, tuple[str, ...]]) -> None:
    if not 2 <= len(groups) <= MAX_GROUPS:
        raise ConfigError(f"a hierarchy has {len(groups)} group(s), allowed: 2 to {MAX_GROUPS:,}")
    total = sum(len(labels) for labels in groups.values())
    if total > MAX_LABELS:
        raise ConfigError(f"a hierarchy has {total:,} labels, at most {MAX_LABELS:,}")
    for group, labels in groups.items():
        _check_name(_GROUP, group, "group")
        if group == GATE:
            raise ConfigError(f"a group cannot be called '{GATE}': the gate is")
        if not labels:
            raise ConfigError(f"group '{group}' has no label")
        for label in labels:
            _check_name(_LABEL, label, f"group '{group}': label")
    counts = Counter(label for labels in groups.values() for label in labels)
    twice = [label for label, count in counts.items() if count > 1]
    if twice:
        raise ConfigError(f"{len(twice)} label(s) stand twice, the first is '{twice[0]}': one group each")


def _check_name(kind: TypeAdapter[str], value: Any, what: str) -> None:
    try:
        kind.validate_python(value, strict=True)
    except ValidationError as error:
        why = error.errors(include_input=False, include_url=False)[0]["msg"]
        raise ConfigError(f"{what} {str(value)[:40]!r} is no name: {why}") from None
