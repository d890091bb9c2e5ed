"""Numbers as a person reads them."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from server import units

FINITE = st.floats(min_value=-1e12, max_value=1e12).filter(lambda v: v == 0 or abs(v) > 1e-12)


def parsed(text: str) -> float:
    """Read a written number back."""
    return float(text.replace(",", "").replace("−", "-"))


@settings(deadline=None)
@given(FINITE)
def test_a_written_number_is_the_number_to_three_digits(value: float) -> None:
    """Reading a written number back gives the value to within half of the third digit."""
    assert math.isclose(parsed(units.number(value)), value, rel_tol=0.0051, abs_tol=0)


def test_rounding_up_to_the_next_power_of_ten_keeps_three_digits() -> None:
    """A number that rounds up to a power of ten is written with three digits, not four."""
    assert [units.number(v) for v in (0.9996, 9.996, 999.6)] == ["1.00", "10.0", "1,000"]


def test_what_is_not_a_finite_number_is_the_missing_mark() -> None:
    """None, NaN, infinity, text and truth values are written as missing by every formatter."""
    writers = (units.number, units.nbytes, units.duration, units.percent)
    values = (None, math.nan, math.inf, "7", True)
    assert {write(value) for write in writers for value in values} == {units.MISSING}


@settings(deadline=None)
@given(st.integers(0, 10**14))
def test_bytes_read_back(size: int) -> None:
    """Bytes in their unit are the bytes, to three digits, and the figure stays below 1,000."""
    figure, unit = units.nbytes(size).split(" ")
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert math.isclose(parsed(figure) * factor, size, rel_tol=0.0051)
    assert parsed(figure) < 1000


def test_a_value_has_the_decimals_of_its_error() -> None:
    """A value is written no finer than its standard error, and to three digits without one."""
    assert units.with_error(0.88913, 0.2071) == "0.89 ± 0.21"
    assert units.with_error(1234.5, 52.3) == "1,234 ± 52"
    assert units.with_error(0.88913, None) == "0.889"


@settings(deadline=None)
@given(st.text())
def test_plain_text_prints_on_one_line(text: str) -> None:
    """Plain text holds printable characters alone, and making it plain twice changes nothing."""
    plain = units.plain(text)
    assert plain.isprintable()
    assert len(plain) == len(text)
    assert units.plain(plain) == plain
