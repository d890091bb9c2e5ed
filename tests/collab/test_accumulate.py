"""The accumulator: a weighted mean in flat memory, exact where sites agree, never silently wrong."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from collab.aggregation.accumulate import Accumulator
from protocol.errors import ArraysError, RunError


def _contribution(seed: int) -> dict[str, NDArray[Any]]:
    """Read-only arrays of every dtype, contiguous or not, one of them a counter."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {
        "weight": rng.normal(size=(7, 5)).astype(np.float32),
        "transposed": rng.normal(size=(5, 7)).astype(np.float32).T,
        "half": rng.normal(size=4).astype(np.float16),
        "double": rng.normal(size=(2, 3)),
        "scale": np.array(rng.normal(), np.float32),
        "counter": rng.integers(0, 100, 1),
    }
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _mean(contributions: list[dict[str, NDArray[Any]]], weights: list[int]) -> dict[str, NDArray[Any]]:
    accumulator = Accumulator(contributions[0])
    for arrays, weight in zip(contributions, weights, strict=True):
        accumulator.add(arrays, float(weight))
    return accumulator.mean()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(seed=st.integers(0, 2**32), weights=st.lists(st.integers(1, 10_000), min_size=1, max_size=8))
def test_the_accumulator_is_numpys_weighted_average(seed: int, weights: list[int]) -> None:
    """The running mean is numpy's average in float64 to 1e-6 of the largest entry (float16: to its own)."""
    contributions = [_contribution(seed + i) for i in range(len(weights))]
    found = _mean(contributions, weights)
    for name in set(found) - {"counter"}:
        stacked = np.stack([arrays[name].astype(np.float64) for arrays in contributions])
        expected = np.average(stacked, axis=0, weights=weights)
        tolerance = (1e-3 if name == "half" else 1e-6) * np.abs(stacked).max()
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_array_equal(found["counter"], contributions[0]["counter"])


def test_half_precision_accumulates_in_single() -> None:
    """Ten thousand contributions, whose late steps float16 alone would round away, are all counted."""
    accumulator = Accumulator({"a": np.zeros(1, np.float16)})
    for value in (0.0, 1.0) * 5000:
        accumulator.add({"a": np.array([value], np.float16)}, 1.0)
    np.testing.assert_allclose(accumulator.mean()["a"], [0.5], rtol=1e-3)


def test_large_arrays_go_block_by_block() -> None:
    """An array longer than a block, and not a multiple of it, is averaged to its last element."""
    rng = np.random.default_rng(0)
    contributions = [{"a": rng.normal(size=200_001).astype(np.float32)} for _ in range(3)]
    found = _mean(contributions, [1, 2, 3])["a"]
    expected = np.average([c["a"].astype(np.float64) for c in contributions], axis=0, weights=[1, 2, 3])
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_adding_allocates_nothing_that_grows() -> None:
    """Memory after the first contribution does not grow with the number of sites, nor peak by an array."""
    arrays = {"a": np.ones(1_000_000, np.float32)}
    accumulator = Accumulator(arrays)
    accumulator.add(arrays, 1.0)
    tracemalloc.start()
    for _ in range(20):
        accumulator.add(arrays, 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000  # an array is 4,000,000 bytes


def test_the_mean_is_a_copy() -> None:
    """What the accumulator returned does not change when more is added."""
    accumulator = Accumulator({"a": np.zeros(2, np.float32)})
    accumulator.add({"a": np.ones(2, np.float32)}, 1.0)
    before = accumulator.mean()["a"]
    accumulator.add({"a": np.zeros(2, np.float32)}, 1.0)
    np.testing.assert_array_equal(before, [1.0, 1.0])


def test_nothing_to_average_raises() -> None:
    """No contribution, or only contributions of weight 0, is an error and never NaN."""
    accumulator = Accumulator({"a": np.zeros(2, np.float32)})
    with pytest.raises(RunError, match="weight"):
        accumulator.mean()
    accumulator.add({"a": np.ones(2, np.float32)}, 0.0)
    with pytest.raises(RunError, match="weight"):
        accumulator.mean()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_bad_weight_is_refused_and_leaves_no_trace(weight: float) -> None:
    """A negative, NaN or infinite weight raises, and what was added before stands."""
    accumulator = Accumulator({"a": np.zeros(2, np.float32)})
    accumulator.add({"a": np.ones(2, np.float32)}, 1.0)
    with pytest.raises(ArraysError, match="weight"):
        accumulator.add({"a": np.zeros(2, np.float32)}, weight)
    np.testing.assert_array_equal(accumulator.mean()["a"], [1.0, 1.0])


@pytest.mark.parametrize(
    "foreign", [{"b": np.zeros(2)}, {"a": np.zeros(3)}, {"a": np.zeros(2, np.float32)}], ids=str
)
def test_foreign_contributions_are_refused(foreign: dict[str, NDArray[Any]]) -> None:
    """Other names, shapes or dtypes raise instead of broadcasting."""
    with pytest.raises(ArraysError):
        Accumulator({"a": np.zeros(2)}).add(foreign, 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_mean_that_is_not_finite_is_refused(value: float) -> None:
    """NaN or infinity that slipped through earlier checks ends in an error, not in the model."""
    accumulator = Accumulator({"a": np.zeros(2, np.float32)})
    for entry in (value, 1.0, -value):
        accumulator.add({"a": np.full(2, entry, np.float32)}, 1.0)
    with pytest.raises(ArraysError, match="NaN or infinite"):
        accumulator.mean()
