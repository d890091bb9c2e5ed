"""Target cells become class indices or values, or a message that quotes no cell."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from collab.data.config import Labels, Output, Wanted
from collab.data.targets import canonical, encode, infer_labels
from protocol.errors import ConfigError, DataError

SECRET = "secret-diagnosis"


def text(*cells: str) -> NDArray[Any]:
    return np.array(cells, dtype=object)


def encoded(
    raw: NDArray[Any], labels: Labels = None, output: Output = "classes", positive: str | None = None
) -> Any:
    return encode(raw, Wanted(labels, output, "table"), positive, "file.csv, y").tolist()


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique_by=canonical), st.data())
def test_labels_are_indices_by_position(labels: list[str], data: st.DataObject) -> None:
    """A cell that is the i-th label gets index i, whatever the labels are."""
    labels = [label for label in labels if canonical(label)] or ["a"]
    indices = data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=1))
    raw = text(*(canonical(labels[i]) for i in indices))
    assert encoded(raw, tuple(labels)) == indices


def test_one_category_is_written_two_ways() -> None:
    """1.0 and 1 are one label; 1.5 and 01 are others."""
    assert [canonical(cell) for cell in (" 1.0 ", "1", "1.", "-2.00", "1.5", "01", "a.0")] == [
        "1", "1", "1", "-2", "1.5", "01", "a.0",
    ]  # fmt: skip
    assert encoded(text("0", "1.0"), ("1", "0")) == [1, 0]


def test_numbers_under_names_count_as_positions() -> None:
    """Cells 0..C-1 are positions if no label is a number itself."""
    assert encoded(text("0", "1.0", "0"), ("healthy", "sick")) == [0, 1, 0]
    assert encoded(np.array([1, 0]), ("healthy", "sick")) == [1, 0]
    with pytest.raises(DataError, match="none of the 2 labels"):
        encoded(text("0", "1"), ("1", "2"))


def test_a_number_of_labels_means_indices() -> None:
    """With labels = C, cells must be whole numbers from 0 to C - 1."""
    assert encoded(text("0", "2"), 3) == [0, 2]
    for cell in ("3", "-1", "0.5"):
        with pytest.raises(DataError, match="whole number from 0 to 2"):
            encoded(text("0", cell), 3)


@settings(deadline=None)
@given(st.lists(st.integers(-5, 30), min_size=1))
def test_inferred_labels_are_sorted_as_numbers(values: list[int]) -> None:
    """Labels inferred from numbers stand in their order, not in that of their text."""
    assert infer_labels(text(*map(str, values))) == tuple(map(str, sorted(set(values))))


def test_a_positive_comparison_makes_two_classes() -> None:
    """Where the comparison holds y is 1, elsewhere 0."""
    assert encoded(text("0", "3", "1.0"), ("no", "yes"), positive="> 0") == [0, 1, 1]
    assert encoded(text("ill", "well"), 2, positive="== 'ill'") == [1, 0]
    with pytest.raises(ConfigError, match="2 classes"):
        encoded(text("0"), 3, positive="> 0")
    with pytest.raises(ConfigError, match="predicts a value"):
        encoded(text("0"), output="value", positive="> 0")


@pytest.mark.parametrize(
    ("raw", "labels", "output", "said"),
    [
        (text("a", "", "b"), ("a", "b"), "classes", "missing in 1 row"),
        (
            text("a", SECRET),
            ("a", "b"),
            "classes",
            "none of the 2 labels in 1 row.s., the first is data row 2",
        ),
        (text("1", SECRET), None, "value", "not a finite number in 1 row"),
        (text("1", "inf"), None, "value", "not a finite number in 1 row"),
        (text("1", SECRET), 2, "classes", "not a finite number"),
        (np.array([1.0, np.nan]), None, "value", "missing in 1 row.s., the first is data row 2"),
    ],
)
def test_a_wrong_cell_is_counted_not_quoted(
    raw: NDArray[Any], labels: Labels, output: Output, said: str
) -> None:
    """The message gives number and first row of wrong cells and never a cell."""
    with pytest.raises(DataError, match=said) as caught:
        encoded(raw, labels, output)
    assert SECRET not in str(caught.value)


def test_labels_must_be_known_and_distinct() -> None:
    """Neither missing labels nor a label that stands twice can be encoded."""
    with pytest.raises(ConfigError, match="not known"):
        encoded(text("a"))
    with pytest.raises(ConfigError, match="twice"):
        encoded(text("a"), ("1", "1.0"))
