"""Named arrays as safetensors bytes, read only after the header has been checked.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian length of the header,
the JSON header, then the arrays' little-endian bytes, contiguous, without gaps.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import DTYPES, Arrays, ArraySpec, Spec, check_same, spec_bytes, spec_of
from protocol.errors import ArraysError, LimitError

MAX_HEADER_BYTES = 16 * 2**20
MAX_ARRAYS = 100_000
# What a site may send, unless what it is asked for needs more.
SENT_HEADER_BYTES = 64 * 2**10
SENT_ARRAYS = 4096
MAX_DIMENSIONS = 16
MAX_NAME = 500

_TO_WIRE = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "uint8": "U8",
    "int32": "I32",
    "int64": "I64",
}
_METADATA = "__metadata__"
_FROM_WIRE = {wire: np.dtype(name).newbyteorder("<") for name, wire in _TO_WIRE.items()}


@dataclass(frozen=True)
class Limits:
    """What a receiver reads at most. With ``spec`` it reads these very arrays, and no metadata."""

    num_bytes: int
    header_bytes: int = MAX_HEADER_BYTES
    arrays: int = MAX_ARRAYS
    spec: Spec | None = None


def exactly(spec: Spec) -> Limits:
    """Return the limits of a container that holds arrays of ``spec`` and nothing else."""
    header = max(SENT_HEADER_BYTES, len(_header_of(spec)))
    return Limits(8 + header + spec_bytes(spec), header, max(SENT_ARRAYS, len(spec)), spec)


def at_most(spec: Spec) -> Limits:
    """Return the limits of a container that holds some of ``spec``, each whole or as two that are smaller."""
    header = max(SENT_HEADER_BYTES, 3 * len(_header_of(spec)))
    return Limits(8 + header + spec_bytes(spec), header, max(SENT_ARRAYS, 2 * len(spec)))


def encode(arrays: Arrays) -> bytes:
    """Return ``arrays`` as safetensors bytes, sorted by name, with no metadata.

    The bytes depend on names, dtypes, shapes and values alone, so equal arrays give equal bytes.

    Raises:
        ArraysError: a dtype or a name that does not travel.
    """
    text = _header_of(spec_of(arrays))
    ordered = (np.asarray(arrays[name], order="C") for name in sorted(arrays))
    chunks = (array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for array in ordered)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def _header_of(spec: Spec) -> bytes:
    header: dict[str, Any] = {}
    offset = 0
    for name in sorted(spec):
        dtype, shape = spec[name].dtype, spec[name].shape
        _check_name(name)
        if dtype not in DTYPES:
            raise ArraysError(f"array '{name}' has dtype {dtype}; allowed: {', '.join(sorted(DTYPES))}")
        end = offset + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _TO_WIRE[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)  # the format asks for an aligned data section


def decode(data: bytes, limits: int | Limits) -> dict[str, NDArray[Any]]:
    """Return the arrays in ``data`` as read-only views, without copying.

    Args:
        data: what ``encode`` or another writer of safetensors made.
        limits: what is read at most; a number is that of bytes.

    Raises:
        LimitError: more bytes, a longer header or more arrays than that.
        ArraysError: a header that does not describe exactly the bytes that follow, or other arrays than
            those of the limits; a dtype that does not travel, or too many dimensions.
    """
    if isinstance(limits, int):
        limits = Limits(limits)
    if len(data) > limits.num_bytes:
        raise LimitError(f"arrays take {len(data)} bytes, more than the {limits.num_bytes} allowed here")
    if len(data) < 8:
        raise ArraysError("arrays are cut off: fewer than 8 bytes")
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise ArraysError("arrays have a header longer than the data")
    if length > limits.header_bytes:
        raise LimitError(f"arrays have a header longer than the {limits.header_bytes} bytes allowed here")
    entries = _header(data[8 : 8 + length], limits)
    body = memoryview(data)[8 + length :]
    arrays: dict[str, NDArray[Any]] = {}
    position = 0
    for name, dtype, shape, begin, end in sorted(entries, key=lambda e: (e[3], e[4])):
        size = dtype.itemsize * math.prod(shape)
        if begin != position or end - begin != size or end > len(body):
            raise ArraysError(f"array '{name}' does not lie where the header says")
        arrays[name] = _view(name, np.frombuffer(body[begin:end], dtype=dtype), shape)
        position = end
    if position != len(body):
        raise ArraysError("arrays are followed by bytes that the header does not name")
    return arrays


def _view(name: str, flat: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        return flat.reshape(shape)
    except ValueError:  # no element, and yet sides whose product no machine can count
        raise ArraysError(f"array '{name}' has a shape that is too large") from None


_Entry = tuple[str, "np.dtype[Any]", tuple[int, ...], int, int]


def _header(text: bytes, limits: Limits) -> list[_Entry]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)  # UTF-8, and no other encoding
    except (ValueError, RecursionError):
        raise ArraysError("arrays have a header that is not JSON with unique names") from None
    if not isinstance(header, dict):
        raise ArraysError("arrays have a header of another form")
    if len(header) > limits.arrays:
        raise LimitError(f"there are {len(header)} arrays, at most {limits.arrays} are read here")
    metadata = header.pop(_METADATA, None)
    entries = [_entry(name, value) for name, value in header.items()]
    if limits.spec is not None:
        if metadata is not None:
            raise ArraysError("arrays have metadata, which is not read here")
        found = {name: ArraySpec(shape, dtype.name) for name, dtype, shape, _, _ in entries}
        check_same(found, limits.spec)
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError
    return result


def _entry(name: str, value: object) -> _Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ArraysError("arrays have a header entry of another form")
    _check_name(name)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _FROM_WIRE:
        raise ArraysError("arrays have a dtype that does not travel")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS or not _naturals(offsets) or len(offsets) != 2:
        raise ArraysError("arrays have a shape or offset that is not a list of natural numbers")
    return name, _FROM_WIRE[dtype], tuple(shape), offsets[0], offsets[1]


def _check_name(name: str) -> None:
    """Refuse what would spoil a log line, a file or a digest, and safetensors' own key."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name == _METADATA:
        raise ArraysError(
            f"an array's name does not travel: printable, 1 to {MAX_NAME} characters, not {_METADATA}"
        )


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
