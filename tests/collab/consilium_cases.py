"""Rounds for the default policy in which the utility of every pair is known."""

from __future__ import annotations

from dataclasses import replace

from collab.allocation.contract import Belief, Candidate, History, Request, SiteView, SubtaskView
from collab.allocation.feasibility import Plan

SUBTASKS = ("tumour", "digits", "progression")
PLAIN = {"coverage": 0.0, "crowding": 0.0, "most": 1.0}  # utility is gain + sd


def site(name: str, owned: tuple[str, ...] = SUBTASKS, **changes: object) -> SiteView:
    """A site that lacks nothing but the data of other subtasks."""
    view = SiteView(name, 1e4, True, 1e4, 1.0, 1.0, 1.0, dict.fromkeys(owned, 10), dict.fromkeys(owned, 10.0))
    return replace(view, **changes)  # type: ignore[arg-type]


def subtask(name: str, min_sites: int = 0, **changes: object) -> SubtaskView:
    """A subtask without needs."""
    return replace(SubtaskView(name, 1.0, min_sites, 0.0, 0, 0.0), **changes)  # type: ignore[arg-type]


def request_of(
    subtasks: list[SubtaskView], sites: list[SiteView], gains: dict[tuple[str, str], float], capacity: int = 1
) -> Request:
    """A round in which the gain of each pair is known for sure, and each takes 10 s."""
    beliefs = {pair: Belief(gain, 0.0, 10.0) for pair, gain in gains.items()}
    return Request(2, tuple(subtasks), tuple(sites), capacity, {}, History({}), seed=3, beliefs=beliefs)


def candidate(planned: Plan, site_: str, subtask_: str) -> Candidate:
    """What is said of a pair that was passed over."""
    (found,) = [c for c in planned.passed_over if (c.site, c.subtask) == (site_, subtask_)]
    return found
