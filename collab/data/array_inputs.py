"""From an array of numbers to examples: what the formats that hold arrays (npz, idx) share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.data.config import Inputs
from collab.data.examples import Examples, of_images, of_table
from collab.data.limits import MAX_BYTES, MAX_COLUMNS, MAX_MAGNITUDE
from collab.data.targets import first_row
from protocol.errors import DataError

_CHANNELS: Final = (1, 3, 4)


def examples_of(x: NDArray[Any], inputs: Inputs, where: str, *, may_lack: bool = False) -> Examples:
    """Return rows without their target (y = -1).

    Args:
        x: numbers. For a table [N, ...], flattened to [N, F], NaN = missing. For images [N, H, W],
            [N, C, H, W] or [N, H, W, C] with 1, 3 or 4 channels; whole numbers are divided by 255.
        inputs: "table" or "image".
        where: file and array, for messages.
        may_lack: an image that is NaN throughout is a missing one.

    Raises:
        DataError: no rows, a wrong shape or dtype, too many numbers, infinities, NaN in an image.
    """
    if x.dtype.kind not in "biuf" or x.ndim < 2:
        raise DataError(f"{where} must be rows of numbers, it is {x.dtype} {list(x.shape)}")
    if not x.size:  # rows without a number in them would cost nothing in the file, and memory here
        raise DataError(f"{where} has no rows or rows of nothing: {list(x.shape)}")
    nobody = np.full(len(x), -1, dtype=np.int64)
    require_room(x.size, where)
    if inputs == "image":
        return of_images(_images(x, where, may_lack=may_lack), nobody)
    return _table(x, nobody, where)


def mixed(image_NCHW: NDArray[Any], table_NF: NDArray[Any], names: Sequence[str], where: str) -> Examples:
    """Return rows of an image and of columns, without their target; an image of NaN alone is missing.

    Args:
        image_NCHW: as ``examples_of``, but for images that are NaN throughout.
        table_NF: as ``examples_of``.
        names: of the columns; "x0", "x1" ... where there are none.
        where: file and arrays, for messages.

    Raises:
        DataError: as ``examples_of``; an image is partly NaN, or rows or names are of another number.
    """
    images = examples_of(image_NCHW, "image", where, may_lack=True)
    table = named(examples_of(table_NF, "table", where), names, where)
    if len(images) != len(table):
        raise DataError(f"{where}: {len(images)} images, but {len(table)} rows of columns")
    return replace(table, image_NCHW=images.image_NCHW)


def named(table: Examples, names: Sequence[str], where: str) -> Examples:
    """Return a table of numbers with these names of its columns; as it is where there are none.

    Raises:
        DataError: they are of another number.
    """
    if names and len(names) != len(table.numeric_names):
        raise DataError(f"{where}: {len(table.numeric_names)} columns, but columns has {len(names)} names")
    return replace(table, numeric_names=tuple(names)) if names else table


def require_room(numbers: int, where: str) -> None:
    """Raise a ``DataError`` if so many numbers, as float32, are more than may be read."""
    if numbers * 4 > MAX_BYTES:
        raise DataError(
            f"{where}: {numbers:,} numbers take {numbers * 4:,} bytes, at most {MAX_BYTES:,} are read"
        )


def _table(x: NDArray[Any], y: NDArray[Any], where: str) -> Examples:
    numeric_NP = x.reshape(len(x), -1).astype(np.float64)
    if numeric_NP.shape[1] > MAX_COLUMNS:
        raise DataError(f"{where} has {numeric_NP.shape[1]:,} columns, at most {MAX_COLUMNS:,} are read")
    _refuse((np.abs(numeric_NP) > MAX_MAGNITUDE).any(axis=1), "an infinite or absurdly large number", where)
    return of_table(numeric_NP, [f"x{i}" for i in range(numeric_NP.shape[1])], y)


def _images(x: NDArray[Any], where: str, *, may_lack: bool) -> NDArray[np.float32]:
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and _channels_last(x.shape):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in _CHANNELS:
        raise DataError(
            f"{where} must be images [N, H, W], [N, C, H, W] or [N, H, W, C], it is {list(x.shape)}"
        )
    image_NCHW = np.ascontiguousarray(x, dtype=np.float32)
    if x.dtype.kind in "iu":
        image_NCHW /= 255.0
        return image_NCHW
    wrong_N = ~np.isfinite(image_NCHW).all(axis=(1, 2, 3))
    if may_lack:
        wrong_N &= ~np.isnan(image_NCHW).all(axis=(1, 2, 3))
    _refuse(wrong_N, "a pixel that is NaN or infinite", where)
    return image_NCHW


def _channels_last(shape: tuple[int, ...]) -> bool:
    if shape[3] not in _CHANNELS:
        return False
    return shape[1] not in _CHANNELS or shape[3] < shape[1]  # a side of 4 pixels is the rarer reading


def _refuse(wrong: Any, what: str, where: str) -> None:
    wrong_N = np.asarray(wrong, dtype=np.bool_)
    if wrong_N.any():
        raise DataError(f"{where} has {what} in {first_row(wrong_N)}")
