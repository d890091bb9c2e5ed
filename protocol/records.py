"""Messages ⇄ Flower's RecordDict: the one file that knows Flower's record types and keys."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray
from pydantic import ValidationError

from protocol.arrays import Arrays
from protocol.bounds import Frozen
from protocol.codec import Limits, decode, encode
from protocol.errors import ArraysError, MessageError, SealError, VersionError
from protocol.header import MAX_HEADER_BYTES
from protocol.messages import PROTOCOL_VERSION
from protocol.seal import SIGNATURE_BYTES, Seal

HEAD = "consilium"
ARRAYS = "arrays"
UPSTREAM = "upstream"
SEAL = "seal"
BLOB = "blob"
STYPE = "consilium.safetensors"
MAX_BODY_BYTES = 8 * 2**20
# What one message may carry at most, until the receiver knows the model and can say less.
MAX_ARRAY_BYTES = 4 * 2**30
_MAX_TYPE_LENGTH = 64
_NUM_PARTS = 6
_MAX_INLINE = 2**20
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


def parts_of(record: RecordDict) -> tuple[bytes, ...]:
    """Return what a seal binds of ``record``: all that ``unpack`` and ``attached`` will read, in one form.

    Returns:
        Protocol version, type, body, which blobs there are (one byte each), arrays, upstream arrays; b"" for
        a blob that is not there. No blob is copied.

    Raises:
        MessageError: it holds anything else, which no signature would cover.
    """
    if not set(record) <= {HEAD, ARRAYS, UPSTREAM} or not isinstance(head := record.get(HEAD), ConfigRecord):
        raise MessageError("not a Consilium message; nothing else can be sealed")
    version, kind, body = head.get("version"), head.get("type"), head.get("body")
    if set(head) != {"version", "type", "body"} or type(version) is not int or abs(version) >= 2**31:
        raise MessageError("message has another head than version, type and body")
    if not isinstance(kind, str) or len(kind) > _MAX_TYPE_LENGTH or not kind.isascii():
        raise MessageError("message has no type, or one that no message has")
    if not isinstance(body, bytes) or len(body) > MAX_BODY_BYTES:
        raise MessageError(f"message has no body, or one of more than {MAX_BODY_BYTES} bytes")
    blobs = [_blob(record[key]) if key in record else None for key in (ARRAYS, UPSTREAM)]
    present = bytes(blob is not None for blob in blobs)
    return (str(version).encode(), kind.encode(), body, present, *(blob or b"" for blob in blobs))


def record_of(parts: Sequence[bytes]) -> RecordDict:
    """Return the record whose ``parts_of`` these are.

    Raises:
        MessageError: they are none.
    """
    if len(parts) != _NUM_PARTS or len(parts[3]) != 2 or not set(parts[3]) <= {0, 1}:
        raise MessageError("not the parts of a message")
    version, kind, body, present, *blobs = parts
    try:
        head = ConfigRecord({"version": int(version), "type": kind.decode("ascii"), "body": bytes(body)})
    except ValueError:
        raise MessageError("not the parts of a message") from None
    found: dict[str, ConfigRecord | ArrayRecord | MetricRecord] = {HEAD: head}
    there = zip((ARRAYS, UPSTREAM), present, blobs, strict=True)
    return RecordDict(found | {key: _as_arrays(blob) for key, is_there, blob in there if is_there})


def with_seal(record: RecordDict, seal: Seal) -> RecordDict:
    """Return what travels of ``record`` and its seal.

    Flower sends each record of a message with a request of its own, an array with two: a short message is
    put into the one that holds the seal, and a long one keeps its arrays beside it.
    """
    sealed: dict[str, bytes] = {"header": seal.header, "signature": seal.signature}
    if wire_bytes(record) > _MAX_INLINE:
        return RecordDict({**record, SEAL: ConfigRecord(dict(sealed))})
    inline = b"".join(struct.pack(">I", len(part)) + part for part in parts_of(record))
    return RecordDict({SEAL: ConfigRecord({**sealed, "parts": inline})})


def take_seal(record: RecordDict) -> tuple[RecordDict, Seal]:
    """Return what travelled with a seal, and the seal; it is not checked yet (``protocol.seal``).

    Raises:
        SealError: there is none, or it is not a header and a signature of their sizes.
        MessageError: what it holds is no message.
    """
    if SEAL not in record:
        raise SealError("message has no seal; every party of a federation seals what it says", "missing")
    sealed = record[SEAL]
    keys = {"header", "signature"}
    if not isinstance(sealed, ConfigRecord) or set(sealed) not in (keys, keys | {"parts"}):
        raise SealError("seal is not a header and a signature", "form")
    header, signature = sealed["header"], sealed["signature"]
    if not isinstance(header, bytes) or not isinstance(signature, bytes):
        raise SealError("seal is not a header and a signature in bytes", "form")
    if len(header) > MAX_HEADER_BYTES or len(signature) != SIGNATURE_BYTES:
        raise SealError("seal has a header or a signature of another size than any", "form")
    rest = RecordDict({k: v for k, v in record.items() if k != SEAL})
    if "parts" in sealed:
        if rest:
            raise SealError("message stands in its seal and beside it", "form")
        rest = record_of(_split(sealed["parts"]))
    return rest, Seal(header, signature)


def _split(inline: object) -> list[bytes]:
    """Return the parts of a short message, each after its length of 4 bytes."""
    if not isinstance(inline, bytes) or len(inline) > 2 * MAX_BODY_BYTES:
        raise MessageError("not the parts of a message")
    found, at = list[bytes](), 0
    while at + 4 <= len(inline) and len(found) <= _NUM_PARTS:
        (length,) = struct.unpack_from(">I", inline, at)
        found.append(inline[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(inline):
        raise MessageError("not the parts of a message")
    return found


def pack_arrays(arrays: Arrays) -> ArrayRecord:
    """Return ``arrays`` as one opaque blob: a reply is one object, whatever the model."""
    return _as_arrays(encode(arrays))


def _as_arrays(blob: bytes) -> ArrayRecord:
    return ArrayRecord({BLOB: Array(dtype="uint8", shape=(len(blob),), stype=STYPE, data=blob)})


def unpack_arrays(record: object, limits: Limits = ANY_ARRAYS) -> dict[str, NDArray[Any]]:
    """Return the arrays of a record made by ``pack_arrays``; ``{}`` for None."""
    if record is None:
        if limits.spec:
            raise ArraysError(f"there are no arrays, expected {len(limits.spec)}")
        return {}
    return decode(_blob(record), limits)


def _blob(record: object) -> bytes:
    """Return the bytes of a record made by ``pack_arrays``; nothing else of it is read."""
    if not isinstance(record, ArrayRecord) or set(record) != {BLOB} or record[BLOB].stype != STYPE:
        raise MessageError("arrays are not one Consilium blob")
    data = record[BLOB].data
    if not isinstance(data, bytes):
        raise MessageError("arrays are not bytes")
    return data


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
