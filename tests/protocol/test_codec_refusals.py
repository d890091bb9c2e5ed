"""Bytes that are not arrays: refused with ``ArraysError``, and nothing else ever happens."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import SafetensorError

from protocol.codec import MAX_DIMENSIONS, decode, encode
from protocol.errors import ArraysError
from tests.protocol.array_cases import same_bits

laws = settings(deadline=None, max_examples=80, derandomize=True)
PLENTY = 2**20


def blob(header: str | bytes, body: bytes = b"") -> bytes:
    """A header, whatever it says, before a body."""
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: str = '"U8"', shape: str = "[4]", offsets: str = "[0,4]", name: str = "a") -> str:
    """One header entry as JSON text."""
    return f'"{name}":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


def accepted(data: bytes) -> dict[str, NDArray[Any]] | None:
    """What ``decode`` returns, or None if it refused; anything but ``ArraysError`` fails the test."""
    try:
        return decode(data, PLENTY)
    except ArraysError:
        return None


@pytest.mark.parametrize(
    "name", ["", "__metadata__", "a\nb", "a\0b", "\x1b[31m", "\ud800", "\u202e", "x" * 501]
)
def test_other_names_do_not_travel(name: str) -> None:
    """A name that would spoil a log, a digest or the format itself is refused on both ways."""
    with pytest.raises(ArraysError, match="name does not travel"):
        encode({name: np.zeros(4, np.uint8)})
    escaped = "".join(f"\\u{ord(c):04x}" for c in name)
    assert accepted(blob("{" + entry(name=escaped) + "}", bytes(4))) is None


@pytest.mark.parametrize(
    ("header", "body"),
    [
        pytest.param("{" + entry() + "}", b"123", id="cut off"),
        pytest.param("{" + entry() + "}", b"12345", id="trailing bytes"),
        pytest.param("{}", b"1", id="bytes of nobody"),
        pytest.param("{" + entry() + "," + entry(name="b", offsets="[2,6]") + "}", bytes(6), id="overlap"),
        pytest.param(
            "{" + entry() + "," + entry(name="b", offsets="[0,4]") + "}", bytes(4), id="shared bytes"
        ),
        pytest.param("{" + entry() + "," + entry(name="b", offsets="[5,9]") + "}", bytes(9), id="gap"),
        pytest.param("{" + entry(offsets="[1,5]") + "}", bytes(5), id="gap at the start"),
        pytest.param("{" + entry() + "," + entry(offsets="[4,8]") + "}", bytes(8), id="duplicate name"),
        pytest.param(
            '{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(4), id="dup key"
        ),
        pytest.param("{" + entry(offsets="[4,0]") + "}", bytes(4), id="backwards"),
        pytest.param("{" + entry(offsets="[-4,0]") + "}", bytes(4), id="negative offset"),
        pytest.param("{" + entry(offsets="[false,4]") + "}", bytes(4), id="bool offset"),
        pytest.param("{" + entry(offsets="[0.0,4]") + "}", bytes(4), id="float offset"),
        pytest.param("{" + entry(offsets='["0",4]') + "}", bytes(4), id="text offset"),
        pytest.param("{" + entry(offsets="[0,4,4]") + "}", bytes(4), id="three offsets"),
        pytest.param("{" + entry(offsets="[0]") + "}", bytes(4), id="one offset"),
        pytest.param("{" + entry(offsets="null") + "}", bytes(4), id="no offsets"),
        pytest.param("{" + entry(offsets=f"[0,{2**64}]") + "}", bytes(4), id="huge offset"),
        pytest.param("{" + entry(offsets=f"[0,{2**64 + 4}]") + "}", bytes(4), id="offset that wraps"),
        pytest.param(
            "{" + entry(offsets="[0," + "9" * 5000 + "]") + "}", bytes(4), id="offset too long to parse"
        ),
        pytest.param("{" + entry(shape="[-4]") + "}", bytes(4), id="negative side"),
        pytest.param("{" + entry(shape="[-2,-2]") + "}", bytes(4), id="negative sides"),
        pytest.param("{" + entry(shape="[true,4]") + "}", bytes(4), id="bool side"),
        pytest.param("{" + entry(shape="[NaN]") + "}", bytes(4), id="NaN side"),
        pytest.param("{" + entry(shape="4") + "}", bytes(4), id="shape no list"),
        pytest.param("{" + entry(shape=f"[4,{2**62},4]") + "}", bytes(4), id="size that wraps to 0"),
        pytest.param("{" + entry('"F32"', f"[0,{2**63 - 1}]", "[0,0]") + "}", b"", id="uncountable nothing"),
        pytest.param("{" + entry(shape="[" + "1," * MAX_DIMENSIONS + "4]") + "}", bytes(4), id="dimensions"),
        pytest.param("{" + entry(dtype='"F32"') + "}", bytes(4), id="dtype of another size"),
        pytest.param(
            "{" + entry(dtype='"BF16"', shape="[2]") + "}", bytes(4), id="dtype that does not travel"
        ),
        pytest.param("{" + entry(dtype='"u8"') + "}", bytes(4), id="dtype in lower case"),
        pytest.param("{" + entry(dtype='["U8"]') + "}", bytes(4), id="dtype no text"),
        pytest.param("{" + entry(dtype="null") + "}", bytes(4), id="no dtype"),
        pytest.param('{"a":{"dtype":"U8","shape":[4]}}', bytes(4), id="key missing"),
        pytest.param("{" + entry()[:-1] + ',"more":1}}', bytes(4), id="key more"),
        pytest.param('{"a":NaN}', b"", id="NaN"),
        pytest.param('{"a":[]}', b"", id="entry no object"),
        pytest.param("[]", b"", id="header no object"),
        pytest.param("", b"", id="no header"),
        pytest.param("{" + entry(), bytes(4), id="JSON cut off"),
        pytest.param("[" * 100_000, b"", id="deep JSON"),
        pytest.param('{"a":' * 50_000, b"", id="deep objects"),
        pytest.param(("{" + entry() + "}").encode("utf-16"), bytes(4), id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf{" + entry().encode() + b"}", bytes(4), id="byte order mark"),
        pytest.param(b'{"\xff":1}', b"", id="not UTF-8"),
        pytest.param("{" + ",".join(f'"{i}":0' for i in range(100_001)) + "}", b"", id="too many arrays"),
    ],
)
def test_a_malformed_header_is_refused(header: str | bytes, body: bytes) -> None:
    """A header that does not describe exactly the bytes behind it gives nothing but ``ArraysError``."""
    with pytest.raises(ArraysError) as caught:
        decode(blob(header, body), 2**22)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("data", [b"", b"1234567", (2**63).to_bytes(8, "little"), b"\xff" * 8, b"\xff" * 100])
def test_a_length_beyond_the_data_is_refused(data: bytes) -> None:
    """The first eight bytes may claim anything; what is there counts."""
    assert accepted(data) is None


@pytest.mark.parametrize(
    "text",
    [
        "{" + entry(shape=f"[{2**40}]", offsets=f"[0,{2**40}]") + "}",
        "{" + entry(dtype='"F64"', shape=f"[{2**31},{2**31}]", offsets=f"[0,{2**62}]") + "}",
        "{" + entry(shape=f"[{2**62},0]", offsets="[0,0]") + "}",
    ],
)
def test_a_claim_allocates_nothing(text: str) -> None:
    """Sizes that a header claims are compared before anything of that size is made."""
    data = blob(text, bytes(64))
    tracemalloc.start()
    assert accepted(data) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1024


@laws
@given(st.binary(max_size=200))
def test_random_bytes_never_surprise(data: bytes) -> None:
    """Bytes from anywhere are arrays or an ``ArraysError``, also behind a plausible length."""
    accepted(data)
    accepted(blob(data, data))


def test_a_flipped_byte_never_surprises() -> None:
    """Change any byte of a message to anything near: it is refused, or read as safetensors reads it."""
    data = encode({"a": np.array([1.5, -2], np.float32), "b": np.arange(3, dtype=np.int64)})
    kept = 0
    for position in range(len(data)):
        for value in {data[position] ^ bit for bit in (1, 2, 8, 32, 128)} | {0, 34, 255}:
            changed = data[:position] + bytes([value]) + data[position + 1 :]
            kept += agrees_with_safetensors(changed)
    assert kept > 100  # every change of an element at least


@laws
@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.tuples(
            st.sampled_from(["U8", "F32", "I64", "F16", "BF16", "BOOL"]),
            st.lists(st.integers(0, 3), max_size=3),
            st.lists(st.integers(-1, 12), min_size=1, max_size=3),
        ),
        max_size=2,
    ),
    st.binary(max_size=16),
)
def test_made_up_headers_are_read_as_safetensors_reads_them(
    claims: dict[str, tuple[str, list[int], list[int]]], body: bytes
) -> None:
    """Whatever a header of the right form claims, we accept no more than the library does."""
    text = ",".join(entry(f'"{d}"', str(s), str(o), name=n) for n, (d, s, o) in claims.items())
    agrees_with_safetensors(blob("{" + text + "}", body))


def agrees_with_safetensors(data: bytes) -> bool:
    """Whether ``data`` is accepted; if so, the library must read the same arrays."""
    found = accepted(data)
    if found is None:
        return False
    try:
        assert same_bits(found, safetensors.numpy.load(data))
    except SafetensorError as error:
        raise AssertionError(f"accepted what safetensors refuses ({error}): {data!r}") from None
    return True
