"""How subtasks belong together: parts of a whole, and models of those that one comes after."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from protocol.bounds import Frozen, Json, Label, Name, Names, Temperature


class PartOf(Frozen):
    """Which rows of a whole classification a part of it takes, and as which of its own classes.

    ``classes`` has one entry for each of the whole's ``labels``: the part's class, None where it takes none.
    ``columns`` (with the wildcards * and ?) or ``image`` are the inputs of a modality, and then only rows
    that have them are taken; with neither the part sees all inputs.
    """

    whole: Name
    labels: Annotated[tuple[Label, ...], Field(max_length=100_000)]
    classes: Annotated[tuple[Annotated[int, Field(ge=0, lt=100_000)] | None, ...], Field(max_length=100_000)]
    columns: Annotated[tuple[Label, ...], Field(max_length=10_000)] = ()
    image: bool = False

    @model_validator(mode="after")
    def _one_class_a_label(self) -> PartOf:
        if len(self.labels) != len(self.classes):
            raise ValueError("classes must have one entry for each of labels")
        if self.image and self.columns:
            raise ValueError("a modality is columns or the image, not both")
        return self

    @property
    def is_modality(self) -> bool:
        """Whether the part sees some of the whole's inputs alone."""
        return self.image or bool(self.columns)


class SettledModel(Frozen):
    """A final model that no longer changes, as subtasks that come after it use it.

    ``digest`` is that of its arrays, which travel once to each site; ``preprocessing`` is its own. It gives
    probabilities at ``temperature``, or one value as (value - ``mean``) / ``scale``.
    """

    model: Name
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    preprocessing: Json
    temperature: Temperature = 1.0
    mean: float = Field(0.0, ge=-1e15, le=1e15)
    scale: float = Field(1.0, gt=0, le=1e15)


class Upstream(Frozen):
    """A subtask that another comes after, directly or (not ``direct``) by way of a third.

    Only the ``outputs`` of direct ones are appended to the other's inputs; ``after`` names those that it
    takes itself. ``whole`` is what it is a part of, if of anything: a site reads both from one data block.
    ``beside`` are the others of its family, whose rows trained its encoder too. ``settled`` is its final
    model, once it is over.
    """

    name: Name
    kind: Name
    outputs: int = Field(ge=1, le=100_000)
    after: Names = ()
    direct: bool = True
    whole: Name | None = None
    beside: Names = ()
    settled: SettledModel | None = None
