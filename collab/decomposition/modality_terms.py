"""``[decomposition.NAME]`` with ``by = "modality"``: each group of columns, or the image, is a subtask."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from collab.data.keys import Column, Columns
from collab.decomposition.modality import IMAGE, kinds
from collab.kinds.contract import Kind
from collab.plugins import load, unknown
from protocol.bounds import Frozen, Name
from protocol.errors import ConfigError
from protocol.parts import PartOf

# What is the same for all parts, so that their answers are of the same rows and can be multiplied.
_SAME: Final = ("kind", "data", "labels", "metric", "root", "part_of", "family")
_WILD: Final = frozenset("*?[")


class ModalityTerms(Frozen):
    """One ``[decomposition.NAME]`` by modality: parts with the whole's labels, each with its own inputs.

    Attributes:
        by: what a row is made of.
        modalities: each part's columns, where * and ? stand for any characters and for one, or "image".
        parts: what a part's subtask says otherwise than the whole.
        fusion: how the parts answer together.
        subtask: the whole's table as it was written, once it has been replaced by its parts.
    """

    by: Literal["modality"]
    modalities: Annotated[dict[Name, Column | Columns], Field(max_length=100)]
    parts: Annotated[dict[Name, dict[Name, Any]], Field(max_length=100)] = {}
    fusion: Literal["product"] = "product"
    subtask: dict[Name, Any] | None = None

    @model_validator(mode="after")
    def _keys_go_together(self) -> ModalityTerms:
        try:
            kinds(self.modalities, "classes")
            self._check_overlap()
            self._check_parts()
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def _check_overlap(self) -> None:
        """Refuse what the names alone say is twice; two patterns meet only in the data (``assign``)."""
        listed = [(p, part) for part, own in self.modalities.items() if not isinstance(own, str) for p in own]
        for pattern, part in listed:
            for other, elsewhere in listed:
                if part != elsewhere and (pattern == other or _names(other, pattern)):
                    raise ConfigError(f"column '{other}' is in modalities {elsewhere} and {part}: one each")

    def _check_parts(self) -> None:
        for part, table in self.parts.items():
            if part not in self.modalities:
                raise ConfigError(unknown(f"modality '{part}' in parts", part, self.modalities))
            for key in _SAME:
                if key in table:
                    raise ConfigError(f"parts.{part}.{key}: it is the whole's; leave it out")

    @property
    def names(self) -> tuple[str, ...]:
        """The short names of the parts."""
        return tuple(self.modalities)

    @property
    def image(self) -> str | None:
        """The part whose inputs are the image, if there is one."""
        return next((name for name, columns in self.modalities.items() if columns == IMAGE), None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The whole's classes, which are those of each part; () before it is written out."""
        return _labels((self.subtask or {}).get("labels"))

    def part_tables(self, name: str, whole: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return what each part's subtask says otherwise than the whole's own table.

        Raises:
            ConfigError: the whole is no classification of tables or images, has no labels, or has a key
                that no two parts can share.
        """
        kind = _kind(str(whole.get("kind", "")))
        if kind.inputs not in ("table", "image"):
            raise ConfigError(
                f"a modality is columns or an image, but kind '{whole['kind']}' is of {kind.inputs}s"
            )
        made, labels = kinds(self.modalities, kind.output), _labels(whole.get("labels"))
        if len(labels) < 2:
            raise ConfigError(f"[subtasks.{name}] needs labels, the classes that all its parts share")
        for key in ("teacher", "part_of"):
            if key in whole:
                raise ConfigError(f"[subtasks.{name}] is taken apart by modality: leave out {key}")
        same = {"labels": list(labels), "metric": whole.get("metric", kind.metrics[0])}
        return {part: {**self.parts.get(part, {}), **same, "kind": of} for part, of in made.items()}

    def view(self, whole: str, part: str) -> PartOf:
        """Return which inputs of the whole's rows the part called ``part`` takes: all classes are its own."""
        columns, labels = self.modalities[part], self.labels
        shown = {"image": True} if isinstance(columns, str) else {"columns": columns}
        return PartOf.model_validate(
            {"whole": whole, "labels": labels, "classes": tuple(range(len(labels))), **shown}
        )


def _names(name: str, pattern: str) -> bool:
    """Return whether ``name`` is a plain name that ``pattern`` matches."""
    return not _WILD & set(name) and fnmatchcase(name, pattern)


def _kind(name: str) -> Kind:
    module = load("kinds", name)
    kind: Kind = getattr(module, "KIND", module)
    return kind


def _labels(found: Any) -> tuple[str, ...]:
    """Return the names of classes that are given by name, or by their number."""
    if isinstance(found, int) and not isinstance(found, bool):
        return tuple(str(label) for label in range(min(found, 100_000)))
    return tuple(str(label) for label in found) if isinstance(found, (list, tuple)) else ()
