"""One subtask's cohort in one round: who was asked, and what came of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from collab.events import Send

Outcome = Literal["asked", "contributed", "late", "rejected", "lost", "silent"]
# How a cohort closed: its contributions were merged, there were none, or there were too few to go on.
Ending = Literal["merged", "skipped", "stopped"]
# Why a site that has the subtask was not asked: it cannot do it, it may not, the cohort would have been
# too small to send, another was chosen, or it has left.
NotAsked = Literal["infeasible", "quarantined", "min_sites", "policy", "gone"]
_ANSWERED = frozenset({"contributed", "rejected", "lost"})


@dataclass
class Task:
    """One assignment and what became of it.

    Attributes:
        of: how many examples it has of each subtask it trains.
        class_counts: train rows a class of each of them, as far as the site tells.
        successor: the assignment that it was handed on as, if it was.
    """

    send: Send
    of: Mapping[str, int]
    class_counts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    outcome: Outcome = "asked"
    detail: str = ""
    sent_s: float = 0.0
    answered_s: float | None = None
    successor: str | None = None

    @property
    def examples(self) -> int:
        """All its examples; a row with labels of two subtasks counts twice."""
        return sum(self.of.values())


@dataclass
class Cohort:
    """The assignments of one subtask in one round, or of a group under its leader's name.

    Attributes:
        not_asked: the sites that have the subtask and were not asked when the round opened.
        ended: how it closed; None while it is open.
        merged: the contributions that were merged, in that order.
        coverage: the share of the examples first asked for that had come in when it closed.
    """

    subtask: str
    opened_s: float
    group: tuple[str, ...]
    round: int
    tasks: dict[str, Task] = field(default_factory=dict)
    not_asked: dict[str, NotAsked] = field(default_factory=dict)
    grace_ends_s: float = math.inf
    ended: Ending | None = None
    merged: tuple[str, ...] = ()
    coverage: float | None = None
    measured: set[str] = field(default_factory=set)
    evaluating: bool = False

    @property
    def closed(self) -> bool:
        """Whether it waits for nobody any more."""
        return self.ended is not None

    @property
    def unmeasured(self) -> list[str]:
        """What of the group is still to be measured."""
        return [name for name in self.group if name not in self.measured]

    def with_outcome(self, outcome: Outcome) -> dict[str, Task]:
        """Return the tasks that ended so, in order of site name."""
        chosen = {k: t for k, t in self.tasks.items() if t.outcome == outcome}
        return dict(sorted(chosen.items(), key=lambda item: item[1].send.site))

    def end(self, how: Ending, merged: tuple[str, ...] = ()) -> None:
        """Close it, once. Raises AssertionError where it is closed: nothing is merged twice."""
        if self.closed:
            raise AssertionError(f"{self._place}: closed twice")
        self.ended, self.merged, self.coverage = how, merged, share_of(self)

    def check(self, most_attempts: int) -> None:
        """Raise AssertionError where the cohort contradicts itself."""
        wrong = [*self._wrong_tasks(most_attempts), *self._wrong_ending()]
        if wrong:
            raise AssertionError(f"{self._place}: {wrong[0]}")

    @property
    def _place(self) -> str:
        return f"round {self.round}, {self.subtask}"

    def _wrong_tasks(self, most_attempts: int) -> Iterator[str]:
        tasks = self.tasks.values()
        if len({t.send.site for t in tasks}) != len(tasks):
            yield "a site is asked twice for one subtask"
        unfit = {"asked"} if self.closed else {"silent", "late"}
        for t in tasks:
            if (t.send.round, t.send.subtask) != (self.round, self.subtask):
                yield "an assignment of another cohort"
            if not 1 <= t.send.attempt <= most_attempts:
                yield f"attempt {t.send.attempt}"
            if (t.answered_s is not None) != (t.outcome in _ANSWERED):
                yield f"an assignment that is {t.outcome}, answered at {t.answered_s}"
            if t.outcome in unfit:
                yield "a closed cohort still waits for somebody, or an open one has given somebody up"
        yield from self._wrong_successors()

    def _wrong_successors(self) -> Iterator[str]:
        """Yield what is wrong of what was handed on: a chain of attempts, each after one that failed."""
        befores = [t for t in self.tasks.values() if t.successor is not None]
        times = Counter(t.successor for t in befores)
        further = {key for key, t in self.tasks.items() if t.send.attempt > 1}
        if set(times) != further or any(n > 1 for n in times.values()):
            yield "an assignment handed on to nobody or twice, or a further attempt after none"
            return
        for t in befores:
            after = self.tasks[str(t.successor)].send
            if t.outcome not in {"rejected", "lost"} or after.attempt != t.send.attempt + 1:
                yield "handed on without having failed, or not as the next attempt"

    def _wrong_ending(self) -> Iterator[str]:
        given = tuple(self.with_outcome("contributed"))
        if self.merged != (given if self.ended == "merged" else ()):
            yield "what was merged is not each contribution once, in order of site"
        if (self.ended == "merged" and not given) or (self.ended == "skipped" and given):
            yield f"{self.ended} with {len(given)} contributions"
        if (self.coverage is not None) != self.closed:
            yield "a coverage before it closed, or none after"
        elif self.coverage is not None and not (0 <= self.coverage <= 1 and self.coverage == share_of(self)):
            yield f"a coverage of {self.coverage}, which is not that of its contributions"
        if (self.measured or self.evaluating) and not self.closed:
            yield "measured before it closed"
        if not self.measured <= set(self.group):
            yield "a measured subtask that is not of its group"


def share_of(cohort: Cohort) -> float:
    """Return the share of the examples first asked for that came in; a substitute counts for what it has."""
    asked = sum(t.examples for t in cohort.tasks.values() if t.send.attempt == 1)
    given = sum(t.examples for t in cohort.tasks.values() if t.outcome == "contributed")
    return min(1.0, given / asked) if asked else 0.0
