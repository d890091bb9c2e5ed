"""Named arrays: what they must look like, whether they do, and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ArraysError

Arrays = Mapping[str, NDArray[Any]]

# What a model, a statistic or a table of soft labels may be made of. Little-endian
# on every platform that torch supports; the codec refuses anything else.
DTYPES = frozenset({"float16", "float32", "float64", "int8", "uint8", "int32", "int64"})


@dataclass(frozen=True)
class ArraySpec:
    """The shape and dtype that one array must have."""

    shape: tuple[int, ...]
    dtype: str


Spec = Mapping[str, ArraySpec]


def spec_of(arrays: Arrays) -> dict[str, ArraySpec]:
    """Return the names, shapes and dtypes of ``arrays``."""
    return {name: ArraySpec(array.shape, str(array.dtype)) for name, array in arrays.items()}


def check_spec(arrays: Arrays, spec: Spec) -> None:
    """Raise ``ArraysError`` unless ``arrays`` has exactly the names, shapes and dtypes of ``spec``."""
    missing = sorted(spec.keys() - arrays.keys())
    extra = sorted(arrays.keys() - spec.keys())
    if missing or extra:
        raise ArraysError(f"arrays have other names: missing {missing[:5]}, not expected {extra[:5]}")
    for name, expected in spec.items():
        array = arrays[name]
        if array.shape != expected.shape:
            raise ArraysError(f"array '{name}' has shape {array.shape}, expected {expected.shape}")
        if str(array.dtype) != expected.dtype:
            raise ArraysError(f"array '{name}' has dtype {array.dtype}, expected {expected.dtype}")


def check_finite(arrays: Arrays) -> None:
    """Raise ``ArraysError`` if any floating-point array holds NaN or an infinity."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ArraysError(f"array '{name}' holds NaN or infinite values")


def check(arrays: Arrays, spec: Spec) -> None:
    """Check names, shapes, dtypes and finiteness; raise ``ArraysError`` on the first difference."""
    check_spec(arrays, spec)
    check_finite(arrays)


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 of names, dtypes, shapes and little-endian bytes, in order of name."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        sha.update(f"{name}\0{array.dtype.newbyteorder('<').str}\0{array.shape}\0".encode())
        sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).data)
    return sha.hexdigest()


def num_bytes(arrays: Arrays) -> int:
    """Return the payload size of ``arrays`` in bytes, without headers."""
    return sum(array.nbytes for array in arrays.values())
