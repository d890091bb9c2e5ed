"""NumPy archives: an array of inputs, one of targets, and optionally each row's site, group and split."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from collab.data.array_inputs import examples_of, mixed, named
from collab.data.config import DataConfig, Inputs, Wanted
from collab.data.examples import Examples, Text
from collab.data.limits import MAX_BYTES
from collab.plugins import unknown
from protocol.errors import DataError

_INPUTS = "x"
_TARGET = "y"


def read(path: Path, config: DataConfig, wanted: Wanted) -> Examples:
    """Return the rows of one archive; y is raw (see ``targets.encode``).

    Inputs are the array ``config.inputs``, "x" unless it is given (see ``array_inputs``), the target is
    ``config.target``, "y" unless it is given. An array "site" beside "x" names sites without being asked.

    Raises:
        DataError: no such array, wrong shapes or dtypes, infinities, NaN in an image.
    """
    name = config.target or _TARGET
    with _Archive(path) as archive:
        examples = _inputs(archive, config, wanted.inputs, path)
        y = _raw_target(archive.array(name), name, path)
        if len(examples) != len(y):
            raise DataError(f"{path.name}: {config.inputs} has {len(examples)} rows but {name} has {len(y)}")
        implied = "site" if "site" in archive.names and config.inputs == _INPUTS else None
        return replace(
            examples,
            y=y,
            site_N=archive.role(config.site or implied, len(y)),
            group_N=archive.role(config.split.group, len(y)),
            split_N=archive.role(config.split.column, len(y)),
        )


def read_inputs(path: Path, inputs: Inputs, config: DataConfig | None = None) -> Examples:
    """Return the rows of one archive without their target (y = -1).

    Only the inputs need be there: the array ``config.inputs``, or "x" where there is no such; of data with a
    ``table`` that as well for "mixed", that alone for "table".

    Raises:
        DataError: as ``read``.
    """
    with _Archive(path) as archive:
        if config is not None and config.table is not None:
            return _inputs(archive, config, inputs, path)
        name = _INPUTS if config is None or config.inputs not in archive.names else config.inputs
        return examples_of(archive.array(name), inputs, f"{path.name}: {name}")


def array_names(path: Path) -> tuple[str, ...]:
    """Return the names of an archive's arrays; ``DataError`` if it is none."""
    with _Archive(path) as archive:
        return archive.names


def _inputs(archive: _Archive, config: DataConfig, inputs: Inputs, path: Path) -> Examples:
    """Return images, a table, or both of the same rows."""
    if inputs == "mixed" and config.table is not None:
        where = f"{path.name}: {config.inputs} and {config.table}"
        return mixed(archive.array(config.inputs), archive.array(config.table), config.columns, where)
    name = config.table if inputs == "table" and config.table is not None else config.inputs
    where = f"{path.name}: {name}"
    found = examples_of(archive.array(name), inputs, where, may_lack=config.table is not None)
    return named(found, config.columns, where) if name == config.table else found


class _Archive:
    """The arrays of an archive, read one by one, each measured before it is unpacked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile):
            raise self._broken() from None
        self._members = {member.filename: member for member in self._zip.infolist()}
        self.names = tuple(name.removesuffix(".npy") for name in self._members)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def array(self, name: str) -> NDArray[Any]:
        """Return the array ``name``, read-only."""
        if name not in self.names:
            raise DataError(f"{self._path.name}: " + unknown(f"array '{name}'", name, self.names))
        # numpy writes NAME.npy; other tools leave the ending out.
        member = self._members.get(f"{name}.npy") or self._members[name]
        if member.file_size > MAX_BYTES:
            raise DataError(
                f"{self._path.name}: array '{name}' unpacks to {member.file_size:,} bytes, "
                f"at most {MAX_BYTES:,} are read"
            )
        try:
            with self._zip.open(member) as file:
                return _read_array(file, member.file_size)
        except (ValueError, OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile):
            raise self._broken() from None

    def role(self, name: str | None, rows: int) -> Text | None:
        """Return the array ``name`` as one text a row, or None if no name is given."""
        if name is None:
            return None
        cells = self.array(name)
        if cells.shape != (rows,):
            raise DataError(
                f"{self._path.name}: array '{name}' has shape {list(cells.shape)}, expected [{rows}]"
            )
        return np.array([str(cell) for cell in cells.tolist()], dtype=object)

    def _broken(self) -> DataError:
        return DataError(f"{self._path.name}: is no .npz archive of plain arrays (object arrays are refused)")


def _read_array(file: Any, size: int) -> NDArray[Any]:
    """Read one ``.npy`` of ``size`` bytes; its header may claim no more numbers than follow it."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError("an unknown version")
    shape, is_fortran, dtype = readers[version](file)
    count = math.prod(shape)
    if dtype.hasobject or not dtype.itemsize or not 0 <= count * dtype.itemsize <= size:
        raise ValueError("objects, or a header that claims more than the file holds")
    content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise ValueError("a cut file")
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if is_fortran else "C")


def _raw_target(y: NDArray[Any], name: str, path: Path) -> NDArray[Any]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "biufU":
        raise DataError(
            f"{path.name}: {name} must be one number or text a row, it is {y.dtype} {list(y.shape)}"
        )
    if y.dtype.kind == "U":
        return y.astype(object)
    return y.astype(np.float64) if y.dtype.kind == "f" else y.astype(np.int64)
