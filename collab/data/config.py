"""What a person writes about data: ``[data.NAME]``, its ``split``, and ``[partition]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from collab.data import comparison
from collab.data.limits import MAX_COLUMNS
from protocol.errors import ConfigError
from protocol.messages import Frozen
from protocol.messages import Name as SiteName

Output = Literal["classes", "value"]
Inputs = Literal["table", "image"]
Labels = tuple[str, ...] | int | None

Column = Annotated[str, Field(min_length=1, max_length=200)]
Columns = Annotated[tuple[Column, ...], Field(max_length=MAX_COLUMNS)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]

# The keys that mean something to a format, beside `format` and `split`. One that would be
# ignored is refused: whoever wrote it believes that it does something.
_KEYS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "sklearn": frozenset({"name", "positive"}),
        "csv": frozenset(
            {"path", "files", "header", "columns", "separator", "missing", "drop", "missing_rows"}
            | {"target", "positive", "features", "categorical", "site"}
        ),
        "npz": frozenset({"path", "files", "missing_rows", "positive", "site"}),
    }
)


def _given(config: BaseModel) -> set[str]:
    """Return the keys that differ from their default: a file that was dumped and read again names all."""
    fields = type(config).model_fields
    return {name for name, value in config if value != fields[name].default}


def _refuse_repeats(where: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"column '{name}' stands twice in {where}")
        seen.add(name)


@dataclass(frozen=True)
class Wanted:
    """What a subtask wants of a data set.

    Attributes:
        labels: the classes by name, position = class index; or their number; or None: infer them.
        output: "classes" (y is an int64 index) or "value" (y is a float64).
        inputs: "table" or "image".
    """

    labels: Labels
    output: Output
    inputs: Inputs


class SplitConfig(Frozen):
    """How a site's rows become train, validation and test rows.

    Attributes:
        test: share of a site's rows for the final evaluation.
        validation: share of a site's rows for choices during the run; 0 is legal.
        group: column whose equal cells stay on one side, such as a patient's number.
        column: column whose cells say train, validation or test; nothing is drawn then.
        test_path: a file of official test rows; only validation rows are drawn then.
    """

    test: float = Field(0.2, ge=0, lt=1)
    validation: float = Field(0.15, ge=0, lt=1)
    group: Column | None = None
    column: Column | None = None
    test_path: FilePath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        if self.test + self.validation >= 1:
            raise ValueError("test + validation must stay below 1: no row is left to train on")
        given = _given(self)
        if self.column is not None and given != {"column"}:
            raise ValueError("column says each row's side: leave out test, validation, group and test_path")
        if self.test_path is not None and "test" in given:
            raise ValueError("test_path holds the test rows: leave out test")
        return self


class DataConfig(Frozen):
    """One ``[data.NAME]`` block: where rows lie and what their columns mean.

    Attributes:
        format: sklearn (ships with scikit-learn), csv, or npz (arrays x, y and optionally site).
        name: which of scikit-learn's data sets.
        path: one file. files: a file a site. Both may be relative, see ``locate``.
        header: False if the file's first line is a row; then ``columns`` names the columns.
        missing: cells that mean "not known", beside empty ones.
        drop: columns that are not features.
        missing_rows: "impute" keeps rows with gaps, "drop" leaves them out.
        target: the column to predict; a public set may have none. positive: makes it yes/no, such as "> 0".
        features: "all" columns that have no other role, or a list.
        categorical: features that are categories, whatever they look like.
        site: the column (npz: the array) that names each row's site.
    """

    format: Literal["sklearn", "csv", "npz"]
    name: Literal["breast_cancer", "digits", "diabetes", "wine", "iris"] | None = None
    path: FilePath | None = None
    files: Annotated[dict[SiteName, FilePath], Field(max_length=10_000)] | None = None
    header: bool = True
    columns: Columns = ()
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    missing: Columns = ()
    drop: Columns = ()
    missing_rows: Literal["drop", "impute"] = "impute"
    target: Column | None = None
    positive: str | None = None
    features: Literal["all"] | Columns = "all"
    categorical: Columns = ()
    site: Column | None = None
    split: SplitConfig = SplitConfig()

    @field_validator("positive")
    @classmethod
    def _comparison(cls, text: str | None) -> str | None:
        try:
            if text is not None:
                comparison.parse(text)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return text

    @model_validator(mode="after")
    def _keys_of_the_format(self) -> DataConfig:
        idle = sorted(_given(self) - _KEYS[self.format] - {"format", "split"})
        if idle:
            known = ", ".join(sorted(_KEYS[self.format]))
            raise ValueError(f"format '{self.format}' has no key '{idle[0]}'; it has: {known}")
        if self.format == "sklearn" and self.name is None:
            raise ValueError("format 'sklearn' needs name, for example name = \"breast_cancer\"")
        if self.format == "sklearn" and (self.split.group or self.split.column or self.split.test_path):
            raise ValueError("format 'sklearn' has no group, column or test_path to split by")
        if self.format != "sklearn" and (self.path is None) == (self.files is None):
            raise ValueError(f"format '{self.format}' needs either path or files")
        return self

    @model_validator(mode="after")
    def _columns_have_one_role(self) -> DataConfig:
        if self.format != "csv":
            return self
        if self.header == bool(self.columns):
            raise ValueError(
                "columns names the columns of a file without header: give both header = false and columns"
            )
        if self.files is not None and self.site is not None:
            raise ValueError("files gives each site its own file: leave out site")
        listed = () if self.features == "all" else self.features
        _refuse_repeats("columns", self.columns)
        _refuse_repeats("categorical", self.categorical)
        _refuse_repeats(
            "target, site, group, split column, drop and features", (*self.roles, *self.drop, *listed)
        )
        _refuse_repeats("target, site, group, split column, drop and categorical", self._not_features())
        lost = sorted(set(self.categorical) - set(listed)) if listed else []
        if lost:
            raise ValueError(f"categorical names '{lost[0]}', which features does not list")
        return self

    def __hash__(self) -> int:
        """Let caches of what was read have the block as their key; pydantic's own stumbles over ``files``."""
        return hash(self.model_dump_json())

    @property
    def roles(self) -> tuple[str, ...]:
        """The columns with a role other than feature: target, site, group and split column."""
        return tuple(
            c for c in (self.target, self.site, self.split.group, self.split.column) if c is not None
        )

    def _not_features(self) -> tuple[str, ...]:
        return (*self.roles, *self.drop, *self.categorical)


class PartitionConfig(Frozen):
    """How a scenario deals one data set out to its sites.

    Attributes:
        kind: iid; dirichlet (label skew); quantity (size skew); column (``data.site`` says);
            files (``data.files`` says).
        alpha: of dirichlet: small = few classes a site.
        skew: of quantity: a site has (1 - skew) times the rows of the next larger one.
        min_rows: of dirichlet and quantity: the fewest rows a site may get.
    """

    kind: Literal["iid", "dirichlet", "quantity", "column", "files"]
    alpha: float | None = Field(None, gt=0, le=1e6)
    skew: float | None = Field(None, ge=0, lt=1)
    min_rows: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> PartitionConfig:
        for option, kind in (("alpha", "dirichlet"), ("skew", "quantity")):
            if (getattr(self, option) is not None) != (self.kind == kind):
                verb = "needs" if self.kind == kind else "has no"
                raise ValueError(f"partition '{self.kind}' {verb} {option}")
        if "min_rows" in _given(self) and self.kind not in ("dirichlet", "quantity"):
            raise ValueError(f"partition '{self.kind}' has no min_rows")
        return self
