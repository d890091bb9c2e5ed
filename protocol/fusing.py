"""Messages about models that are there: candidates of a fusion, parts of a whole, ballots."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from protocol.bounds import Count, Counts, Frozen, Label, Name, Rows, Temperature
from protocol.messages import Subtask

# The candidate of a fusion that the collaboration itself made: aggregated, or the student.
FINAL = "final"


class Candidate(Frozen):
    """One model of a fusion: where it comes from, which architecture it is, and its calibration."""

    name: Name
    model: Name
    temperature: Temperature = 1.0


class FusionRequest(Frozen):
    """Evaluate candidates on one split; on ``test`` with the fitted fusion and the class counts of all.

    Without candidates a site measures what it deploys by itself. A rule that learns in several
    exchanges sends the candidates' arrays with ``step`` 0 alone; the site keeps their outputs.
    """

    run: Name
    subtask: Subtask
    site: Name
    rule: Name
    rows: Rows
    step: int = Field(0, ge=0, le=10_000)
    candidates: Annotated[tuple[Candidate, ...], Field(max_length=1000)]
    class_counts: Counts = ()

    @model_validator(mode="after")
    def _names_differ(self) -> FusionRequest:
        if len({c.name for c in self.candidates}) != len(self.candidates):
            raise ValueError("two candidates have one name")
        return self


class WholePart(Frozen):
    """One part of a whole: its short name, and its final model, whose arrays travel under its index."""

    name: Name
    subtask: Subtask
    model: Name
    temperature: Temperature = 1.0


class WholeRequest(Frozen):
    """Measure on the site's test rows of a whole what the final models of its parts answer together.

    By labels ``groups`` are those of each group, ``outside`` the label of rows of no group, and ``refuses``
    tells who learnt to say so; ``rows`` are validation where a threshold is to be chosen. The parts' views
    follow from the groups and are left out: each lists the whole's labels. By modality (fusion ``product``)
    each part's view says its inputs, and the class priors travel as arrays.
    """

    run: Name
    whole: Name
    site: Name
    groups: Annotated[
        dict[Name, Annotated[tuple[Label, ...], Field(max_length=10_000)]], Field(max_length=1_000)
    ] = {}
    outside: Label | None = None
    refuses: Literal["experts", "gate"] = "experts"
    fusion: Literal["soft_gate", "hard_gate", "closed_set", "open_set", "product"]
    rows: Literal["test", "validation"] = "test"
    parts: Annotated[tuple[WholePart, ...], Field(min_length=1, max_length=1_001)]

    @model_validator(mode="after")
    def _groups_or_modalities(self) -> WholeRequest:
        if (self.fusion == "product") != (not self.groups and self.outside is None):
            raise ValueError(
                "fusion 'product' is of modalities, which have no groups; every other needs them"
            )
        return self


class BallotPaper(Frozen):
    """A site's vote on the others' models by its own validation rows: a ranking, and no figures.

    ``order`` is best first and leaves the site itself out; it is empty where the site has no validation
    rows. ``approved`` beat the best constant answer there.
    """

    run: Name
    subtask: Name
    site: Name
    order: Annotated[tuple[Name, ...], Field(max_length=1000)]
    approved: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    examples_processed: Count = 0
