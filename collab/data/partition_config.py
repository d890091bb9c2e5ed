"""What a person writes about who gets which rows: ``[partition]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from collab.data.keys import given
from protocol.bounds import Frozen


class PartitionConfig(Frozen):
    """How a scenario deals one data set out to its sites.

    Attributes:
        kind: iid; dirichlet (label skew); shards (label skew: few classes a site); quantity (size
            skew); column (``data.site`` says); files (``data.files`` says).
        alpha: of dirichlet: small = few classes a site.
        shards: of shards: how many runs of equal labels a site gets.
        skew: of quantity: a site has (1 - skew) times the rows of the next larger one.
        min_rows: of dirichlet and quantity: the fewest rows a site may get.
    """

    kind: Literal["iid", "dirichlet", "shards", "quantity", "column", "files"]
    alpha: float | None = Field(None, gt=0, le=1e6)
    shards: int | None = Field(None, ge=1, le=1000)
    skew: float | None = Field(None, ge=0, lt=1)
    min_rows: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> PartitionConfig:
        for option, kind in (("alpha", "dirichlet"), ("shards", "shards"), ("skew", "quantity")):
            if (getattr(self, option) is not None) != (self.kind == kind):
                verb = "needs" if self.kind == kind else "has no"
                raise ValueError(f"partition '{self.kind}' {verb} {option}")
        if "min_rows" in given(self) and self.kind not in ("dirichlet", "quantity"):
            raise ValueError(f"partition '{self.kind}' has no min_rows")
        return self
