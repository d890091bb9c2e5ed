"""The header's canonical bytes: one form for one header, and every field within its bounds."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import MessageError
from protocol.header import MAX_HEADER_BYTES
from protocol.seal import Header, Seal, decode, digest
from tests.protocol.seal_cases import PARTS, World

laws = settings(deadline=None, max_examples=100, derandomize=True)
HEADER = Header(
    federation="clinic",
    run="r1",
    task="r1/3/tumour/north/1",
    kind="train.weights",
    sender="server",
    recipient="north",
    epoch=3,
    sequence=7,
    nonce=bytes(range(16)),
    issued_at_ms=1_800_000_000_000,
    expires_at_ms=1_800_000_600_000,
    body_bytes=12,
    body_digest=bytes(range(32)),
    answers=b"",
)
GOLDEN = (
    "00080000000000000001"
    "0006636c696e6963"
    "00027231"
    "001372312f332f74756d6f75722f6e6f7274682f31"
    "000d747261696e2e77656967687473"
    "0006736572766572"
    "00056e6f727468"
    "00080000000000000003"
    "00080000000000000007"
    "0010000102030405060708090a0b0c0d0e0f"
    "0008000001a3185c5000"
    "0008000001a3186577c0"
    "0008000000000000000c"
    "0020000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "0000"
    "00080000000000000001"
    "0000"
)


def test_the_form_is_frozen() -> None:
    """These bytes are what version 1 is, on every machine and in every release."""
    assert HEADER.encode().hex() == GOLDEN
    assert decode(bytes.fromhex(GOLDEN)) == HEADER
    assert digest([b"ab", b"c"])[1] == 3
    assert digest([b"ab", b""])[0].hex() == "8a8dd84be0ac81289d5876aeed03bf6a40f1dcddf46ac5837971a7b76c9bc581"


def test_the_signature_is_frozen() -> None:
    """Ed25519 is deterministic: this key signs this header so."""
    world = World()
    signature = world.key("server").sign(b"consilium/envelope/v1\0" + HEADER.encode())
    assert signature.hex() == (
        "4180e2c0768d518c09a5ba589d0b97cacd306a9c9ecdd75334c92f13b3879017"
        "665f7647a15bea0dbc5d5a5d6db810d065ab639892c9eb6f91907da1035d2c09"
    )
    made = HEADER.model_copy(update={"body_bytes": digest(PARTS)[1], "body_digest": digest(PARTS)[0]})
    signature = world.key("server").sign(b"consilium/envelope/v1\0" + made.encode())
    assert world.verifier().open(PARTS, Seal(made.encode(), signature)) == made


@laws
@given(st.binary(max_size=400))
def test_foreign_bytes_are_no_header(data: bytes) -> None:
    """Bytes are refused, or are the one form of what they decode to."""
    with suppress(MessageError):
        assert decode(data).encode() == data


@laws
@given(st.integers(0, len(GOLDEN) // 2 - 1), st.integers(0, 255))
def test_a_changed_header_is_another_one(at: int, value: int) -> None:
    """No byte can be changed without changing a field, so nothing in a header is unsigned or ambiguous."""
    data = bytearray.fromhex(GOLDEN)
    data[at] = value
    try:
        assert decode(bytes(data)).encode() == data
    except MessageError:
        assert bytes(data) != HEADER.encode()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("federation", "../clinic"),
        ("federation", ""),
        ("run", "a b"),
        ("task", "x" * 401),
        ("task", "é"),
        ("task", "a\nb"),
        ("kind", ""),
        ("sender", "n" * 65),
        ("epoch", 0),
        ("sequence", -1),
        ("body_bytes", 2**63),
        ("nonce", b"short"),
        ("body_digest", b""),
        ("answers", b"x" * 31),
        ("previous", b"x" * 33),
        ("version", 2),
    ],
)
def test_fields_have_bounds(field: str, value: object) -> None:
    """No header can be made, or read, with a field out of its bounds."""
    with pytest.raises(ValueError, match=field):
        Header.model_validate(HEADER.model_dump() | {field: value})
    if not isinstance(value, int):
        data = HEADER.model_copy(update={field: value})
        with pytest.raises((MessageError, UnicodeEncodeError)):
            decode(data.encode())


def test_the_longest_header_is_read() -> None:
    """Every header that can be made is short enough to be read."""
    name = "n" * 64
    names = dict.fromkeys(("federation", "run", "kind", "sender", "recipient"), name)
    longest = HEADER.model_copy(
        update={**names, "task": "t" * 400, "answers": b"a" * 32, "previous": b"p" * 32}
    )
    assert decode(longest.encode()) == longest
    assert len(longest.encode()) < MAX_HEADER_BYTES


@laws
@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_other_parts_have_another_digest(one: list[bytes], other: list[bytes]) -> None:
    """Where a part ends matters: concatenation does not hide it."""
    assert (digest(one) == digest(other)) == (one == other)
