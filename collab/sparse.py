"""Statistics that are mostly zeros travel as indices and values.

The histograms of a metric have thousands of bins and a site dozens of rows: dense they were most
of what a small site sent.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import Arrays, Spec
from protocol.errors import ArraysError

_INDEX, _VALUE = "#index", "#value"
# An index (4 bytes) and a value (8) against one dense float64 (8): worth it below two thirds.
_WORTH = 2 / 3
_SMALLEST = 64


def compress(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Replace each large float64 array that is mostly zeros by ``NAME#index`` and ``NAME#value``."""
    packed: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        flat = array.reshape(-1)
        filled = np.flatnonzero(flat)
        if array.dtype == np.float64 and array.size > _SMALLEST and len(filled) < _WORTH * array.size:
            packed[name + _INDEX], packed[name + _VALUE] = filled.astype(np.int32), flat[filled]
        else:
            packed[name] = array
    return packed


def expand(arrays: Arrays, spec: Spec) -> dict[str, NDArray[Any]]:
    """Undo ``compress``; arrays that ``spec`` does not name stay as they are, for the caller to refuse.

    Raises:
        ArraysError: indices are not ascending within the array's size, or do not match their values.
    """
    dense = {name: a for name, a in arrays.items() if not name.endswith((_INDEX, _VALUE))}
    for name, wanted in spec.items():
        if name + _INDEX in arrays and name not in dense:
            dense[name] = _dense(name, arrays, wanted.shape)
    return dense


def _dense(name: str, arrays: Arrays, shape: tuple[int, ...]) -> NDArray[np.float64]:
    index, value = arrays[name + _INDEX], arrays.get(name + _VALUE)
    size = math.prod(shape)
    if value is None or index.dtype != np.int32 or value.dtype != np.float64 or index.ndim != 1:
        raise ArraysError(f"array '{name}' is not made of int32 indices and float64 values")
    ascending = bool((np.diff(index) > 0).all()) if len(index) > 1 else True
    if value.shape != index.shape or not ascending or (len(index) and not 0 <= index[0] <= index[-1] < size):
        raise ArraysError(f"array '{name}' has indices that are not ascending within {size}")
    flat = np.zeros(size)
    flat[index] = value
    return flat.reshape(shape)
