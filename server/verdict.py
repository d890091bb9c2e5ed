"""When is a result better than alone? One rule, used by the report and the console."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from collab.metrics import LOWER_IS_BETTER
from server.units import with_error

# Without an error estimate, numbers that a reader sees as equal (three digits) are called equal.
_SAME_TO_THE_EYE = 5e-4


class Verdict(StrEnum):
    """A result against the same site, or the mean of the sites, working alone."""

    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "unclear"
    UNKNOWN = "not compared"


class Outcome(StrEnum):
    """Whether collaborating paid on one subtask, by the global and the own result together."""

    PAID = "paid"
    MIXED = "mixed"
    UNCLEAR = "no clear difference"
    LOST = "did not pay"
    UNKNOWN = "not compared"
    NO_RESULT = "no result"


@dataclass(frozen=True)
class Comparison:
    """A value of a metric beside the value that working alone gave.

    Args:
        metric: decides by its name whether lower is better.
        value: the result, None if there is none.
        alone: the baseline, None if it was not run.
        standard_error: of the paired difference ``value - alone``; None if not estimated.
    """

    metric: str
    value: float | None
    alone: float | None
    standard_error: float | None = None

    @property
    def gain(self) -> float | None:
        """How much better than alone, in the metric's unit; negative is a loss."""
        if self.value is None or self.alone is None:
            return None
        difference = self.value - self.alone
        return -difference if self.metric in LOWER_IS_BETTER else difference

    @property
    def verdict(self) -> Verdict:
        """Better or worse only by more than one standard error, where there is one."""
        gain = self.gain
        if gain is None:
            return Verdict.UNKNOWN
        if abs(gain) <= self._noise():
            return Verdict.UNCLEAR
        return Verdict.BETTER if gain > 0 else Verdict.WORSE

    @property
    def words(self) -> str:
        """The verdict in words, with the size of the difference and its error."""
        gain = self.gain
        if gain is None:
            return "no result" if self.value is None else "not compared"
        if self.verdict is not Verdict.UNCLEAR:
            return f"{self.verdict} by {with_error(abs(gain), self.standard_error)}"
        sign = "+" if gain > 0 else ""
        return f"unclear ({sign}{with_error(gain, self.standard_error)})" if gain else "no difference"

    def _noise(self) -> float:
        if self.standard_error is not None:
            return self.standard_error
        return _SAME_TO_THE_EYE * max(abs(self.value or 0.0), abs(self.alone or 0.0))


def error_of_mean(errors: Sequence[float | None]) -> float | None:
    """Return the standard error of a mean over sites, None if any site has none.

    The sites' test rows are disjoint, so their errors are independent and add in squares.
    """
    known = [error for error in errors if error is not None]
    if not known or len(known) < len(errors):
        return None
    return math.hypot(*known) / len(known)


def outcome(everywhere: Comparison, own: Comparison) -> Outcome:
    """Judge a subtask by its global and own comparisons; a gain in one does not hide a loss in the other."""
    if everywhere.value is None and own.value is None:
        return Outcome.NO_RESULT
    verdicts = {everywhere.verdict, own.verdict} - {Verdict.UNKNOWN}
    if not verdicts:
        return Outcome.UNKNOWN
    if {Verdict.BETTER, Verdict.WORSE} <= verdicts:
        return Outcome.MIXED
    if Verdict.BETTER in verdicts:
        return Outcome.PAID
    return Outcome.LOST if Verdict.WORSE in verdicts else Outcome.UNCLEAR
