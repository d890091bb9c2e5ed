"""Preprocessing: a function of merged train statistics, the same at every site."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.data.examples import Examples, of_images, of_table, select
from collab.data.preprocess import Preprocessing, measure, merge
from protocol.errors import DataError

cell = st.one_of(st.floats(-1e6, 1e6), st.just(float("nan")), st.just(1e99))
rows = st.lists(st.tuples(cell, st.sampled_from(["", "a", "b"])), min_size=1, max_size=20)


def _table(cells: list[tuple[float, str]]) -> Examples:
    numbers = np.array([[c[0]] for c in cells])
    words = np.array([[c[1]] for c in cells], dtype=object)
    return of_table(numbers, ("u",), np.zeros(len(cells)), words, ("w",))


def test_it_equals_the_pooled_computation() -> None:
    """Fitted on merged statistics, all sites' rows become what pooling them would give."""
    values = np.random.default_rng(3).normal(7, 2, (60, 3))
    parts = [of_table(part, ("a", "b", "c"), np.zeros(len(part))) for part in np.split(values, [10, 25])]
    fitted = Preprocessing.fit(merge([measure(part) for part in parts]))
    x = np.concatenate([fitted.transform(part) for part in parts])
    np.testing.assert_allclose(x, (values - values.mean(0)) / values.std(0), atol=1e-5)
    assert x.dtype == np.float32


@settings(deadline=None)
@given(rows, rows)
def test_any_row_becomes_finite_numbers_of_the_declared_shape(
    train: list[tuple[float, str]], new: list[tuple[float, str]]
) -> None:
    """Gaps, unseen categories and far outliers included, nothing but finite float32 comes out."""
    fitted = Preprocessing.fit(measure(_table(train)))
    x = fitted.transform(_table(new))
    assert x.shape == (len(new), *fitted.input_shape)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    assert len(fitted.feature_names) == fitted.num_features


def test_gaps_and_unseen_categories_say_nothing() -> None:
    """A missing number lies at the mean, a missing or unseen category in no column."""
    fitted = Preprocessing.fit(measure(_table([(1, "b"), (3, "a"), (2, "")])))
    assert fitted.feature_names == ("u", "w = a", "w = b")
    new = _table([(float("nan"), ""), (2, "z"), (2, "b")])
    assert fitted.transform(new).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_a_column_without_any_value_is_zero() -> None:
    """A column that is missing at all sites does no harm."""
    nothing = of_table(np.full((3, 1), np.nan), ("u",), np.zeros(3))
    assert Preprocessing.fit(measure(nothing)).transform(nothing).tolist() == [[0], [0], [0]]


def test_images_are_scaled_by_channel() -> None:
    """Each channel has mean 0 and standard deviation 1 over the train rows; other shapes are refused."""
    images = np.random.default_rng(3).random((40, 2, 5, 5), dtype=np.float32) * [[[[3]], [[9]]]]
    rows = of_images(images.astype(np.float32), np.zeros(40))
    fitted = Preprocessing.fit(measure(rows))
    x = fitted.transform(rows)
    assert fitted.input_shape == (2, 5, 5)
    assert fitted.num_features == 50
    np.testing.assert_allclose(x.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(0, 2, 3)), 1, atol=1e-5)
    with pytest.raises(DataError, match="fitted on images"):
        fitted.transform(of_images(images[:, :1].astype(np.float32), np.zeros(40)))
    with pytest.raises(DataError, match="the data is a table"):
        fitted.transform(_table([(1, "a")]))


def test_columns_are_taken_by_name() -> None:
    """Rows with more columns, or in another order, give the same; a missing column is named."""
    two = of_table(np.array([[1.0, 5.0], [2.0, 6.0]]), ("u", "v"), np.zeros(2))
    fitted = Preprocessing.fit(measure(two))
    np.testing.assert_array_equal(fitted.transform(select(two, ("v", "u"), ())), fitted.transform(two))
    with pytest.raises(DataError, match="'v'"):
        fitted.transform(select(two, ("u",), ()))


def test_it_survives_json() -> None:
    """What the server sends is what a site applies, to the last bit."""
    fitted = Preprocessing.fit(measure(_table([(0.1, "b"), (1 / 3, "a")])))
    assert Preprocessing.model_validate_json(fitted.model_dump_json()) == fitted
