"""Step budgets in proportion to speed, so that the sites of a cohort finish together.

A site that needs s_i seconds for all its work is given b_i = T / s_i of it, clipped to [low, high]; above 1
it works longer than its terms say. All but the clipped ones finish at time T. Among budgets that do as much
work in total, none finishes earlier (water-filling). FLeet sets mini-batches by predicted time in this way
(Damaskinos et al., Middleware 2020). Sites then take unlike numbers of steps, which pulls a plain average
towards the fast ones: aggregate with ``fednova`` (Wang et al., NeurIPS 2020), which divides each change by
its steps.

Time is taken to be proportional to work. Where a fixed part (a download, a start) is large, finishing
together is only approximate; a lower bound keeps slow sites' data in the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.allocation.contract import LARGEST_BUDGET
from protocol.errors import ConfigError, RunError

Floats = NDArray[np.float64]

LOW: Final = 0.1  # a site does at least this share of its local epochs
HIGH: Final = 1.0


def within(time: float, seconds_N: Floats, low: float = LOW, high: float = HIGH) -> Floats:
    """Return the share of its work that each site does in ``time`` [N], clipped to [low, high].

    Args:
        time: in seconds.
        seconds_N: for all the work, as predicted; 0 and infinity are allowed.
        low: the smallest share.
        high: the largest.

    Raises:
        RunError: ``low`` is not above 0 and up to ``high``, or a time is below 0 or no number.
    """
    if not 0 < low <= high:
        raise RunError(f"step budgets: from {low} to {high} is no range of shares, they start above 0")
    if not (time >= 0 and (seconds_N >= 0).all()):
        raise RunError("step budgets: a predicted time is below 0 or no number")
    share_N = np.full(seconds_N.shape, float(high))
    np.divide(time, seconds_N, out=share_N, where=seconds_N > time / high)
    clipped_N: Floats = np.clip(share_N, low, high)
    return clipped_N


def equal_time(
    work: float, seconds_N: Floats, work_N: Floats | None = None, low: float = LOW, high: float = HIGH
) -> Floats:
    """Return the shares of least makespan that do ``work`` in total [N]: Σ share_i work_i = work.

    Args:
        work: in the unit of ``work_N``.
        seconds_N: for all of a site's work, as predicted; above 0 and finite.
        work_N: each site's work, above 0; left out: 1 each.
        low: the smallest share.
        high: the largest; above 1 a site works longer than its terms say.

    Raises:
        RunError: no shares in [low, high] do that work, or a time is not above 0 and finite.
    """
    work_N = np.ones_like(seconds_N) if work_N is None else work_N
    if not ((seconds_N > 0) & (seconds_N < np.inf)).all():
        raise RunError("step budgets: a predicted time is not above 0 and finite")
    if not low * work_N.sum() <= work * (1 + 1e-12) or not work <= high * work_N.sum() * (1 + 1e-12):
        raise RunError(
            f"step budgets: shares from {low} to {high} do {low * work_N.sum():g} to "
            f"{high * work_N.sum():g} units of work, {work:g} was asked"
        )

    def done(time: float) -> float:
        return float(work_N @ within(time, seconds_N, low, high))

    # Work done grows with time, linearly between the times at which a site enters or leaves its bounds.
    times = np.unique(np.concatenate([low * seconds_N, high * seconds_N]))
    first, last = 0, times.size - 1
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if done(times[middle]) <= work else (first, middle)
    before, after = done(times[first]), done(times[last])
    part = (work - before) / (after - before) if after > before else 0.0
    time = times[first] + min(max(part, 0.0), 1.0) * (times[last] - times[first])
    return within(float(time), seconds_N, low, high)


@dataclass(frozen=True)
class Work:
    """One assignment, as budgets see it: examples, and the predicted seconds for all its local epochs."""

    site: str
    subtask: str
    examples: int
    seconds: float


def check(policy: str, work: float, most: float) -> None:
    """Raise ``ConfigError`` where a policy's options ask for budgets that cannot be."""
    if not 1.0 <= most <= LARGEST_BUDGET:
        raise ConfigError(f"allocation '{policy}': most is {most}, allowed: 1 to {LARGEST_BUDGET:g}")
    if not LOW <= work <= most:
        raise ConfigError(f"allocation '{policy}': work is {work}, allowed: {LOW} to {most:g}")


def finish_together(taken: Sequence[Work], work: float, most: float) -> dict[tuple[str, str], float]:
    """Return the budgets of a round's assignments by (site, subtask), with which they finish together.

    One time for all cohorts, since a round waits for all of them. A site that does several subtasks does
    them one after the other: the time is for all of them. An assignment without a predicted time, or that
    never ends, is left out: it does all its epochs.

    Args:
        taken: the assignments.
        work: how much of its local epochs is done for an example, on average.
        most: the largest budget; equal to ``work``, all do the same.
    """
    if work == most:
        return {(one.site, one.subtask): work for one in taken}
    timed = [one for one in taken if 0 < one.seconds < math.inf]
    if not timed:
        return {}
    sites = list(dict.fromkeys(one.site for one in timed))
    place = {site: i for i, site in enumerate(sites)}
    seconds_N, work_N = np.zeros(len(sites)), np.zeros(len(sites))
    for one in timed:
        seconds_N[place[one.site]] += one.seconds
        work_N[place[one.site]] += max(one.examples, 1)
    share_of = dict(zip(sites, equal_time(work * work_N.sum(), seconds_N, work_N, LOW, most), strict=True))
    return {(one.site, one.subtask): float(share_of[one.site]) for one in timed}
