"""Comparisons are parsed, not evaluated."""

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.data.comparison import parse
from protocol.errors import ConfigError

OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@settings(deadline=None)
@given(
    st.sampled_from(sorted(OPERATORS)),
    st.integers(-1000, 1000).map(float),
    st.lists(st.integers(-1000, 1000).map(float), min_size=1),
)
def test_a_number_compares_as_python_does(sign: str, value: float, cells: list[float]) -> None:
    """A parsed comparison holds for exactly the cells for which Python's operator holds."""
    expected = [OPERATORS[sign](cell, value) for cell in cells]
    assert parse(f" {sign} {value} ").holds(np.array(cells)).tolist() == expected


@pytest.mark.parametrize("text", ["== 'yes'", '=="yes"'])
def test_text_compares_by_equality(text: str) -> None:
    """Quoted text is compared cell by cell, in either kind of quotes."""
    rule = parse(text)
    assert not rule.is_numeric
    assert rule.holds(np.array(["yes", "no"], dtype=object)).tolist() == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "> ",
        "=> 0",
        "> 'yes'",
        "> 1.2.3",
        "> 1e999",
        "> nan",
        "== yes",
        "__import__('os')",
        "> 0 or 1",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """What is not one operator and one finite number or quoted text is a ConfigError."""
    with pytest.raises(ConfigError):
        parse(text)
