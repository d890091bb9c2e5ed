"""Named arrays as safetensors bytes, read only after the header has been checked.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian length of the header,
the JSON header, then the arrays' little-endian bytes, contiguous, without gaps.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import DTYPES, Arrays
from protocol.errors import ArraysError

MAX_HEADER_BYTES = 16 * 2**20
MAX_ARRAYS = 100_000
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


def encode(arrays: Arrays) -> bytes:
    """Return ``arrays`` as safetensors bytes, sorted by name, with no metadata.

    The bytes depend on names, dtypes, shapes and values alone, so equal arrays give equal bytes.

    Raises:
        ArraysError: a dtype or a name that does not travel.
    """
    header: dict[str, Any] = {}
    chunks: list[bytes] = []
    offset = 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        _check_name(name)
        if str(array.dtype) not in DTYPES:
            raise ArraysError(f"array '{name}' has dtype {array.dtype}; allowed: {', '.join(sorted(DTYPES))}")
        raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {
            "dtype": _TO_WIRE[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        chunks.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for an aligned data section
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def decode(data: bytes, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Return the arrays in ``data`` as read-only views, without copying.

    Raises:
        ArraysError: more than ``max_bytes``, a header that does not describe exactly the bytes
            that follow, a dtype that does not travel, or too many arrays or dimensions.
    """
    if len(data) > max_bytes:
        raise ArraysError(f"arrays take {len(data)} bytes, more than the {max_bytes} allowed here")
    if len(data) < 8:
        raise ArraysError("arrays are cut off: fewer than 8 bytes")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ArraysError("arrays have a header longer than the data")
    entries = _header(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    arrays: dict[str, NDArray[Any]] = {}
    position = 0
    for name, dtype, shape, begin, end in sorted(entries, key=lambda e: (e[3], e[4])):
        size = dtype.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
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


def _header(text: bytes) -> list[_Entry]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)  # UTF-8, and no other encoding
    except (ValueError, RecursionError):
        raise ArraysError("arrays have a header that is not JSON with unique names") from None
    if not isinstance(header, dict) or len(header) > MAX_ARRAYS:
        raise ArraysError("arrays have a header of another form")
    header.pop(_METADATA, None)
    return [_entry(name, value) for name, value in header.items()]


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
