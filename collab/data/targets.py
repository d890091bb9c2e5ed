"""The target column: from cells to class indices or values."""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.data import comparison
from collab.data.config import Labels, Wanted
from collab.data.examples import Text
from protocol.errors import ConfigError, DataError

MAX_INFERRED_LABELS: Final = 1000
_WHOLE: Final = re.compile(r"([+-]?\d+)\.0*")


def canonical(cell: str) -> str:
    """Return ``cell`` stripped, and "1.0" as "1": hospitals write one category both ways."""
    cell = cell.strip()
    match = _WHOLE.fullmatch(cell)
    return match[1] if match else cell


def first_row(mask_N: NDArray[np.bool_]) -> str:
    """Return "3 row(s), the first is data row 17" for a mask; data rows count from 1, without the header."""
    return f"{int(mask_N.sum())} row(s), the first is data row {int(mask_N.argmax()) + 1}"


def missing(raw_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which raw target cells are missing: "" in text, NaN in numbers."""
    if raw_N.dtype.kind == "O":
        return np.asarray(raw_N == "", dtype=np.bool_)
    return np.asarray(np.isnan(raw_N), dtype=np.bool_)


def infer_labels(raw_N: NDArray[Any]) -> tuple[str, ...]:
    """Return the distinct cells: in order of number if all are numbers, else of text.

    Raises:
        DataError: there are more than ``MAX_INFERRED_LABELS``.
    """
    found = set(_texts(raw_N[~missing(raw_N)]))
    if len(found) > MAX_INFERRED_LABELS:
        raise DataError(
            f"the target has {len(found)} distinct values, at most {MAX_INFERRED_LABELS} can be classes: "
            "use a regression kind, or name the labels"
        )
    if all(_is_number(text) for text in found):
        return tuple(sorted(found, key=lambda text: (float(text), text)))
    return tuple(sorted(found))


def encode(raw_N: NDArray[Any], wanted: Wanted, positive: str | None, where: str) -> NDArray[Any]:
    """Return y: int64 class indices or float64 values.

    Args:
        raw_N: text cells or numbers, as a format read them.
        wanted: the labels must be known by now (see ``infer_labels``) if the output is classes.
        positive: comparison that makes the target yes (class 1) or no (class 0).
        where: the file and column, for messages.

    Raises:
        DataError: a cell is missing, not a number where one is needed, or no known label.
        ConfigError: ``positive`` goes with neither a value nor another number of labels than two.
    """
    gaps = missing(raw_N)
    if gaps.any():
        raise DataError(
            f'{where}: the target is missing in {first_row(gaps)}; fill it or set missing_rows = "drop"'
        )
    if wanted.output == "value":
        if positive is not None:
            raise ConfigError(
                f"{where}: positive makes classes, but the subtask predicts a value: leave it out"
            )
        return _numbers(raw_N, where)
    if positive is not None:
        return _yes_or_no(raw_N, wanted.labels, positive, where)
    if wanted.labels is None:
        raise ConfigError(f"{where}: the labels are not known: name them in the subtask's labels")
    if isinstance(wanted.labels, int):
        return _indices(_numbers(raw_N, where), wanted.labels, where)
    return _positions(raw_N, wanted.labels, where)


def _yes_or_no(raw_N: NDArray[Any], labels: Labels, positive: str, where: str) -> NDArray[np.int64]:
    count = labels if isinstance(labels, int) else len(labels or ("no", "yes"))
    if count != 2:
        raise ConfigError(f"{where}: positive makes 2 classes, but the subtask has {count} labels")
    rule = comparison.parse(positive)
    cells = _numbers(raw_N, where) if rule.is_numeric else _texts(raw_N)
    return rule.holds(cells).astype(np.int64)


def _positions(raw_N: NDArray[Any], labels: tuple[str, ...], where: str) -> NDArray[np.int64]:
    index = {canonical(label): i for i, label in enumerate(labels)}
    if len(index) < len(labels):
        raise ConfigError(f"{where}: labels names one class twice")
    cells = _texts(raw_N)
    y_N = np.array([index.get(cell, -1) for cell in cells], dtype=np.int64)
    if (y_N >= 0).all():
        return y_N
    # Cells 0..C-1 under names such as "healthy" count as positions; with labels that are
    # numbers themselves that would be a guess between two readings.
    if not any(_is_number(label) for label in labels) and all(_is_number(cell) for cell in set(cells)):
        return _indices(_numbers(raw_N, where), len(labels), where)
    raise DataError(
        f"{where}: the target is none of the {len(labels)} labels in {first_row(y_N < 0)}; "
        "add it to labels, or set positive"
    )


def _indices(values_N: NDArray[np.float64], classes: int, where: str) -> NDArray[np.int64]:
    wrong = (values_N != np.floor(values_N)) | (values_N < 0) | (values_N >= classes)
    if wrong.any():
        raise DataError(
            f"{where}: the target is not a whole number from 0 to {classes - 1} in {first_row(wrong)}"
        )
    return values_N.astype(np.int64)


def _numbers(raw_N: NDArray[Any], where: str) -> NDArray[np.float64]:
    try:
        values_N = raw_N.astype(np.float64)
    except ValueError:  # its text quotes the cell
        values_N = np.array([float(cell) if _is_number(cell) else np.nan for cell in raw_N])
    wrong = ~np.isfinite(values_N)
    if wrong.any():
        raise DataError(f"{where}: the target is not a finite number in {first_row(wrong)}")
    return values_N


def _texts(raw_N: NDArray[Any]) -> Text:
    if raw_N.dtype.kind == "f" and (raw_N == np.floor(raw_N)).all():
        raw_N = raw_N.astype(np.int64)
    return np.array([canonical(str(cell)) for cell in raw_N], dtype=object)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
