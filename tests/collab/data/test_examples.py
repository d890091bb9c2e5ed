"""Examples keep rows together and values to themselves."""

from dataclasses import replace

import numpy as np
import pytest

from collab.data.examples import Examples, concatenate, of_images, of_table, select
from protocol.errors import DataError


def _table(rows: int, offset: int = 0) -> Examples:
    numbers = np.arange(rows * 2, dtype=np.float64).reshape(rows, 2) + offset
    words = np.array([[f"secret{i + offset}"] for i in range(rows)], dtype=object)
    return of_table(numbers, ("a", "b"), np.arange(rows) + offset, words, ("c",))


def test_take_keeps_rows_together() -> None:
    """Each taken row has the numbers, categories, label and group that it had before."""
    rows = replace(_table(5), group_N=np.array(list("vwxyz"), dtype=object)).take(np.array([3, 0]))
    assert rows.numeric_NP.tolist() == [[6, 7], [0, 1]]
    assert rows.categorical_NQ[:, 0].tolist() == ["secret3", "secret0"]
    assert rows.y.tolist() == [3, 0]
    assert rows.group_N is not None
    assert rows.group_N.tolist() == ["y", "v"]


def test_concatenate_undoes_take() -> None:
    """Cutting rows apart and joining them again gives the same rows."""
    rows = _table(6)
    joined = concatenate([rows.take(np.arange(2)), rows.take(np.arange(2, 6))])
    assert joined.y.tolist() == rows.y.tolist()
    assert joined.numeric_NP.tolist() == rows.numeric_NP.tolist()


def test_columns_are_matched_by_name() -> None:
    """Parts whose columns stand in another order join by name; parts that lack one are refused."""
    swapped = select(_table(2), ("b", "a"), ("c",))
    assert concatenate([_table(2), swapped]).numeric_NP[2:].tolist() == _table(2).numeric_NP.tolist()
    with pytest.raises(DataError, match="'b'"):
        concatenate([_table(2), select(_table(2), ("a",), ("c",))])


def test_parts_must_agree_on_what_they_hold() -> None:
    """A part with images, sites or groups does not join one without."""
    with pytest.raises(DataError, match="site_N"):
        concatenate([_table(1), replace(_table(1), site_N=np.array(["s"], dtype=object))])
    with pytest.raises(DataError, match="image_NCHW"):
        concatenate(
            [of_images(np.zeros((1, 1, size, 2), np.float32), np.zeros(1, np.int64)) for size in (2, 3)]
        )


def test_repr_holds_no_value() -> None:
    """A repr shows shapes alone."""
    assert "secret" not in repr(_table(3))
    assert repr(_table(3)) == "Examples(numeric_NP[3, 2], categorical_NQ[3, 1], y[3])"


def test_without_targets_no_label_is_left() -> None:
    """Labels become -1, values NaN; either fails loudly where a label is used."""
    assert (_table(3).without_targets().y == -1).all()
    assert np.isnan(replace(_table(3), y=np.ones(3)).without_targets().y).all()


def test_lengths_must_agree() -> None:
    """Rows without their label, or names without their column, are refused."""
    with pytest.raises(DataError, match="rows of numeric_NP"):
        of_table(np.zeros((2, 1)), ("a",), np.zeros(3))
    with pytest.raises(DataError, match="number of numeric columns"):
        of_table(np.zeros((2, 1)), ("a", "b"), np.zeros(2))
