"""Column statistics: those of all rows are those of the parts, merged."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from collab.data.column_statistics import ColumnStatistics, Moments, measure, merge
from collab.data.examples import Examples, concatenate, of_images, of_table, select
from protocol.errors import DataError, MessageError

cell = st.one_of(st.floats(-1e3, 1e3), st.just(float("nan")))
row = st.tuples(cell, cell, st.sampled_from(["", "a", "b", "c"]))
sites = st.lists(st.lists(row, min_size=0, max_size=15), min_size=1, max_size=5)


def _table(rows: list[tuple[float, float, str]]) -> Examples:
    numbers = np.array([r[:2] for r in rows], dtype=np.float64).reshape(len(rows), 2)
    words = np.array([[r[2]] for r in rows], dtype=object).reshape(len(rows), 1)
    return of_table(numbers, ("u", "v"), np.zeros(len(rows)), words, ("w",))


def _assert_alike(a: ColumnStatistics, b: ColumnStatistics) -> None:
    assert (a.numeric_names, a.categorical_names, a.categories) == (
        b.numeric_names,
        b.categorical_names,
        b.categories,
    )
    for x, y in ((a.numeric, b.numeric), (a.channels, b.channels)):
        assert x.count == y.count
        np.testing.assert_allclose(x.mean, y.mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(x.m2, y.m2, rtol=1e-9, atol=1e-6)


@settings(deadline=None)
@given(sites)
def test_statistics_of_the_union_are_the_merged_statistics(parts: list[Any]) -> None:
    """Measuring all rows at once and merging each site's measurement agree, gaps and empty sites included."""
    tables = [_table(part) for part in parts]
    _assert_alike(measure(concatenate(tables)), merge([measure(table) for table in tables]))


@settings(deadline=None)
@given(sites, st.randoms())
def test_the_order_of_sites_does_not_matter(parts: list[Any], random: Any) -> None:
    """Merging in another order, or merging what was merged before, gives the same but for rounding."""
    measured = [measure(_table(part)) for part in parts]
    merged = merge(measured)
    _assert_alike(merged, merge(random.sample(measured, len(measured))))
    _assert_alike(merged, merge([merge(measured[:1]), *measured[1:]]))
    _assert_alike(merged, merge([*measured[:-1], merge(measured[-1:])]))


def test_measured_moments_are_numpys() -> None:
    """Count, mean and standard deviation equal numpy's over the known cells."""
    values = np.random.default_rng(1).normal(5, 3, (50, 2))
    values[::7, 0] = np.nan
    moments = measure(of_table(values, ("u", "v"), np.zeros(50))).numeric
    assert moments.count == tuple((~np.isnan(values)).sum(axis=0))
    np.testing.assert_allclose(moments.mean, np.nanmean(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.scale, np.nanstd(values, axis=0), rtol=1e-12)


def test_a_large_mean_does_not_swallow_the_spread() -> None:
    """Around 1e9 a spread of 1 survives the merge; sums of squares would lose it."""
    values = 1e9 + np.random.default_rng(1).normal(0, 1, (400, 1))
    parts = [of_table(part, ("u",), np.zeros(len(part))) for part in np.split(values, 4)]
    scale = merge([measure(part) for part in parts]).numeric.scale[0]
    assert scale == pytest.approx(values.std(), rel=1e-6)


def test_image_channels_merge() -> None:
    """Moments of channels over all images are those of the parts, merged."""
    images = np.random.default_rng(1).random((9, 3, 4, 5), dtype=np.float32)
    parts = [of_images(part, np.zeros(len(part))) for part in np.split(images, [2, 3])]
    merged = merge([measure(part) for part in parts])
    assert merged.image_shape == (3, 4, 5)
    np.testing.assert_allclose(merged.channels.mean, images.mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(
        merged.channels.scale, images.astype(np.float64).std(axis=(0, 2, 3)), rtol=1e-9
    )


def test_columns_are_matched_by_name() -> None:
    """A site whose file has another order of columns merges right; one with other columns is refused."""
    table = _table([(1, 10, "a"), (3, 30, "b")])
    swapped = measure(select(table, ("v", "u"), ("w",)))
    _assert_alike(merge([measure(table), swapped]), measure(concatenate([table, table])))
    with pytest.raises(MessageError, match="differ in 1 column"):
        merge([measure(table), measure(select(table, ("u",), ("w",)))])
    with pytest.raises(MessageError, match="no column statistics"):
        merge([])


def test_they_survive_json() -> None:
    """Travelling as JSON changes no bit."""
    statistics = measure(_table([(0.1, 1 / 3, "a"), (float("nan"), 2e-300, "")]))
    assert ColumnStatistics.model_validate_json(statistics.model_dump_json()) == statistics


def test_too_many_categories_are_refused() -> None:
    """A column such as a patient's number is refused where it is measured and where sets are merged."""

    def column(cells: NDArray[Any]) -> Examples:
        words = cells.astype(str).astype(object)[:, None]
        return of_table(np.empty((len(cells), 0)), (), np.zeros(len(cells)), words, ("patient",))

    with pytest.raises(DataError, match="'patient' has 1,001 categories"):
        measure(column(np.arange(1001)))
    with pytest.raises(MessageError, match="'patient' has 1,200 categories over all sites"):
        merge([measure(column(np.arange(800))), measure(column(np.arange(400, 1200)))])
    with pytest.raises(DataError, match="over 200 characters"):
        measure(column(np.array(["x" * 201])))


@pytest.mark.parametrize(
    "forged",
    [
        {"numeric_names": ["u"]},
        {"numeric_names": ["u"], "numeric": {"count": [1], "mean": [float("nan")], "m2": [0]}},
        {"numeric_names": ["u"], "numeric": {"count": [1], "mean": [0], "m2": [-1]}},
        {"numeric_names": ["u"], "numeric": {"count": [1, 1], "mean": [0], "m2": [0]}},
        {"categorical_names": ["u"], "categories": [["a"] * 1001]},
        {"categorical_names": ["u"], "categories": [["a" * 201]]},
        {"categorical_names": ["u", "u"], "categories": [["a"], ["a"]]},
        {"image_shape": [3, 4, 5]},
        {"more": 1},
    ],
)
def test_what_a_site_may_not_send_is_refused(forged: dict[str, Any]) -> None:
    """Statistics are bounded, finite and consistent before anything reads them."""
    with pytest.raises(ValidationError):
        ColumnStatistics.model_validate(forged)


def test_a_constant_column_has_scale_one() -> None:
    """A spread of rounding errors alone does not divide."""
    assert Moments(count=(3,), mean=(0.1,), m2=(1e-33,)).scale == (1.0,)
    assert measure(of_table(np.full((1000, 1), 0.1), ("u",), np.zeros(1000))).numeric.scale == (1.0,)
