"""The header of a sealed message and its canonical bytes: what a signature says of a message.

Every field is a length (2 bytes, big-endian) and that many bytes, in the order of the class; a number is 8
bytes, big-endian. So one header has one form, and every byte of a form means something.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from protocol.bounds import Frozen, Name
from protocol.errors import MessageError

MAX_HEADER_BYTES = 4096
DIGEST_BYTES = 32
NONCE_BYTES = 16
_BODY_DOMAIN = b"consilium/body/v1\0"
_NUMBER_BYTES = 8

Number = Annotated[int, Field(ge=0, lt=2**63)]
Run = Name | Literal[""]
About = Annotated[str, StringConstraints(pattern=r"^[ -~]*$", max_length=400)]
Digest = Annotated[bytes, Field(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class Header(Frozen):
    """What is signed. The body itself is bound by its length and digest.

    Attributes:
        version: of this form.
        federation: whose roster holds.
        run: the run that it belongs to, "" for none.
        task: the assignment id, or what else the message is about.
        kind: the message's type, such as ``train.weights``.
        sender: who signed: a site's name, or ``server``.
        recipient: for whom it is: a site's name, or ``server``.
        epoch: of the roster by which it was signed.
        sequence: counts what its sender has sealed since it was started.
        nonce: 16 random bytes; a message is accepted once.
        issued_at_ms: Unix time in ms.
        expires_at_ms: Unix time in ms; after it nobody accepts the message.
        body_bytes: the sum of the lengths of the parts.
        body_digest: ``digest`` of the parts.
        answers: the body digest of the message that this one answers, b"" for a request.
        lease: the number of the server's process that works on the run. One that was replaced has a lower
            number, and sites no longer heed it.
        previous: names the version of the site's memory of the run (``protocol.work.work_name``): in a
            question the one that the site starts from, in its result the one that it has now; b"" for the
            memory of a run that begins, which is empty, and for what is neither.
    """

    version: Literal[1] = 1
    federation: Name
    run: Run
    task: About
    kind: Name
    sender: Name
    recipient: Name
    epoch: Annotated[int, Field(ge=1, lt=2**63)]
    sequence: Number
    nonce: Annotated[bytes, Field(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    issued_at_ms: Number
    expires_at_ms: Number
    body_bytes: Number
    body_digest: Digest
    answers: Digest | Literal[b""] = b""
    lease: Annotated[int, Field(ge=1, lt=2**63)] = 1
    previous: Digest | Literal[b""] = b""

    def encode(self) -> bytes:
        """Return the canonical bytes, at most ``MAX_HEADER_BYTES`` by the bounds of the fields."""
        fields = [_to_bytes(getattr(self, name)) for name in type(self).model_fields]
        return b"".join(struct.pack(">H", len(field)) + field for field in fields)


def decode(data: bytes) -> Header:
    """Return the header in ``data``; its ``encode`` gives ``data`` again.

    Raises:
        MessageError: it is longer than a header can be, cut off, has bytes too many or a field out of bounds.
    """
    if len(data) > MAX_HEADER_BYTES:
        raise MessageError(f"header of {len(data)} bytes; at most {MAX_HEADER_BYTES} are read")
    fields = _split(data)
    names = list(Header.model_fields)
    if len(fields) != len(names):
        raise MessageError(f"header has {len(fields)} fields, expected {len(names)}")
    values = {name: _from_bytes(name, field) for name, field in zip(names, fields, strict=True)}
    return checked(values)


def checked(values: Mapping[str, object]) -> Header:
    """Return the header of these values; raise ``MessageError`` for one that is out of bounds."""
    try:
        return Header.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise MessageError(f"header: field {first['loc'][0]!r}: {first['msg']:.200}") from None


def digest(parts: Sequence[bytes]) -> tuple[bytes, int]:
    """Return the SHA-256 of the parts, each after its length (8 bytes), and the sum of their lengths.

    Other parts give another digest, also where their concatenation is the same.
    """
    found = hashlib.sha256(_BODY_DOMAIN)
    total = 0
    for part in parts:
        found.update(struct.pack(">Q", len(part)))
        found.update(part)
        total += len(part)
    return found.digest(), total


def _split(data: bytes) -> list[bytes]:
    """Return the length-prefixed fields of ``data``, which must end where the last one does."""
    fields = []
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise MessageError("header is cut off in a length")
        (length,) = struct.unpack_from(">H", data, at)
        at += 2
        if at + length > len(data):
            raise MessageError("header is cut off in a field")
        fields.append(data[at : at + length])
        at += length
    return fields


_NUMBERS = frozenset(
    {"version", "epoch", "sequence", "issued_at_ms", "expires_at_ms", "body_bytes", "lease"},
)
_BYTES = frozenset({"nonce", "body_digest", "answers", "previous"})


def _to_bytes(value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return value.to_bytes(_NUMBER_BYTES, "big")
    return value.encode("ascii") if isinstance(value, str) else value


def _from_bytes(name: str, field: bytes) -> int | str | bytes:
    if name in _BYTES:
        return field
    if name in _NUMBERS:
        if len(field) != _NUMBER_BYTES:
            raise MessageError(f"header: {name} has {len(field)} bytes, expected {_NUMBER_BYTES}")
        return int.from_bytes(field, "big")
    try:
        return field.decode("ascii")
    except UnicodeDecodeError:
        raise MessageError(f"header: {name} is not ASCII") from None
