"""From a ``[data.NAME]`` block to examples: find the files, read them, drop gaps, encode the target."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.data import csv_file, embedded, idx_file, image_folder, npz_file, text
from collab.data.config import DataConfig, Inputs, Output, Wanted
from collab.data.examples import Examples, Text, concatenate
from collab.data.image_members import ARCHIVES, ENDINGS
from collab.data.locate import locate
from collab.data.preprocess import Preprocessing
from collab.data.selection import sites_of, with_label
from collab.data.site_names import site_names
from collab.data.targets import Target, encode, infer_labels, missing, relabel
from protocol.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def load(
    config: DataConfig, labels: Sequence[str] | int | None, output: Output, inputs: Inputs, base: Path | None
) -> tuple[Examples, tuple[str, ...] | None]:
    """Return all rows of a data block and the names of its classes (None if the output is a value).

    Rows of ``files`` and of a ``site`` column carry their site in ``site_N``. Official test rows
    follow the others, with "test" in ``split_N``; the others then have "".

    Args:
        config: the data block.
        labels: the classes by name, or their number, or None: inferred from all rows.
        output: "classes" or "value".
        inputs: "table", "image" or "text".
        base: the folder that relative paths start from.

    Raises:
        DataError: a file, column, row or label is missing or wrong, or only one class is there.
        ConfigError: keys that do not go together.
    """
    wanted = Wanted(labels if labels is None or isinstance(labels, int) else tuple(labels), output, inputs)
    if config.label_map and output == "value":
        raise ConfigError(f"{describe(config)}: label_map renames classes, but the subtask predicts a value")
    _require_inputs(config, inputs)
    found = [_selected(_without_gaps(part, config), config) for part in _parts(config, wanted, base)]
    parts = [part.with_target(relabel(part.target, config.label_map, wanted.labels)) for part in found]
    names = _class_names([part.rows.y for part in parts], config, wanted)
    known = replace(wanted, labels=wanted.labels if isinstance(wanted.labels, int) else names)
    encoded = [part.with_target(encode(part.target, known, config.positive)).rows for part in parts]
    return concatenate(encoded), names


def load_public(config: DataConfig, inputs: Inputs, base: Path | None) -> Examples:
    """Return the rows of a public set: its target, if it has one, is dropped (y = -1 or NaN).

    Raises:
        DataError: the file cannot be read, or every row has a gap and gaps are dropped.
        ConfigError: ``files``, which is for rows that belong to sites, ``rows``, or a key about labels.
    """
    _require_inputs(config, inputs)
    if config.only or config.site_of_label:
        raise ConfigError(f"{describe(config)}: a public set has no labels: leave out only and site_of_label")
    if config.files is not None:
        raise ConfigError("files gives each site its own file: a public set has one path")
    require_all_rows(config)
    if config.format == "sklearn":
        return embedded.read(config, Wanted(None, "value", inputs)).without_targets()
    rows = _read_inputs(_locate(str(config.path), config, base), config, inputs)
    return _without_gaps(_part(rows, describe(config)), config).rows


def load_inputs(path: Path, config: DataConfig, preprocessing: Preprocessing) -> Examples:
    """Return the inputs of a new file, to predict on: every row is kept, y is not read (-1).

    Args:
        path: arrays (.npz), images (a folder, an archive or one file), IDX where the model was
            trained on IDX, else a text table; target, site and further columns may be absent.
        config: the data block that the model was trained with.
        preprocessing: names the columns that the model needs.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    if not path.exists():
        raise DataError(f"data file '{path}' is missing")
    shape = preprocessing.image_shape
    if preprocessing.texts is not None:
        block = config if config.format == "text" else DataConfig(format="text", path=str(path))
        return text.read_inputs(path, block.model_copy(update={"parts": {}}), preprocessing.texts.recipe)
    inputs: Inputs = "table" if shape is None else "image"
    if path.suffix == ".npz":
        return npz_file.read_inputs(path, inputs, config)
    if shape is not None and (path.is_dir() or path.name.lower().endswith((*ENDINGS, *ARCHIVES))):
        look = image_folder.Look("L" if shape[0] == 1 else "RGB", (shape[1], shape[2]))
        return image_folder.read_inputs(path, look, inputs)
    if config.format == "idx" and path.suffix.lower() != ".csv":
        return idx_file.read_inputs(path, inputs)
    if config.format != "csv":
        config = DataConfig(format="csv", path=str(path))
    numeric, categorical = preprocessing.numeric_names, preprocessing.categorical_names
    fitted = {"features": (*numeric, *categorical), "categorical": categorical, "drop": ()}
    return csv_file.read_inputs(path, config.model_copy(update=fitted), inputs)


def holds_any(path: Path, config: DataConfig, preprocessing: Preprocessing) -> bool:
    """Return whether a new file has any of a model's inputs: of a modality none may be there.

    Raises:
        DataError: the file cannot be read.
    """
    if not path.exists():
        raise DataError(f"data file '{path}' is missing")
    wants_image = preprocessing.image_shape is not None
    if path.suffix == ".npz":
        wanted = config.inputs if wants_image else config.table
        return wanted is None or wanted in npz_file.array_names(path)
    if wants_image or path.is_dir():
        return wants_image == (path.is_dir() or path.name.lower().endswith((*ENDINGS, *ARCHIVES)))
    block = config if config.format == "csv" else DataConfig(format="csv", path=str(path), target="-")
    names = csv_file.column_names(path, block)
    return any(name in names for name in (*preprocessing.numeric_names, *preprocessing.categorical_names))


def describe(config: DataConfig) -> str:
    """Return the file(s) and the target column, for messages."""
    if config.format == "sklearn":
        return f"scikit-learn's '{config.name}'"
    place = Path(config.path).name if config.path else f"{len(config.files or ())} files"
    return f"{place}, {config.target or 'y'}"


def _require_inputs(config: DataConfig, inputs: Inputs) -> None:
    if (inputs == "text") != (config.format == "text"):
        want, have = (f"{inputs}s", "texts" if config.format == "text" else "no texts")
        raise ConfigError(f"{describe(config)}: format '{config.format}' holds {have}, the kind wants {want}")


def require_all_rows(config: DataConfig) -> None:
    """Raise a ``ConfigError`` if ``rows`` asks for a subset of rows that no scenario deals out."""
    if config.rows is not None:
        raise ConfigError(f"{describe(config)}: rows is for data that a scenario deals out: leave it out")


@dataclass(frozen=True)
class _Part:
    """One file's rows, y still raw; its name for messages; and which data row of the file each one was."""

    rows: Examples
    where: str
    place_N: NDArray[np.int64]

    @property
    def target(self) -> Target:
        return Target(self.rows.y, self.where, self.place_N)

    def with_target(self, y: NDArray[Any]) -> _Part:
        return replace(self, rows=replace(self.rows, y=y))


def _part(rows: Examples, where: str) -> _Part:
    return _Part(rows, where, np.arange(len(rows)))


def _parts(config: DataConfig, wanted: Wanted, base: Path | None) -> list[_Part]:
    if config.format == "sklearn":
        return [_part(embedded.read(config, wanted), describe(config))]
    if config.files is None:
        train = [_read(str(config.path), config, wanted, base)]
    else:
        read = ((site, _read(path, config, wanted, base)) for site, path in config.files.items())
        train = [replace(part, rows=replace(part.rows, site_N=_all(part, site))) for site, part in read]
    if not config.split.has_official_test:
        return train
    official_config = config.official_test()
    test = _read(str(official_config.path), official_config, wanted, base)
    site_N = test.rows.site_N
    if train[0].rows.site_N is not None and site_N is None:
        site_N = _all(test, "")  # they belong to no site yet: they are dealt out with the train rows
    official = replace(test.rows, split_N=_all(test, "test"), site_N=site_N)
    drawn = [replace(part, rows=replace(part.rows, split_N=_all(part, ""))) for part in train]
    return [*drawn, replace(test, rows=official)]


def _read(path: str, config: DataConfig, wanted: Wanted, base: Path | None) -> _Part:
    file = _locate(path, config, base)
    rows = _rows(file, config, wanted, base)
    if rows.site_N is not None:
        rows = replace(rows, site_N=site_names(rows.site_N, file.name))
    return _part(rows, f"{file.name}, {config.target or 'y'}")


def _locate(path: str, config: DataConfig, base: Path | None) -> Path:
    return locate(path, base, accept_folder=config.format == "images")


def _rows(file: Path, config: DataConfig, wanted: Wanted, base: Path | None) -> Examples:
    if config.format == "npz":
        return npz_file.read(file, config, wanted)
    if config.format == "images":
        return image_folder.read(file, config, wanted.inputs)
    if config.format == "idx":
        if config.labels_path is None:
            raise ConfigError(f"{file.name}: format 'idx' needs labels_path, the file of labels")
        return idx_file.read(file, locate(config.labels_path, base), wanted)
    if config.format == "text":
        return text.read(file, config, wanted)
    return csv_file.read(file, config, wanted)


def _read_inputs(path: Path, config: DataConfig, inputs: Inputs) -> Examples:
    if config.format == "npz":
        return npz_file.read_inputs(path, inputs, config)
    if config.format == "images":
        return image_folder.read_inputs(path, image_folder.Look(config.mode, config.size), inputs)
    if config.format == "idx":
        return idx_file.read_inputs(path, inputs)
    if config.format == "text":
        return text.read_inputs(path, config, config.grams)
    return csv_file.read_inputs(path, config, inputs)


def _all(part: _Part, cell: str) -> Text:
    return np.full(len(part.rows), cell, dtype=object)


def _without_gaps(part: _Part, config: DataConfig) -> _Part:
    if config.missing_rows == "impute":
        return part
    rows = part.rows
    gaps_N = np.isnan(rows.numeric_NP).any(axis=1) | (rows.categorical_NQ == "").any(axis=1)
    gaps_N |= missing(rows.y)
    if gaps_N.all():
        raise DataError(
            f'{part.where}: all {len(rows)} rows have a gap and missing_rows = "drop" leaves none; '
            "drop the columns that are mostly empty, or impute"
        )
    logger.info("%s: %d of %d rows have gaps and are left out", part.where, gaps_N.sum(), len(rows))
    return _Part(rows.take(~gaps_N), part.where, part.place_N[~gaps_N])


def _selected(part: _Part, config: DataConfig) -> _Part:
    """Return the part with the rows that ``only`` names, and the sites that ``site_of_label`` gives them."""
    if config.only:
        kept_N = with_label(part.target, config.only)
        part = _Part(part.rows.take(kept_N), part.where, part.place_N[kept_N])
    if config.site_of_label:
        part = replace(part, rows=replace(part.rows, site_N=sites_of(part.target, config.site_of_label)))
    return part


def _class_names(raw: Sequence[NDArray[Any]], config: DataConfig, wanted: Wanted) -> tuple[str, ...] | None:
    if wanted.output == "value":
        return None
    if isinstance(wanted.labels, tuple):
        return wanted.labels
    if isinstance(wanted.labels, int):
        return tuple(str(label) for label in range(wanted.labels))
    return ("no", "yes") if config.positive is not None else infer_labels(np.concatenate(raw))
