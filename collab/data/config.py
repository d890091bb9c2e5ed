"""What a person writes about data: ``[data.NAME]``. ``split`` and ``[partition]`` have their own files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os.path import normpath
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from collab.data import comparison
from collab.data.keys import Column, Columns, FilePath, given, refuse_repeats
from collab.data.limits import MAX_COLUMNS
from collab.data.ngrams import Recipe
from collab.data.partition_config import PartitionConfig
from collab.data.split_config import SplitConfig
from protocol.bounds import Frozen, Label
from protocol.bounds import Name as SiteName
from protocol.errors import ConfigError

__all__ = ["DataConfig", "Inputs", "Labels", "Output", "PartitionConfig", "SplitConfig", "Wanted"]

Output = Literal["classes", "value"]
Inputs = Literal["table", "image", "text", "mixed"]
Labels = tuple[str, ...] | int | None
Side = Annotated[int, Field(ge=1, le=10_000)]
ClassLabels = Annotated[tuple[Label, ...], Field(max_length=100_000)]
Part = Literal["train", "validation", "test", "drawn"]

_EVERYWHERE: Final = frozenset(
    {"format", "split", "positive", "label_map", "abstain", "rows"} | {"only", "site_of_label"}
)
# The keys that mean something to a format, beside those of every format. One that would be
# ignored is refused: whoever wrote it believes that it does something.
_KEYS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "sklearn": frozenset({"name"}),
        "csv": frozenset(
            {"path", "files", "header", "columns", "separator", "missing", "missing_in", "drop"}
            | {"missing_rows", "target", "features", "categorical", "site"}
        ),
        "npz": frozenset({"path", "files", "missing_rows", "inputs", "table", "columns", "target", "site"}),
        "idx": frozenset({"path", "labels_path"}),
        "images": frozenset({"path", "files", "size", "mode"}),
        "text": frozenset(
            {"path", "files", "header", "columns", "separator", "missing", "missing_rows", "target", "site"}
            | {"text", "parts", "grams"}
        ),
    }
)


@dataclass(frozen=True)
class Wanted:
    """What a subtask wants of a data set.

    Attributes:
        labels: the classes by name, position = class index; or their number; or None: infer them.
        output: "classes" (y is an int64 index) or "value" (y is a float64).
        inputs: "table", "image", "text", or "mixed": images and columns of the same rows.
    """

    labels: Labels
    output: Output
    inputs: Inputs


class DataConfig(Frozen):
    """One ``[data.NAME]`` block: where rows lie and what their columns mean.

    Attributes:
        format: sklearn (ships with scikit-learn), csv, npz (arrays), idx (MNIST's, plain or .gz), images
            (a folder a class, or a .zip, .tar or .tar.gz of such), or text (.json, .jsonl, else a csv).
        name: which of scikit-learn's data sets.
        path: one file (or folder). files: one a site. Both may be relative, see ``locate``.
        labels_path: of idx: the file of labels; a public set needs none.
        header: False if the file's first line is a row; then ``columns`` names the columns. In JSON
            ``columns`` names the places of rows that are lists.
        missing: cells that mean "not known", beside empty ones.
        missing_in: further such cells of single columns, such as ``{ chol = ["0"] }``.
        drop: columns that are not features.
        missing_rows: "impute" keeps rows with gaps, "drop" leaves them out.
        target: the column (npz: the array, "y"; text: "label") to predict; a public set may have none.
        positive: makes the target yes/no, such as "> 0".
        label_map: what this data calls a class, and what the collaboration calls it.
        abstain: classes on which the site gives no opinion, although it may have rows of them.
        features: "all" columns that have no other role, or a list.
        categorical: features that are categories, whatever they look like.
        inputs: the array of npz that holds the inputs.
        table: a second array of npz, numbers [N, F] of the same rows; ``columns`` may name its columns.
        site: the column (npz: the array) that names each row's site.
        size: of images: [height, width] that each is resized to; left out, all must be of one size.
        mode: of images: L (grey) or RGB.
        rows: a scenario uses at most so many rows: a subset drawn by the seed, with each class's share.
            Official test rows are not counted; public and root rows are.
        only: rows with these labels, as the data calls them, are taken, and no others.
        site_of_label: the site of each row by its label, as the data calls it (partition ``column``).
        text: of text: the column of texts.
        parts: of a JSON object of lists: those that are read, and which side the rows of each are on.
        grams: of text: how a text becomes numbers.
    """

    format: Literal["sklearn", "csv", "npz", "idx", "images", "text"]
    name: Literal["breast_cancer", "digits", "diabetes", "wine", "iris"] | None = None
    path: FilePath | None = None
    files: Annotated[dict[SiteName, FilePath], Field(max_length=10_000)] | None = None
    labels_path: FilePath | None = None
    header: bool = True
    columns: Columns = ()
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    missing: Columns = ()
    missing_in: Annotated[dict[Column, Columns], Field(max_length=MAX_COLUMNS)] = {}
    drop: Columns = ()
    missing_rows: Literal["drop", "impute"] = "impute"
    target: Column | None = None
    positive: str | None = None
    label_map: Annotated[dict[Label, Label], Field(max_length=100_000)] = {}
    abstain: ClassLabels = ()
    features: Literal["all"] | Columns = "all"
    categorical: Columns = ()
    inputs: Column = "x"
    table: Column | None = None
    site: Column | None = None
    size: tuple[Side, Side] | None = None
    mode: Literal["L", "RGB"] = "RGB"
    rows: int | None = Field(None, ge=10, le=10**9)
    only: ClassLabels = ()
    site_of_label: Annotated[dict[Label, SiteName], Field(max_length=100_000)] = {}
    text: Column = "text"
    parts: Annotated[dict[Column, Part], Field(max_length=100)] = {}
    grams: Recipe = Recipe()
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
        idle = sorted(given(self) - _KEYS[self.format] - _EVERYWHERE)
        if idle:
            known = ", ".join(sorted(_KEYS[self.format] | _EVERYWHERE - {"format"}))
            raise ValueError(f"format '{self.format}' has no key '{idle[0]}'; it has: {known}")
        if self.format == "sklearn" and self.name is None:
            raise ValueError("format 'sklearn' needs name, for example name = \"breast_cancer\"")
        if self.format != "sklearn" and (self.path is None) == (self.files is None):
            either = "path" if self.format == "idx" else "either path or files"
            raise ValueError(f"format '{self.format}' needs {either}")
        if self.site_of_label and (self.site is not None or self.files is not None):
            raise ValueError("site_of_label says whose a row is: leave out site and files")
        if self.label_map and self.positive is not None:
            raise ValueError("positive makes two classes of the target: leave out label_map")
        return self

    @model_validator(mode="after")
    def _split_of_the_format(self) -> DataConfig:
        split = self.split
        if self.format == "sklearn" and (split.group or split.column or split.has_official_test):
            raise ValueError("format 'sklearn' has no group, column or test_path to split by")
        if self.format in ("idx", "images") and (split.group or split.column):
            raise ValueError(f"format '{self.format}' has no columns: leave out split.group and split.column")
        if self.format == "idx" and (split.test_path is None) != (split.test_labels_path is None):
            raise ValueError("format 'idx' needs both split.test_path and split.test_labels_path, or neither")
        if self.format != "idx" and split.test_labels_path is not None:
            raise ValueError(f"format '{self.format}' has no split.test_labels_path")
        if self.format != "npz" and split.test_inputs is not None:
            raise ValueError(f"format '{self.format}' has no split.test_inputs: give split.test_path")
        if self.parts and (split.column or split.has_official_test):
            raise ValueError("parts says each row's side: leave out split.column and split.test_path")
        if split.test_inputs is not None and self.table is not None:
            raise ValueError(
                "table has no test rows of its own: with it give split.test_path, not test_inputs"
            )
        if split.test_inputs is not None and (split.group or self.site or self.files):
            raise ValueError("split.test_inputs goes with neither split.group nor site nor files")
        return self

    @model_validator(mode="after")
    def _columns_have_one_role(self) -> DataConfig:
        if self.format == "npz" and self.columns and self.table is None:
            raise ValueError("columns names the columns of table: give table, the array that holds them")
        if self.format == "npz":
            refuse_repeats("columns", self.columns)
        if self.format != "csv":
            return self
        if self.header == bool(self.columns):
            raise ValueError(
                "columns names the columns of a file without header: give both header = false and columns"
            )
        if self.files is not None and self.site is not None:
            raise ValueError("files gives each site its own file: leave out site")
        listed = () if self.features == "all" else self.features
        refuse_repeats("columns", self.columns)
        refuse_repeats("categorical", self.categorical)
        refuse_repeats(
            "target, site, group, split column, drop and features", (*self.roles, *self.drop, *listed)
        )
        refuse_repeats("target, site, group, split column, drop and categorical", self._not_features())
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

    @property
    def source(self) -> tuple[object, ...]:
        """What is read: two blocks of one source read the same rows, whatever they make of them."""
        files = None if self.files is None else tuple((s, normpath(p)) for s, p in sorted(self.files.items()))
        return (self.format, self.name, None if self.path is None else normpath(self.path), files)

    def _not_features(self) -> tuple[str, ...]:
        return (*self.roles, *self.drop, *self.categorical)

    def official_test(self) -> DataConfig:
        """Return the block that reads the official test rows, as this one reads the train rows."""
        split = self.split
        update = {
            "path": split.test_path or self.path,
            "files": None,
            "labels_path": split.test_labels_path,
            "inputs": split.test_inputs or self.inputs,
            "target": split.test_target or self.target,
        }
        return self.model_copy(update=update)

    def with_paths(self, resolve: Callable[[str], str]) -> DataConfig:
        """Return the block with ``resolve`` applied to each path in it."""

        def moved(config: Frozen, keys: tuple[str, ...]) -> dict[str, str]:
            paths = ((key, getattr(config, key)) for key in keys)
            return {key: resolve(path) for key, path in paths if path is not None}

        update: dict[str, object] = dict(moved(self, ("path", "labels_path")))
        if self.files is not None:
            update["files"] = {site: resolve(path) for site, path in self.files.items()}
        tests = moved(self.split, ("test_path", "test_labels_path"))
        if tests:
            update["split"] = self.split.model_copy(update=tests)
        return self.model_copy(update=update)
