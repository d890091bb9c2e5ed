"""Text tables: a separator, a header or given names, markers of what is missing."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from collab.data.config import DataConfig, Inputs, Wanted
from collab.data.examples import Examples, Text, of_table
from collab.data.limits import MAX_BYTES, MAX_COLUMNS, MAX_MAGNITUDE
from collab.data.targets import canonical, first_row
from collab.plugins import unknown
from protocol.errors import ConfigError, DataError

# Missing in a column of numbers whatever `missing` says; in text, "None" or "NA" may be a category.
_NOT_A_NUMBER: Final = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None")


def read(path: Path, config: DataConfig, wanted: Wanted) -> Examples:
    """Return the rows of one file; y is raw (see ``targets.encode``).

    Args:
        path: a UTF-8 file of at most ``MAX_BYTES``.
        config: names the columns' roles.
        wanted: "value" reads the target as numbers, "classes" as text.

    Raises:
        DataError: the file or a column is not what ``config`` says; never quotes a cell.
        ConfigError: images are wanted of a table, or no target is named.
    """
    if config.target is None:
        raise ConfigError(f"{path.name}: format 'csv' needs target, the column to predict")
    columns = _table_columns(path, config, wanted.inputs)
    features = _features(columns, config)
    named = (*config.roles, *features, *config.drop, *config.categorical, *config.missing_in)
    _require(named, columns, path)
    target_is_number = wanted.output == "value" and config.positive is None
    numbers = [*_numeric(features, config), *([config.target] if target_is_number else [])]
    frame = read_frame(path, config, columns, numbers)
    inputs = _inputs(frame, features, config, path)
    target = frame[config.target]
    gaps = _gaps(config, config.target)
    y = _numbers(target, config.target, path) if target_is_number else _texts(target, gaps)
    return replace(
        inputs,
        y=y,
        site_N=_role(frame, config.site, config, path),
        group_N=_role(frame, config.split.group, config, path),
        split_N=_role(frame, config.split.column, config, path),
    )


def read_inputs(path: Path, config: DataConfig, inputs: Inputs) -> Examples:
    """Return the rows of one file without their target (y = -1); only the features need be there.

    Raises:
        DataError, ConfigError: as ``read``.
    """
    columns = _table_columns(path, config, inputs)
    features = _features(columns, config)
    _require(features, columns, path)
    return _inputs(read_frame(path, config, columns, _numeric(features, config)), features, config, path)


def header(path: Path, separator: str) -> tuple[list[str], int]:
    """Return the first line's cells and how many cells the second line has (0: there is none).

    An empty cell of the first line is "unnamed_N", N its place.

    Raises:
        DataError: the file is too large, empty, or not UTF-8 text.
    """
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path.name}: has {path.stat().st_size:,} bytes, at most {MAX_BYTES:,} are read")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = (row for row in csv.reader(file, delimiter=separator, skipinitialspace=True) if row)
            first, second = next(rows, []), next(rows, [])
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"{path.name}: is not a table in UTF-8 text") from None
    if not first:
        raise DataError(f"{path.name}: is empty")
    if len(first) > MAX_COLUMNS:
        raise DataError(f"{path.name}: has {len(first):,} columns, at most {MAX_COLUMNS:,} are read")
    return [cell.strip() or f"unnamed_{i}" for i, cell in enumerate(first, 1)], len(second)


def column_names(path: Path, config: DataConfig) -> list[str]:
    """Return the names of all columns; one whose header is empty is "unnamed_N", N its place.

    Raises:
        DataError: the number of names does not fit the lines, a name stands twice, or there are no rows.
    """
    first, cells_below = header(path, config.separator)
    names = first if config.header else list(config.columns)
    width = cells_below if config.header else len(first)
    if config.header and not cells_below:
        raise DataError(f"{path.name}: has a header but no rows")
    if width > len(names) or (not config.header and width < len(names)):
        raise DataError(f"{path.name}: a line has {width} cells, but {len(names)} columns have names")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{path.name}: {len(repeated)} column name(s) stand twice, first '{repeated[0]}'")
    return names


def _table_columns(path: Path, config: DataConfig, inputs: Inputs) -> list[str]:
    if inputs == "image":
        raise ConfigError(f"{path.name}: format 'csv' holds tables: images need format npz, idx or images")
    return column_names(path, config)


def _features(columns: Sequence[str], config: DataConfig) -> list[str]:
    taken = {*config.roles, *config.drop}
    if config.features != "all":
        return list(config.features)
    return [name for name in columns if name not in taken]


def _require(names: Iterable[str], columns: Sequence[str], path: Path) -> None:
    known = set(columns)
    for name in names:
        if name not in known:
            # A table may have thousands of columns: the message names those that could be meant.
            near = columns if len(columns) <= 20 else get_close_matches(name, columns, n=5) or columns[:5]
            raise DataError(f"{path.name}: " + unknown(f"column '{name}'", name, near))


def _numeric(features: Sequence[str], config: DataConfig) -> list[str]:
    categorical = set(config.categorical)
    return [name for name in features if name not in categorical]


def read_frame(path: Path, config: DataConfig, columns: list[str], numbers: Iterable[str]) -> pd.DataFrame:
    """Return all rows: the columns ``numbers`` parsed where they are numbers, all others text to the letter.

    Raises:
        DataError: the file is no table, or has no rows.
    """
    numeric = set(numbers)
    markers = [*_NOT_A_NUMBER, *config.missing]
    try:
        frame = pd.read_csv(
            path,
            sep=config.separator,
            header=0 if config.header else None,
            names=columns,
            index_col=False,
            dtype={name: "object" for name in columns if name not in numeric},
            na_values={
                name: [*markers, *config.missing_in.get(name, ())] if name in numeric else []
                for name in columns
            },
            keep_default_na=False,
            skipinitialspace=True,
            low_memory=False,
            encoding="utf-8-sig",
            compression=None,
        )
    except (ValueError, OverflowError):  # pandas' errors quote cells, so they are not chained
        raise DataError(
            f"{path.name}: cannot be read as a table; do all lines have {len(columns)} cells?"
        ) from None
    if not len(frame):
        raise DataError(f"{path.name}: has no rows")
    return frame


def _numbers(column: pd.Series[Any], name: str, path: Path) -> NDArray[np.float64]:
    if column.dtype.kind not in "iuf":
        wrong_N = (pd.to_numeric(column.astype(object), errors="coerce").isna() & column.notna()).to_numpy()
        if column.dtype.kind == "b" or not wrong_N.any():  # true/false: text at the next site that has a gap
            wrong_N = column.notna().to_numpy()
        raise DataError(
            f"{path.name}: column '{name}' is not a number in {first_row(wrong_N)}; list the column "
            "in categorical or drop, or the cell's text in missing"
        )
    values_N = np.asarray(column, dtype=np.float64)
    wrong_N = np.abs(values_N) > MAX_MAGNITUDE
    if wrong_N.any():
        raise DataError(f"{path.name}: column '{name}' is infinite or absurdly large in {first_row(wrong_N)}")
    return values_N


def _texts(column: pd.Series[Any], missing: Sequence[str]) -> Text:
    gaps = {*missing, ""}
    cells = (str(cell).strip() if isinstance(cell, str) else "" for cell in column.tolist())
    return np.array(["" if cell in gaps else canonical(cell) for cell in cells], dtype=object)


def _gaps(config: DataConfig, name: str) -> tuple[str, ...]:
    """Return the cells of a column that mean "not known"."""
    return (*config.missing, *config.missing_in.get(name, ()))


def _inputs(frame: pd.DataFrame, features: Sequence[str], config: DataConfig, path: Path) -> Examples:
    numeric = _numeric(features, config)
    categorical = [name for name in features if name in config.categorical]
    return of_table(
        _stack([_numbers(frame[name], name, path) for name in numeric], len(frame), np.float64),
        numeric,
        np.full(len(frame), -1, dtype=np.int64),
        _stack([_texts(frame[name], _gaps(config, name)) for name in categorical], len(frame), object),
        categorical,
    )


def _stack(columns: list[Any], rows: int, dtype: Any) -> NDArray[Any]:
    return np.stack(columns, axis=1) if columns else np.empty((rows, 0), dtype=dtype)


def _role(frame: pd.DataFrame, name: str | None, config: DataConfig, path: Path) -> Text | None:
    if name is None:
        return None
    cells_N = _texts(frame[name], _gaps(config, name))
    gaps_N = cells_N == ""
    if gaps_N.any():
        raise DataError(f"{path.name}: column '{name}' is empty in {first_row(gaps_N)}")
    return cells_N
