"""Sparse statistics come back as they were, and nothing else is accepted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.sparse import compress, expand
from protocol.arrays import num_bytes, spec_of
from protocol.errors import ArraysError


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0, 2.5]), min_size=1, max_size=400))
def test_expand_undoes_compress(values: list[float]) -> None:
    """Whatever the array, what travels gives back its very values."""
    arrays = {"a": np.array(values), "b": np.arange(3.0)}
    found = expand(compress(arrays), spec_of(arrays))
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[k], arrays[k]) and found[k].dtype == np.float64 for k in arrays)


def test_mostly_zeros_cost_little() -> None:
    """A histogram of 60 rows in 20,480 bins travels in under a kilobyte instead of 160."""
    histogram = np.zeros((10, 2048))
    histogram.reshape(-1)[::350] = 1.0
    assert num_bytes(compress({"h": histogram})) < 1000 < num_bytes({"h": histogram}) / 160


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (np.array([3, 2], np.int32), np.ones(2)),
        (np.array([2, 2], np.int32), np.ones(2)),
        (np.array([-1], np.int32), np.ones(1)),
        (np.array([100], np.int32), np.ones(1)),
        (np.array([1], np.int64), np.ones(1)),
        (np.array([1, 2], np.int32), np.ones(1)),
        (np.array([1], np.int32), np.ones(1, np.float32)),
        (np.array([[1]], np.int32), np.ones((1, 1))),
    ],
)
def test_other_indices_are_refused(index: np.ndarray, value: np.ndarray) -> None:
    """Indices out of order, out of range, of another dtype or number raise ArraysError."""
    spec = spec_of({"h": np.zeros(100)})
    with pytest.raises(ArraysError):
        expand({"h#index": index, "h#value": value}, spec)


def test_an_index_without_values_is_refused() -> None:
    """Half of a pair is not an array."""
    with pytest.raises(ArraysError):
        expand({"h#index": np.zeros(1, np.int32)}, spec_of({"h": np.zeros(100)}))


def test_unknown_names_stay_for_the_caller() -> None:
    """What the specification does not name is not dropped in silence."""
    assert set(expand({"x": np.zeros(2)}, {})) == {"x"}
