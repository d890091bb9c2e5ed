"""k of n sites are lost in mid-round: when the round must close, and what must be said of it.

The bound follows from the state machine (``collab/rounds.py``): a cohort closes ``grace_s`` after the answer
that makes the quorum, or ``deadline_s`` after it opened, whichever comes first. On the simulated clock that
is exact. On a real one the machine hears of the time between two looks for answers, each of which asks the
link process: ``SLACK_S`` is for such a look.

What is said must be right: who contributed, the share of the examples asked for, and, below ``min_coverage``,
that the run stops, with the share and the names of the missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from collab.events import Abort, Aggregate, Arrived, Event, Instruction, Send, SiteJoined, Skip
from collab.rng import generator
from server.runlog import read
from server.summary import FILE_NAME, read_summary

LOST_ROUND = 2
SLACK_S = 2.0
_MOST_REASON = 500  # characters of an instruction's reason

Entry = tuple[Event, Sequence[Instruction]]


@dataclass(frozen=True)
class Case:
    """So many sites, and those that are lost in ``LOST_ROUND``; the terms that decide what follows."""

    place: str
    sites: tuple[str, ...]
    lost: frozenset[str]
    seed: int
    quorum: float = 0.6
    grace_s: float = 3.0
    deadline_s: float = 20.0
    min_coverage: float = 0.5
    slack_s: float = 1e-6

    @property
    def coordination(self) -> dict[str, float]:
        """The terms, as a collaboration file has them."""
        names = ("quorum", "grace_s", "deadline_s", "min_coverage")
        return {name: getattr(self, name) for name in names}


@dataclass
class Closing:
    """How a round closed. Seconds are of the run's clock.

    ``given`` are the sites whose contributions were merged; of a round that ended the run, all that had come.
    """

    asked: list[str] = field(default_factory=list)
    arrived_s: list[float] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    coverage: float | None = None
    opened_s: float = 0.0
    closed_s: float | None = None
    abort: str = ""
    goes_on: bool = False


@dataclass
class Lost:
    """What a case came to; ``why`` is empty if round and words are right."""

    place: str
    n: int
    k: int
    seed: int
    lost: list[str]
    min_coverage: float
    run: str = ""
    contributed: int = 0
    coverage: float | None = None
    expected: float = 0.0
    closed_after_s: float | None = None
    bound_s: float | None = None
    stopped: bool = False
    why: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.why

    def as_json(self) -> dict[str, Any]:
        """Return it as a table."""
        return asdict(self) | {"passed": self.passed}


def case(place: str, sites: Sequence[str], k: int, seed: int, **terms: float) -> Case:
    """Return the case in which k of the sites, drawn by the seed, are lost."""
    chosen = generator(seed, len(sites), k, "lost").permutation(len(sites))[:k]
    return Case(place, tuple(sites), frozenset(sites[i] for i in chosen), seed, **terms)


def result_of(case_: Case) -> Lost:
    """Return the result to fill in."""
    n, k = len(case_.sites), len(case_.lost)
    return Lost(case_.place, n, k, case_.seed, sorted(case_.lost), case_.min_coverage)


def judge(case_: Case, folder: Path, result: Lost) -> None:
    """Read the run in ``folder`` and fill in what it came to and what is wrong with it."""
    entries = list(read(folder))
    found, examples = closing(entries), examples_of(entries)
    survivors = [site for site in found.asked if site not in case_.lost]
    all_ = sum(examples[site] for site in found.asked)
    result.expected = sum(examples[site] for site in survivors) / all_ if all_ else 0.0
    result.contributed, result.coverage, result.stopped = len(found.given), found.coverage, bool(found.abort)
    faults = _faults(case_, found, survivors, result)
    if (folder / FILE_NAME).exists():
        faults += _summary_faults(read_summary(folder), found, survivors, result.expected)
    result.why = "; ".join(faults)


def _faults(case_: Case, found: Closing, survivors: Sequence[str], result: Lost) -> list[str]:
    if found.closed_s is None:
        return [f"round {LOST_ROUND} did not close"]
    faults = []
    result.closed_after_s, result.bound_s = found.closed_s - found.opened_s, bound_s(case_, found)
    if result.closed_after_s > result.bound_s:
        faults.append(f"it closed after {result.closed_after_s:.1f} s, the bound is {result.bound_s:.1f} s")
    if found.asked != sorted(case_.sites):
        faults.append(f"asked were {found.asked}")
    if found.given != survivors:
        faults.append(f"contributions of {found.given} were counted, not of {survivors}")
    if result.expected < case_.min_coverage:
        missing = ", ".join(sorted(case_.lost))
        said = f"only {result.expected:.0%} of the examples asked for came in (min_coverage is "
        said += f"{case_.min_coverage:.0%}); missing: {missing}"
        begins, _, words = found.abort.partition(": ")
        if not begins.startswith(f"round {LOST_ROUND}") or not words or not said.startswith(words[:-1]):
            faults.append(f"the run should have stopped with {said[:200]!r}, and said {found.abort[:200]!r}")
        if words != said and len(found.abort) < _MOST_REASON:
            faults.append("it did not say all that is missing")
    elif found.abort or found.coverage is None or not math.isclose(found.coverage, result.expected):
        faults.append(f"coverage is {found.coverage}, not {result.expected} ({found.abort[:200]})")
    elif not found.goes_on:
        faults.append("the next round did not open")
    return faults


def bound_s(case_: Case, found: Closing) -> float:
    """Return after how many seconds the round must have closed."""
    enough = math.ceil(case_.quorum * len(found.asked) - 1e-9)
    bound = case_.deadline_s
    if len(found.arrived_s) >= enough:
        bound = min(bound, found.arrived_s[enough - 1] - found.opened_s + case_.grace_s)
    return bound + case_.slack_s


def closing(entries: Iterable[Entry], round_: int = LOST_ROUND) -> Closing:
    """Return how a round closed, from the run's log; ``closed_s`` is None while it has not."""
    found = Closing()
    for event, instructions in entries:
        if found.closed_s is None and isinstance(event, Arrived) and _round(event.assignment) == round_:
            found.arrived_s.append(event.at_s)
            found.given.append(_site(event.assignment))
        for instruction in instructions:
            _note(found, event, instruction, round_)
    found.asked.sort()
    found.given.sort()
    return found


def _note(found: Closing, event: Event, instruction: Instruction, round_: int) -> None:
    if isinstance(instruction, Send):
        found.goes_on |= instruction.round > round_
        if instruction.round == round_ and instruction.attempt == 1:
            found.opened_s = found.opened_s if found.asked else event.at_s
            found.asked.append(instruction.site)
    elif isinstance(instruction, Abort) and found.asked and found.closed_s is None:
        found.closed_s, found.abort = event.at_s, instruction.reason
    elif isinstance(instruction, Aggregate | Skip) and instruction.round == round_:
        found.closed_s = event.at_s
        if isinstance(instruction, Aggregate):
            found.coverage = instruction.coverage
            found.given = [_site(assignment) for assignment in instruction.assignments]


def examples_of(entries: Iterable[Entry]) -> dict[str, int]:
    """Return how many examples each site joined with."""
    joined = [event.capability for event, _ in entries if isinstance(event, SiteJoined)]
    return {capability.site: sum(capability.subtasks.values()) for capability in joined}


def _summary_faults(
    summary: Mapping[str, Any], found: Closing, survivors: Sequence[str], expected: float
) -> list[str]:
    """Return what the summary says wrongly of the round."""
    faults = []
    rows = [row for row in summary["coverage"] if row["round"] == LOST_ROUND]
    if found.coverage is not None:
        said = [(row["asked"], row["contributed"]) for row in rows]
        if said != [(len(found.asked), len(survivors))]:
            faults.append(f"the summary's coverage says {said}")
        if rows and not math.isclose(rows[0]["examples_share"], expected):
            faults.append(f"the summary's share of examples is {rows[0]['examples_share']}")
    of_round = [row for row in summary["allocations"] if row["round"] == LOST_ROUND]
    counted = sorted(row["site"] for row in of_round if row["outcome"] == "contributed")
    if counted != survivors:
        faults.append(f"by the summary {counted} contributed")
    return faults


def _round(assignment: str) -> int:
    return int(assignment.split("/")[1])


def _site(assignment: str) -> str:
    return assignment.split("/")[3]
