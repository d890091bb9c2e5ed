"""What a person writes about train, validation and test rows: ``split`` of a ``[data.NAME]`` block."""

from __future__ import annotations

from pydantic import Field, model_validator

from collab.data.keys import Column, FilePath, given
from protocol.bounds import Frozen


class SplitConfig(Frozen):
    """How a site's rows become train, validation and test rows.

    Attributes:
        test: share of a site's rows for the final evaluation.
        validation: share of a site's rows for choices during the run; 0 is legal.
        group: column whose equal cells stay on one side, such as a patient's number.
        column: column whose cells say train, validation or test; nothing is drawn then.
        test_path: a file of official test rows; only validation rows are drawn then.
        test_labels_path: of format idx: the labels of ``test_path``.
        test_inputs, test_target: of format npz: the arrays of official test rows, in ``test_path``
            or, without it, in the same file as the train rows.
    """

    test: float = Field(0.2, ge=0, lt=1)
    validation: float = Field(0.15, ge=0, lt=1)
    group: Column | None = None
    column: Column | None = None
    test_path: FilePath | None = None
    test_labels_path: FilePath | None = None
    test_inputs: Column | None = None
    test_target: Column | None = None

    @property
    def has_official_test(self) -> bool:
        """Whether the test rows are given, and not drawn."""
        return self.test_path is not None or self.test_inputs is not None

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        if self.test + self.validation >= 1:
            raise ValueError("test + validation must stay below 1: no row is left to train on")
        keys = given(self)
        if self.column is not None and keys != {"column"}:
            raise ValueError("column says each row's side: leave out test, validation, group and test_path")
        if self.has_official_test and "test" in keys:
            raise ValueError("test_path (or test_inputs) holds the test rows: leave out test")
        if self.test_labels_path is not None and self.test_path is None:
            raise ValueError("test_labels_path goes with test_path")
        if (self.test_inputs is None) != (self.test_target is None):
            raise ValueError("test_inputs and test_target go together")
        return self
