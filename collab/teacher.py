"""The terms of an imported teacher: a model that no site of this collaboration trained, as a file."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from protocol.bounds import Frozen, Label, Name

TeacherFormat = Literal["safetensors", "onnx"]


class TeacherFile(Frozen):
    """A model in a file, ``.safetensors`` or ``.onnx``, that joins as a teacher or as initialisation.

    Attributes:
        path: where the file lies, from the collaboration's file on.
        model: the architecture whose named arrays a ``.safetensors`` holds; an ``.onnx`` brings its own.
        join: ``teacher`` gives soft labels on the public set beside the sites; ``initialisation`` is
            what the model starts from in the place of random parameters.
        examples: a teacher's weight: the train rows that it pretends to have of each class it knows.
        inputs: what an ``.onnx`` was trained on: rows as this collaboration preprocesses them, or raw.
        outputs: what an ``.onnx`` gives.
        labels: the teacher's own classes in order, by the collaboration's names; from a class of the
            collaboration that is not among them it abstains. Left out: the collaboration's labels.
    """

    path: str = Field(min_length=1, max_length=4096)
    model: Name | None = None
    join: Literal["teacher", "initialisation"] = "teacher"
    examples: int = Field(100, ge=1, le=10**9)
    inputs: Literal["preprocessed", "raw"] = "preprocessed"
    outputs: Literal["logits", "probabilities"] = "logits"
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=100_000)] | None = None

    @property
    def format(self) -> TeacherFormat:
        """What the file's name says it is."""
        return "onnx" if PurePath(self.path).suffix.lower() == ".onnx" else "safetensors"

    @model_validator(mode="after")
    def _fits_together(self) -> TeacherFile:
        if PurePath(self.path).suffix.lower() not in {".safetensors", ".onnx"}:
            raise ValueError("path: a teacher is a .safetensors or an .onnx file")
        if self.format == "safetensors" and self.model is None:
            raise ValueError("a .safetensors holds arrays only: name their architecture, model = 'NAME'")
        if self.format == "onnx" and self.model is not None:
            raise ValueError("an .onnx brings its own architecture: leave out model")
        if self.format == "safetensors" and (self.inputs, self.outputs) != ("preprocessed", "logits"):
            raise ValueError("inputs and outputs are for an .onnx: models here take preprocessed rows")
        if self.join == "initialisation" and (self.format == "onnx" or self.labels is not None):
            raise ValueError("an initialisation is a .safetensors with the collaboration's own labels")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: two classes of the teacher have one name")
        return self
