"""What messages are made of: bounded names, numbers and texts, and a base that refuses all else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Names of sites, subtasks, models and rules appear in paths, logs and HTML.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=500)]
Json = Annotated[str, StringConstraints(max_length=4 * 2**20)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Round = Annotated[int, Field(ge=0, le=10**6)]
Labels = Annotated[tuple[Label, ...], Field(max_length=100_000)] | Annotated[int, Field(ge=0, le=100_000)]
Names = Annotated[tuple[Name, ...], Field(max_length=100)]
Counts = Annotated[tuple[Amount, ...], Field(max_length=100_000)]

Exchange = Literal["weights", "soft_labels", "prototypes"]
WireForm = Literal["fp32", "fp16", "uint8", "topk", "int8_delta"]
Rows = Literal["validation", "test"]
Temperature = Annotated[float, Field(ge=0.01, le=100)]


class Frozen(BaseModel):
    """Immutable, with no unknown field and no infinite number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
