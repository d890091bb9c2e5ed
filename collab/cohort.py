"""One subtask's cohort in one round: who was asked, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from collab.events import Send

Outcome = Literal["asked", "contributed", "late", "rejected", "lost", "silent"]


@dataclass
class Task:
    """One assignment and what became of it; ``of`` is how many examples it has of each subtask it trains."""

    send: Send
    of: Mapping[str, int]
    outcome: Outcome = "asked"
    detail: str = ""
    sent_s: float = 0.0
    answered_s: float | None = None

    @property
    def examples(self) -> int:
        """All its examples; a row with labels of two subtasks counts twice."""
        return sum(self.of.values())


@dataclass
class Cohort:
    """The assignments of one subtask in one round, or of a group under its leader's name."""

    subtask: str
    opened_s: float
    group: tuple[str, ...]
    tasks: dict[str, Task] = field(default_factory=dict)
    grace_ends_s: float = math.inf
    closed: bool = False
    measured: set[str] = field(default_factory=set)
    evaluating: bool = False

    @property
    def unmeasured(self) -> list[str]:
        """What of the group is still to be measured."""
        return [name for name in self.group if name not in self.measured]

    def with_outcome(self, outcome: Outcome) -> dict[str, Task]:
        """Return the tasks that ended so, in order of site name."""
        chosen = {k: t for k, t in self.tasks.items() if t.outcome == outcome}
        return dict(sorted(chosen.items(), key=lambda item: item[1].send.site))

    def check(self) -> None:
        """Raise AssertionError where the cohort contradicts itself."""
        sites = [t.send.site for t in self.tasks.values() if t.outcome in {"asked", "contributed"}]
        if self.closed and self.with_outcome("asked"):
            raise AssertionError("a closed cohort still waits for somebody")
        if len(sites) != len(set(sites)):
            raise AssertionError("a site is asked twice for one subtask")
        if self.measured and not self.closed:
            raise AssertionError("measured before it closed")


def share_of(cohort: Cohort) -> float:
    """Return the share of the examples first asked for that came in; a substitute counts for what it has."""
    asked = sum(t.examples for t in cohort.tasks.values() if t.send.attempt == 1)
    given = sum(t.examples for t in cohort.tasks.values() if t.outcome == "contributed")
    return min(1.0, given / asked) if asked else 0.0
