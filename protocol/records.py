"""Messages ⇄ Flower's RecordDict: the one file that knows Flower's record types and keys."""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from pydantic import ValidationError

from protocol.arrays import Arrays
from protocol.bounds import Frozen
from protocol.codec import Limits, decode, encode
from protocol.errors import ArraysError, MessageError, VersionError
from protocol.messages import PROTOCOL_VERSION

HEAD = "consilium"
ARRAYS = "arrays"
UPSTREAM = "upstream"
BLOB = "blob"
STYPE = "consilium.safetensors"
MAX_BODY_BYTES = 8 * 2**20
# What one message may carry at most, until the receiver knows the model and can say less.
MAX_ARRAY_BYTES = 4 * 2**30
ANY_ARRAYS: Final = Limits(MAX_ARRAY_BYTES)

M = TypeVar("M", bound=Frozen)


def pack(message: Frozen, arrays: Arrays | None = None) -> RecordDict:
    """Return the record of ``message`` and, beside it, ``arrays`` as one blob.

    Raises:
        MessageError: the message is longer than anybody would read.
    """
    body = message.model_dump_json().encode()
    if len(body) > MAX_BODY_BYTES:
        raise MessageError(
            f"{type(message).__name__} would have {len(body)} bytes beside its arrays, at most "
            f"{MAX_BODY_BYTES} are read: fewer or shorter labels, groups or columns"
        )
    head = ConfigRecord(
        {
            "version": PROTOCOL_VERSION,
            "type": type(message).__name__,
            "body": body,
        }
    )
    if arrays is None:
        return RecordDict({HEAD: head})
    return RecordDict({HEAD: head, ARRAYS: pack_arrays(arrays)})


def unpack(
    record: RecordDict, expected: type[M], limits: Limits = ANY_ARRAYS, max_body_bytes: int = MAX_BODY_BYTES
) -> tuple[M, dict[str, NDArray[Any]]]:
    """Return the message of type ``expected`` in ``record``, and its arrays ({} if it has none).

    Raises:
        VersionError: it was packed by another protocol version.
        MessageError: it is not a message of that type, a field is out of bounds or stands twice, or it
            is longer than ``max_body_bytes``.
        ArraysError: its arrays are not what their header says, or not within ``limits``.
    """
    message = unpack_message(record, expected, max_body_bytes)
    return message, unpack_arrays(record.get(ARRAYS), limits)


def unpack_message(record: RecordDict, expected: type[M], max_body_bytes: int = MAX_BODY_BYTES) -> M:
    """Return the message of type ``expected``, its arrays not looked at; raises as ``unpack``."""
    if not set(record) <= {HEAD, ARRAYS} or not isinstance(head := record.get(HEAD), ConfigRecord):
        raise MessageError(f"not a Consilium message; expected {expected.__name__}")
    version, kind, body = head.get("version"), head.get("type"), head.get("body")
    if version != PROTOCOL_VERSION or type(version) is not int:
        raise VersionError(
            f"protocol version {version!r:.20} cannot be read here; expected {PROTOCOL_VERSION}"
        )
    if kind != expected.__name__:
        raise MessageError(f"message of type {kind!r:.40}; expected {expected.__name__}")
    if not isinstance(body, bytes) or len(body) > max_body_bytes:
        raise MessageError(f"{expected.__name__} has no body, or one of more than {max_body_bytes} bytes")
    try:
        # Strict: true, "5" and 5.0 are no whole numbers. It also bounds the depth of what is read next.
        message = expected.model_validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise MessageError(f"{expected.__name__}: field {where[:100]!r}: {first['msg']:.200}") from None
    _check_unique(body, expected.__name__)
    return message


def _check_unique(body: bytes, name: str) -> None:
    """Refuse a key that stands twice: two readers might each take another one of them."""
    try:
        json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise MessageError(f"{name}: a field stands twice in it, or it is not plain JSON") from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError


def attach(record: RecordDict, arrays: Arrays) -> RecordDict:
    """Return ``record`` with the arrays of upstream models beside its own, as ``SUBTASK/NAME``."""
    return RecordDict({**record, UPSTREAM: pack_arrays(arrays)})


def detach(record: RecordDict) -> RecordDict:
    """Return ``record`` without what was attached to it."""
    return RecordDict({key: value for key, value in record.items() if key != UPSTREAM})


def attached(record: RecordDict) -> dict[str, NDArray[Any]]:
    """Return the arrays that were attached to ``record``, {} for none; raises as ``unpack``."""
    return unpack_arrays(record.get(UPSTREAM))


def pack_arrays(arrays: Arrays) -> ArrayRecord:
    """Return ``arrays`` as one opaque blob: a reply is one object, whatever the model."""
    blob = encode(arrays)
    return ArrayRecord({BLOB: Array(dtype="uint8", shape=(len(blob),), stype=STYPE, data=blob)})


def unpack_arrays(record: object, limits: Limits = ANY_ARRAYS) -> dict[str, NDArray[Any]]:
    """Return the arrays of a record made by ``pack_arrays``; ``{}`` for None."""
    if record is None:
        if limits.spec:
            raise ArraysError(f"there are no arrays, expected {len(limits.spec)}")
        return {}
    if not isinstance(record, ArrayRecord) or set(record) != {BLOB} or record[BLOB].stype != STYPE:
        raise MessageError("arrays are not one Consilium blob")
    data = record[BLOB].data
    if not isinstance(data, bytes):
        raise MessageError("arrays are not bytes")
    return decode(data, limits)


def wire_bytes(record: RecordDict) -> int:
    """Return the payload of ``record`` in bytes: body and blobs, without Flower's own headers."""
    total = 0
    head = record.get(HEAD)
    if isinstance(head, ConfigRecord) and isinstance(head.get("body"), bytes):
        total += len(head["body"])  # type: ignore[arg-type]
    for key in (ARRAYS, UPSTREAM):
        arrays = record.get(key)
        if isinstance(arrays, ArrayRecord):
            total += sum(len(array.data) for array in arrays.values())
    return total
