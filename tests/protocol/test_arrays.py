"""Named arrays: what is checked before anything reads them, and a digest that tells all apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocol.arrays import ArraySpec, check, check_finite, check_spec, digest, num_bytes, spec_of
from protocol.errors import ArraysError
from tests.protocol.array_cases import named_arrays, same_bits

laws = settings(deadline=None, max_examples=80, derandomize=True)
WEIGHTS: dict[str, NDArray[Any]] = {
    "layer.weight": np.ones((2, 3), np.float32),
    "layer.bias": np.zeros(3, np.float32),
}


@laws
@given(named_arrays())
def test_arrays_meet_their_own_spec(arrays: dict[str, NDArray[Any]]) -> None:
    """Whatever travels is accepted by the spec that was read off it."""
    check_spec(arrays, spec_of(arrays))


@laws
@given(named_arrays(), named_arrays())
def test_a_spec_accepts_nothing_else(mine: dict[str, NDArray[Any]], theirs: dict[str, NDArray[Any]]) -> None:
    """Arrays of another spec are refused, and those of an equal spec are not."""
    if spec_of(mine) == spec_of(theirs):
        check_spec(theirs, spec_of(mine))
    else:
        with pytest.raises(ArraysError):
            check_spec(theirs, spec_of(mine))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer.bias": None}, r"missing \['layer.bias'\]"),
        ({"extra": np.zeros(1, np.float32)}, r"not expected \['extra'\]"),
        ({"layer.bias": np.zeros((3, 1), np.float32)}, r"'layer.bias' has shape \(3, 1\), expected \(3,\)"),
        ({"layer.bias": np.zeros(3)}, "'layer.bias' has dtype float64, expected float32"),
        ({"layer.bias": np.zeros(3, ">f4")}, "'layer.bias' has dtype >f4, expected float32"),
    ],
)
def test_a_difference_is_named(change: dict[str, NDArray[Any] | None], says: str) -> None:
    """The error says which array differs, in what, and what was expected."""
    changed = {name: a for name, a in {**WEIGHTS, **change}.items() if a is not None}
    with pytest.raises(ArraysError, match=says):
        check_spec(changed, spec_of(WEIGHTS))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_enough(dtype: str, bad: float) -> None:
    """A single NaN or infinity anywhere is refused; the message names the array and no number."""
    arrays = {"w": np.zeros((3, 4), dtype)}
    check(arrays, {"w": ArraySpec((3, 4), dtype)})
    arrays["w"][2, 1] = bad
    with pytest.raises(ArraysError, match=r"^array 'w' holds NaN or infinite values$"):
        check(arrays, {"w": ArraySpec((3, 4), dtype)})


def test_whole_numbers_and_empty_arrays_are_finite() -> None:
    """Integers have no infinity, and nothing is not NaN."""
    check_finite({"i": np.array([np.iinfo(np.int64).min]), "none": np.zeros((0, 3))})


@laws
@given(named_arrays(), named_arrays())
def test_digests_are_equal_exactly_for_equal_arrays(
    a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]
) -> None:
    """Two sets of arrays share a digest if and only if names, dtypes, shapes and bytes are the same."""
    assert (digest(a) == digest(b)) == same_bits(a, b)


@laws
@given(named_arrays(), st.randoms(use_true_random=False))
def test_a_digest_sees_values_not_layout(arrays: dict[str, NDArray[Any]], order: Any) -> None:
    """Neither the order of the names nor the memory layout is in a digest."""
    names = list(arrays)
    order.shuffle(names)
    assert digest({n: np.asfortranarray(arrays[n]) for n in names if arrays[n].ndim}) == digest(
        {n: arrays[n] for n in names if arrays[n].ndim}
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": np.float32(1).reshape(())}, {"a": np.ones(1, np.float32)}),
        ({"a": np.zeros((0, 3))}, {"a": np.zeros((3, 0))}),
        ({"a": np.zeros(2, np.int32)}, {"a": np.zeros(1, np.int64)}),
        ({"a": np.zeros(1, np.int64)}, {"a": np.zeros(1, np.float64)}),
        ({"a": np.zeros(4)}, {"a": np.zeros((2, 2))}),
        ({"a": np.zeros(1), "b": np.ones(1)}, {"a": np.ones(1), "b": np.zeros(1)}),
        ({"ab": np.zeros(1, np.uint8)}, {"a": np.zeros(1, np.uint8)}),
    ],
)
def test_digests_tell_near_misses_apart(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> None:
    """What differs in a scalar's shape, an empty side, a dtype, a name or an order has another digest."""
    assert digest(one) != digest(other)


def test_the_digest_never_changes() -> None:
    """The digest is part of the protocol: sites of two releases must agree on it."""
    arrays: dict[str, NDArray[Any]] = {"b": np.array([[1, 2]], np.int32), "a": np.array(0.5, np.float64)}
    assert digest({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of no bytes
    assert digest(arrays) == GOLDEN


# printf 'a\0<f8\0()\0\0\0\0\0\0\0\xe0\x3fb\0<i4\0(1, 2)\0\1\0\0\0\2\0\0\0' | sha256sum
GOLDEN = "5170af2aa9a2c1b73201f5a3f7cc8609a0d6fa4035de1be5ffb68ba203a72088"


@laws
@given(named_arrays())
def test_bytes_are_counted(arrays: dict[str, NDArray[Any]]) -> None:
    """The payload is the sum of the elements' sizes."""
    assert num_bytes(arrays) == sum(len(a.tobytes()) for a in arrays.values())
