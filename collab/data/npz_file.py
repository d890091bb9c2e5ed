"""NumPy archives: arrays ``x`` and ``y``, and optionally the site, group and split of each row."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.data.config import DataConfig, Inputs, Wanted
from collab.data.examples import Examples, Text, of_images, of_table
from collab.data.limits import MAX_BYTES, MAX_COLUMNS, MAX_MAGNITUDE
from collab.data.targets import first_row
from collab.plugins import unknown
from protocol.errors import DataError

_CHANNELS: Final = (1, 3, 4)


def read(path: Path, config: DataConfig, wanted: Wanted) -> Examples:
    """Return the rows of one archive; y is raw (see ``targets.encode``).

    For a table ``x`` is [N, ...], flattened to [N, F], NaN = missing. For images it is [N, H, W],
    [N, C, H, W] or [N, H, W, C] with 1, 3 or 4 channels; whole numbers are divided by 255.

    Raises:
        DataError: no such array, wrong shapes or dtypes, infinities, NaN in an image.
    """
    arrays = _load(path)
    examples = _inputs(arrays, path, wanted.inputs)
    y = _raw_target(_pick(arrays, "y", path), path)
    if len(examples) != len(y):
        raise DataError(f"{path.name}: x has {len(examples)} rows but y has {len(y)}")
    site = config.site or ("site" if "site" in arrays else None)
    return replace(
        examples,
        y=y,
        site_N=_role(arrays, site, len(y), path),
        group_N=_role(arrays, config.split.group, len(y), path),
        split_N=_role(arrays, config.split.column, len(y), path),
    )


def read_inputs(path: Path, inputs: Inputs) -> Examples:
    """Return the rows of one archive without their target (y = -1); only ``x`` need be there.

    Raises:
        DataError: as ``read``.
    """
    return _inputs(_load(path), path, inputs)


def _inputs(arrays: dict[str, NDArray[Any]], path: Path, inputs: Inputs) -> Examples:
    x = _pick(arrays, "x", path)
    if x.dtype.kind not in "biuf" or x.ndim < 2:
        raise DataError(f"{path.name}: x must be rows of numbers, it is {x.dtype} {list(x.shape)}")
    if not len(x):
        raise DataError(f"{path.name}: has no rows")
    nobody = np.full(len(x), -1, dtype=np.int64)
    return of_images(_images(x, path), nobody) if inputs == "image" else _table(x, nobody, path)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            # Checked before unpacking: a small archive can hold a very large array.
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_BYTES:
            raise DataError(f"{path.name}: unpacks to {unpacked:,} bytes, at most {MAX_BYTES:,} are read")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        raise DataError(
            f"{path.name}: is no .npz archive of plain arrays (object arrays are refused)"
        ) from None


def _pick(arrays: dict[str, NDArray[Any]], name: str, path: Path) -> NDArray[Any]:
    if name not in arrays:
        raise DataError(f"{path.name}: " + unknown(f"array '{name}'", name, arrays))
    return arrays[name]


def _raw_target(y: NDArray[Any], path: Path) -> NDArray[Any]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "biufU":
        raise DataError(f"{path.name}: y must be one number or text a row, it is {y.dtype} {list(y.shape)}")
    if y.dtype.kind == "U":
        return y.astype(object)
    return y.astype(np.float64) if y.dtype.kind == "f" else y.astype(np.int64)


def _table(x: NDArray[Any], y: NDArray[Any], path: Path) -> Examples:
    numeric_NP = x.reshape(len(x), -1).astype(np.float64)
    if numeric_NP.shape[1] > MAX_COLUMNS:
        raise DataError(
            f"{path.name}: x has {numeric_NP.shape[1]:,} columns, at most {MAX_COLUMNS:,} are read"
        )
    _refuse((np.abs(numeric_NP) > MAX_MAGNITUDE).any(axis=1), "an infinite or absurdly large number", path)
    return of_table(numeric_NP, [f"x{i}" for i in range(numeric_NP.shape[1])], y)


def _images(x: NDArray[Any], path: Path) -> NDArray[np.float32]:
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and _channels_last(x.shape):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in _CHANNELS:
        raise DataError(
            f"{path.name}: x must be images [N, H, W], [N, C, H, W] or [N, H, W, C], it is {list(x.shape)}"
        )
    image_NCHW = np.ascontiguousarray(x, dtype=np.float32)
    if x.dtype.kind in "iu":
        image_NCHW /= 255.0
    _refuse(~np.isfinite(image_NCHW).all(axis=(1, 2, 3)), "a pixel that is NaN or infinite", path)
    return image_NCHW


def _channels_last(shape: tuple[int, ...]) -> bool:
    if shape[3] not in _CHANNELS:
        return False
    return shape[1] not in _CHANNELS or shape[3] < shape[1]  # a side of 4 pixels is the rarer reading


def _refuse(wrong: Any, what: str, path: Path) -> None:
    wrong_N = np.asarray(wrong, dtype=np.bool_)
    if wrong_N.any():
        raise DataError(f"{path.name}: x has {what} in {first_row(wrong_N)}")


def _role(arrays: dict[str, NDArray[Any]], name: str | None, rows: int, path: Path) -> Text | None:
    if name is None:
        return None
    cells = _pick(arrays, name, path)
    if cells.shape != (rows,):
        raise DataError(f"{path.name}: array '{name}' has shape {list(cells.shape)}, expected [{rows}]")
    return np.array([str(cell) for cell in cells.tolist()], dtype=object)
