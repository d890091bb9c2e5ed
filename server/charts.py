"""Geometry of the report's charts: from numbers to positions on the page.

Pure functions; the template draws what they return. Lengths are SVG user units, which
the page shows as CSS pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from collab.metrics import LOWER_IS_BETTER
from server.units import number

Tick = tuple[float, str]

# What is closer together than this has no range to draw: its logarithm would not be finite.
_TINY = 1e-12


@dataclass(frozen=True)
class Scale:
    """A straight map from values ``low..high`` to positions ``start..end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of a value, to a tenth of a pixel."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class LineChart:
    """One curve: path, dots, grid lines and an optional line for the target."""

    width: int
    height: int
    left: int
    right: int
    bottom: int
    path: str
    dots: list[tuple[float, float, str]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    target_y: float | None
    last_label: str


@dataclass(frozen=True)
class Lane:
    """Marks of one comparison on a line where right is better; None where there is no number."""

    width: int
    alone: float | None
    value: float | None
    pooled: float | None
    fused: float | None


@dataclass(frozen=True)
class Whisker:
    """A difference from alone with its standard error on a line where right is better."""

    width: int
    zero: float
    middle: float
    low: float
    high: float


def spread(values: Sequence[float], pad: float) -> tuple[float, float]:
    """Return the range of the values, wider by the share ``pad`` on both sides, never empty."""
    low, high = min(values), max(values)
    # Values that are all alike get a range of their own size, so that they sit in the middle.
    margin = pad * (high - low) if high - low > _TINY else 0.1 * abs(high) if abs(high) > _TINY else 1.0
    return low - margin, high + margin


def nice_ticks(low: float, high: float, steps: int) -> list[float]:
    """Return round values, 1, 2 or 5 times a power of ten apart, at most ``steps`` steps in ``low..high``."""
    raw = (high - low) / steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_label(value: float) -> str:
    """Write a tick's value without the trailing zeros that a table wants."""
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def line_chart(
    points: Sequence[tuple[float, float, str]], *, target: float | None, width: int, height: int
) -> LineChart | None:
    """Lay out a curve.

    Args:
        points: (x, y, what a tooltip says) in order; x is not negative.
        target: y of a horizontal line, None for no line.
        width: of the whole chart.
        height: of the whole chart.

    Returns:
        The chart, or None without points.
    """
    if not points:
        return None
    left, right, top, bottom = 46, width - 14, 14, height - 34
    furthest = max(x for x, _, _ in points)
    across = Scale(0.0, furthest if furthest > _TINY else 1.0, left, right)
    low, high = spread([y for _, y, _ in points] + ([] if target is None else [target]), pad=0.08)
    up = Scale(low, high, bottom, top)
    placed = [(across(x), up(y), label) for x, y, label in points]
    return LineChart(
        width=width,
        height=height,
        left=left,
        right=right,
        bottom=bottom,
        path="M" + "L".join(f"{x} {y}" for x, y, _ in placed),
        dots=placed,
        x_ticks=[(across(x), tick_label(x)) for x in nice_ticks(0.0, across.high, 5)],
        y_ticks=[(up(y), tick_label(y)) for y in nice_ticks(low, high, 4)],
        target_y=None if target is None else up(target),
        last_label=number(points[-1][1]),
    )


def towards_better(metric: str, values: Sequence[float], width: int) -> Scale:
    """Return a scale on which right is better for this metric, with room for the marks at the ends."""
    low, high = spread(values, pad=0.0)
    ends = (width - 10.0, 10.0) if metric in LOWER_IS_BETTER else (10.0, width - 10.0)
    return Scale(low, high, *ends)


def lane(
    scale: Scale, width: int, marks: tuple[float | None, float | None, float | None, float | None]
) -> Lane:
    """Place (alone, value, pooled, fused) on a shared scale."""
    alone, value, pooled, fused = (None if mark is None else scale(mark) for mark in marks)
    return Lane(width, alone, value, pooled, fused)


def whiskers(gains: Sequence[tuple[float | None, float | None]], width: int) -> list[Whisker | None]:
    """Place (gain, standard error) pairs around a common zero in the middle; None where there is no gain."""
    reach = max((abs(gain) + (error or 0.0) for gain, error in gains if gain is not None), default=0.0)
    scale = Scale(-(reach or 1.0), reach or 1.0, 6.0, width - 6.0)

    def place(gain: float | None, error: float | None) -> Whisker | None:
        if gain is None:
            return None
        span = error or 0.0
        return Whisker(width, scale(0.0), scale(gain), scale(gain - span), scale(gain + span))

    return [place(gain, error) for gain, error in gains]
