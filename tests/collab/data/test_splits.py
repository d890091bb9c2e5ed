"""Splits: every row once, the same on every machine, groups whole, scarce classes in train."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from collab.data.config import SplitConfig
from collab.data.examples import Examples, of_table
from collab.data.splits import Split, split
from protocol.errors import DataError

labels = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(lambda y: np.array(y, dtype=np.int64))
shares = st.tuples(st.floats(0, 0.6), st.floats(0, 0.39))


def _rows(y: NDArray[Any], groups: list[str] | None = None, sides: list[str] | None = None) -> Examples:
    def text(cells: list[str] | None) -> Any:
        return None if cells is None else np.array(cells, dtype=object)

    return replace(of_table(np.zeros((len(y), 1)), ("a",), y), group_N=text(groups), split_N=text(sides))


def _covers(parts: Split, rows: int) -> bool:
    return np.sort(np.concatenate([parts.train, parts.validation, parts.test])).tolist() == list(range(rows))


@settings(deadline=None)
@given(labels, shares)
def test_every_row_has_one_side_and_counts_are_exact(y: NDArray[Any], share: tuple[float, float]) -> None:
    """No row is lost or used twice; test and validation have their rounded share, and someone trains."""
    config = SplitConfig(test=share[0], validation=share[1])
    parts = split(_rows(y), config, 7, "site")
    assert _covers(parts, len(y))
    assert len(parts.train) >= 1
    assert len(parts.test) == min(int(share[0] * len(y) + 0.5), len(y) - 1)
    assert len(parts.validation) == min(int(share[1] * len(y) + 0.5), len(y) - 1 - len(parts.test))


@settings(deadline=None)
@given(labels)
def test_a_split_is_a_function_of_seed_site_and_data(y: NDArray[Any]) -> None:
    """The same seed, site, name and rows give the same split."""
    first, second = (split(_rows(y), SplitConfig(), 7, "site", "data") for _ in range(2))
    assert first.train.tolist() == second.train.tolist()
    assert first.test.tolist() == second.test.tolist()


def test_seed_site_and_data_all_count() -> None:
    """Another seed, site or data set draws other rows."""
    rows = _rows(np.arange(200) % 2)
    keys = [(7, "a", "d"), (8, "a", "d"), (7, "b", "d"), (7, "a", "e")]
    drawn = {tuple(split(rows, SplitConfig(), *key).test.tolist()) for key in keys}
    assert len(drawn) == len(keys)


@settings(deadline=None)
@given(labels)
def test_classes_are_stratified_and_scarce_ones_train(y: NDArray[Any]) -> None:
    """Each class has its share of test rows within one row, and trains while others have more rows."""
    parts = split(_rows(y), SplitConfig(test=0.2, validation=0.2), 7, "site")
    counts = np.bincount(y, minlength=4)
    if (counts[counts > 0] >= 5).all():
        assert (np.abs(np.bincount(y[parts.test], minlength=4) - 0.2 * counts) <= 1.5).all()
    if len(parts.test) + len(parts.validation) <= (counts[counts > 0] - 1).sum():
        assert set(y[parts.train]) == set(y)


@settings(deadline=None)
@given(st.lists(st.integers(0, 8).map(str), min_size=1, max_size=60), shares)
def test_a_group_stays_on_one_side(groups: list[str], share: tuple[float, float]) -> None:
    """No patient is on two sides, no row is lost, and at least one group trains."""
    rows = _rows(np.arange(len(groups)) % 2, groups)
    parts = split(rows, SplitConfig(test=share[0], validation=share[1], group="g"), 7, "site")
    assert _covers(parts, len(groups))
    assert len(parts.train)
    named = np.array(groups)
    sides = [set(named[indices]) for indices in (parts.train, parts.validation, parts.test)]
    assert sum(len(side) for side in sides) == len(set(groups))


def test_one_group_alone_trains() -> None:
    """A site whose rows are all of one patient trains on them, whatever the shares."""
    rows = _rows(np.zeros(10), ["patient"] * 10)
    assert len(split(rows, SplitConfig(test=0.6, validation=0.3, group="g"), 7, "site").train) == 10


def test_values_are_split_as_one_class() -> None:
    """A regression's rows are drawn alike."""
    parts = split(_rows(np.linspace(0, 1, 40)), SplitConfig(), 7, "site")
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (26, 6, 8)


def test_a_column_of_sides_is_honoured() -> None:
    """Rows that say their side keep it; blanks are drawn, and then official test rows replace drawn ones."""
    sides = ["train", "test", "validation", "Train "]
    parts = split(_rows(np.zeros(4), sides=sides), SplitConfig(column="side"), 7, "site")
    assert (parts.train.tolist(), parts.validation.tolist(), parts.test.tolist()) == ([0, 3], [2], [1])
    mixed = _rows(np.zeros(14), sides=[""] * 10 + ["test"] * 4)
    parts = split(mixed, SplitConfig(test_path="t.csv", validation=0.2), 7, "site")
    assert parts.test.tolist() == [10, 11, 12, 13]
    assert (len(parts.train), len(parts.validation)) == (8, 2)


@pytest.mark.parametrize("sides", [[], ["test", "validation"]])
def test_nothing_to_train_on_is_refused(sides: list[str]) -> None:
    """An empty site, or one without train rows, is a DataError under its name."""
    with pytest.raises(DataError, match=r"site 'north' has . rows but none to train on"):
        split(_rows(np.zeros(len(sides)), sides=sides), SplitConfig(column="side"), 7, "north")


def test_an_unknown_side_is_refused() -> None:
    """A cell that is no side is counted, not quoted."""
    with pytest.raises(
        DataError, match="1 cells of split column 'side' are none of train, validation, test"
    ) as e:
        split(_rows(np.zeros(2), sides=["train", "dev"]), SplitConfig(column="side"), 7, "north")
    assert "dev" not in str(e.value)
