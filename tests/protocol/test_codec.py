"""Arrays as bytes: the same both ways, and safetensors exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file

from protocol.codec import MAX_NAME, decode, encode
from protocol.errors import ArraysError
from tests.protocol.array_cases import named_arrays, same_bits

laws = settings(deadline=None, max_examples=80, derandomize=True)
PLENTY = 2**20


@laws
@given(named_arrays())
def test_what_is_encoded_is_decoded(arrays: dict[str, NDArray[Any]]) -> None:
    """Names, dtypes, shapes and bits come back, in order of name."""
    found = decode(encode(arrays), PLENTY)
    assert same_bits(found, arrays)
    assert encode(found) == encode(arrays)


@laws
@given(named_arrays())
def test_safetensors_reads_what_we_write(arrays: dict[str, NDArray[Any]]) -> None:
    """The bytes are a safetensors file to the library that defines the format."""
    assert same_bits(safetensors.numpy.load(encode(arrays)), arrays)


@laws
@given(named_arrays())
def test_we_read_what_safetensors_writes(arrays: dict[str, NDArray[Any]]) -> None:
    """A file of the library, which has another order of arrays and may have metadata, is read."""
    whole = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    assert same_bits(decode(safetensors.numpy.save(whole, {"format": "np"}), PLENTY), arrays)


@laws
@given(named_arrays(), st.randoms(use_true_random=False))
def test_equal_arrays_give_equal_bytes(arrays: dict[str, NDArray[Any]], order: Any) -> None:
    """Neither the order of the names nor a stride shows in the bytes."""
    names = list(arrays)
    order.shuffle(names)
    strided = {n: np.repeat(arrays[n][..., None], 2, axis=-1)[..., 0] for n in names}
    assert encode(strided) == encode(arrays)


def test_golden_bytes() -> None:
    """The layout on the wire, written out: length, header, padding to 8, then the arrays without gaps."""
    header = (
        '{"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        '"n":{"dtype":"I64","shape":[],"data_offsets":[8,16]},'
        '"z":{"dtype":"U8","shape":[0,3],"data_offsets":[16,16]}}'
    )
    assert len(header) == 163
    golden = (
        bytes.fromhex("a8 00 00 00 00 00 00 00")  # 168: the header and five spaces
        + header.encode()
        + b"     "
        + bytes.fromhex("00 00 80 3f  00 00 00 c0")  # 1.0, -2.0 as little-endian float32
        + bytes.fromhex("fe ff ff ff ff ff ff ff")  # -2 as little-endian int64
    )
    arrays: dict[str, NDArray[Any]] = {
        "z": np.zeros((0, 3), np.uint8),
        "n": np.array(-2, np.int64),
        "b": np.array([1, -2], np.float32),
    }
    assert encode(arrays) == golden
    assert same_bits(decode(golden, PLENTY), arrays)
    assert encode({}) == bytes.fromhex("08 00 00 00 00 00 00 00") + b"{}      "


@pytest.mark.parametrize(
    ("dtype", "wire"),
    [
        ("float16", "F16"),
        ("float32", "F32"),
        ("float64", "F64"),
        ("int8", "I8"),
        ("uint8", "U8"),
        ("int32", "I32"),
        ("int64", "I64"),
    ],
)
def test_every_dtype_has_its_code(dtype: str, wire: str) -> None:
    """A dtype's name on the wire is the format's own."""
    assert f'"dtype":"{wire}"'.encode() in encode({"a": np.zeros(1, dtype)})


@pytest.mark.parametrize("dtype", ["complex64", "bool", "uint16", ">f4", "U3", "O", "datetime64[s]"])
def test_other_dtypes_do_not_travel(dtype: str) -> None:
    """An array of another dtype is refused by name; above all one of objects."""
    with pytest.raises(ArraysError, match="array 'odd' has dtype"):
        encode({"odd": np.zeros(1, dtype)})


def test_the_longest_name_travels() -> None:
    """The bound on names is where it is said to be."""
    assert list(decode(encode({"x" * MAX_NAME: np.zeros(1)}), PLENTY)) == ["x" * MAX_NAME]


def test_more_bytes_than_allowed_are_refused() -> None:
    """The receiver's own limit comes first, to the byte."""
    data = encode({"a": np.zeros(10)})
    assert decode(data, len(data)).keys() == {"a"}
    with pytest.raises(
        ArraysError, match=f"arrays take {len(data)} bytes, more than the {len(data) - 1} allowed"
    ):
        decode(data, len(data) - 1)


def test_arrays_are_views_that_nobody_can_write() -> None:
    """Decoding copies no array, and a receiver cannot change what was signed and digested."""
    arrays = decode(encode({"a": np.zeros(1000)}), PLENTY)
    assert not arrays["a"].flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        arrays["a"][0] = 1


def test_torch_reads_the_same_file(tmp_path: Path) -> None:
    """A model written by the codec loads in torch with safetensors' own reader."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode({"w": np.arange(6, dtype=np.float32).reshape(2, 3)}))
    assert torch.equal(load_file(path)["w"], torch.arange(6, dtype=torch.float32).reshape(2, 3))
