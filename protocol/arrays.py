"""Named arrays: what they must look like, whether they do, and their digest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
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
    _check_names(arrays.keys(), spec.keys())
    check_same(spec_of(arrays), spec)


def check_same(found: Spec, spec: Spec) -> None:
    """Raise ``ArraysError`` unless ``found`` is ``spec``; the first difference is named."""
    _check_names(found.keys(), spec.keys())
    for name, expected in spec.items():
        array = found[name]
        if array.shape != expected.shape:
            raise ArraysError(f"array '{name}' has shape {array.shape}, expected {expected.shape}")
        if array.dtype != expected.dtype:
            raise ArraysError(f"array '{name}' has dtype {array.dtype}, expected {expected.dtype}")


def _check_names(found: AbstractSet[str], expected: AbstractSet[str]) -> None:
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing or extra:
        raise ArraysError(f"arrays have other names: missing {missing[:5]}, not expected {extra[:5]}")


def check_finite(arrays: Arrays) -> None:
    """Raise ``ArraysError`` if any floating-point array holds NaN or an infinity."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ArraysError(f"array '{name}' holds NaN or infinite values")


def check(arrays: Arrays, spec: Spec) -> None:
    """Check names, shapes, dtypes and finiteness; raise ``ArraysError`` on the first difference."""
    check_spec(arrays, spec)
    check_finite(arrays)


def norm(arrays: Arrays) -> float:
    """Return the L2 norm over all floating-point arrays, summed in float64; infinite if it overflows."""
    total = 0.0
    with np.errstate(over="ignore"):
        for array in arrays.values():
            if array.dtype.kind == "f":
                flat = array.reshape(-1).astype(np.float64)
                total += float(np.dot(flat, flat))
    return math.sqrt(total)


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


def spec_bytes(spec: Spec) -> int:
    """Return the payload size in bytes of arrays of ``spec``, without headers."""
    return sum(math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in spec.values())
