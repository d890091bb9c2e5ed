"""From a ``[data.NAME]`` block to examples: find the files, read them, drop gaps, encode the target."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.data import csv_file, embedded, npz_file, targets
from collab.data.config import DataConfig, Inputs, Labels, Output, Wanted
from collab.data.examples import Examples, concatenate
from collab.data.locate import locate
from collab.data.preprocess import Preprocessing
from collab.data.site_names import site_names
from protocol.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def load(
    config: DataConfig, labels: Sequence[str] | int | None, output: Output, inputs: Inputs, base: Path | None
) -> tuple[Examples, tuple[str, ...] | None]:
    """Return all rows of a data block and the names of its classes (None if the output is a value).

    Rows of ``files`` and of a ``site`` column carry their site in ``site_N``. Rows of
    ``split.test_path`` follow the others, with "test" in ``split_N``; the others then have "".

    Args:
        config: the data block.
        labels: the classes by name, or their number, or None: inferred from all rows.
        output: "classes" or "value".
        inputs: "table" or "image".
        base: the folder that relative paths start from.

    Raises:
        DataError: a file, column, row or label is missing or wrong, or only one class is there.
        ConfigError: keys that do not go together.
    """
    wanted = Wanted(labels if labels is None or isinstance(labels, int) else tuple(labels), output, inputs)
    rows = _without_gaps(_read_all(config, wanted, base), config)
    if config.split.test_path is not None:
        rows = _with_official_test(rows, config, wanted, base)
    names = _class_names(rows.y, config, wanted)
    where = describe(config)
    y = targets.encode(rows.y, replace(wanted, labels=_known(wanted.labels, names)), config.positive, where)
    return replace(rows, y=y), names


def load_public(config: DataConfig, inputs: Inputs, base: Path | None) -> Examples:
    """Return the rows of a public set: its target, if it has one, is dropped (y = -1 or NaN).

    Raises:
        DataError: the file cannot be read, or every row has a gap and gaps are dropped.
        ConfigError: ``files``, which is for rows that belong to sites.
    """
    if config.files is not None:
        raise ConfigError("files gives each site its own file: a public set has one path")
    if config.format == "sklearn":
        return embedded.read(config, Wanted(None, "value", inputs)).without_targets()
    return _without_gaps(_read_inputs(locate(str(config.path), base), config, inputs), config)


def load_inputs(path: Path, config: DataConfig, preprocessing: Preprocessing) -> Examples:
    """Return the inputs of a new file, to predict on: every row is kept, y is not read (-1).

    Args:
        path: an archive (.npz), else a text table; target, site and further columns may be absent.
        config: the data block that the model was trained with.
        preprocessing: names the columns that the model needs.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    if not path.is_file():
        raise DataError(f"data file '{path}' is missing")
    inputs: Inputs = "table" if preprocessing.image_shape is None else "image"
    if path.suffix == ".npz":
        return npz_file.read_inputs(path, inputs)
    if config.format != "csv":
        config = DataConfig(format="csv", path=str(path))
    numeric, categorical = preprocessing.numeric_names, preprocessing.categorical_names
    fitted = {"features": (*numeric, *categorical), "categorical": categorical, "drop": ()}
    return csv_file.read_inputs(path, config.model_copy(update=fitted), inputs)


def describe(config: DataConfig) -> str:
    """Return the file(s) and the target column, for messages."""
    if config.format == "sklearn":
        return f"scikit-learn's '{config.name}'"
    place = Path(config.path).name if config.path else f"{len(config.files or ())} files"
    return f"{place}, {config.target or 'y'}"


def _read_all(config: DataConfig, wanted: Wanted, base: Path | None) -> Examples:
    if config.format == "sklearn":
        return embedded.read(config, wanted)
    if config.files is None:
        return _read(str(config.path), config, wanted, base)
    return concatenate(
        [
            replace(part, site_N=np.full(len(part), site, dtype=object))
            for site, path in config.files.items()
            for part in [_read(path, config, wanted, base)]
        ]
    )


def _read(path: str, config: DataConfig, wanted: Wanted, base: Path | None) -> Examples:
    reader = npz_file.read if config.format == "npz" else csv_file.read
    rows = reader(locate(path, base), config, wanted)
    return rows if rows.site_N is None else replace(rows, site_N=site_names(rows.site_N, describe(config)))


def _read_inputs(path: Path, config: DataConfig, inputs: Inputs) -> Examples:
    if config.format == "npz":
        return npz_file.read_inputs(path, inputs)
    return csv_file.read_inputs(path, config, inputs)


def _with_official_test(rows: Examples, config: DataConfig, wanted: Wanted, base: Path | None) -> Examples:
    test = _without_gaps(_read(str(config.split.test_path), config, wanted, base), config)
    # The official rows belong to no site yet if sites come from files: they are dealt out later.
    if rows.site_N is None or test.site_N is None:
        test = replace(test, site_N=None if rows.site_N is None else np.full(len(test), "", dtype=object))
    return concatenate([replace(rows, split_N=_all(rows, "")), replace(test, split_N=_all(test, "test"))])


def _all(rows: Examples, cell: str) -> NDArray[np.object_]:
    return np.full(len(rows), cell, dtype=object)


def _without_gaps(rows: Examples, config: DataConfig) -> Examples:
    if config.missing_rows == "impute":
        return rows
    gaps_N = np.isnan(rows.numeric_NP).any(axis=1) | (rows.categorical_NQ == "").any(axis=1)
    gaps_N |= targets.missing(rows.y)
    if gaps_N.all():
        raise DataError(
            f'{describe(config)}: all {len(rows)} rows have a gap and missing_rows = "drop" leaves none; '
            "drop the columns that are mostly empty, or impute"
        )
    logger.info("%s: %d of %d rows have gaps and are left out", describe(config), gaps_N.sum(), len(rows))
    return rows.take(~gaps_N)


def _class_names(raw_N: NDArray[Any], config: DataConfig, wanted: Wanted) -> tuple[str, ...] | None:
    if wanted.output == "value":
        return None
    if isinstance(wanted.labels, tuple):
        return wanted.labels
    if isinstance(wanted.labels, int):
        return tuple(str(label) for label in range(wanted.labels))
    return ("no", "yes") if config.positive is not None else targets.infer_labels(raw_N)


def _known(labels: Labels, names: tuple[str, ...] | None) -> Labels:
    return labels if isinstance(labels, int) else names
