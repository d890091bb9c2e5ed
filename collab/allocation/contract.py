"""What an allocator sees and what it may answer.

A policy is a file of this folder, or an entry point ``allocation.NAME``, with

    def allocate(request: Request, rng: np.random.Generator) -> list[Suggestion]

and, if every site shall do all that it can, ``IGNORES_CAPACITY = True``. It may be naive:
``collab.allocation.feasibility.plan`` refuses what a site cannot do. It may take its
randomness from ``rng`` alone, and it sees the sites in order of name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.errors import ConfigError


@dataclass(frozen=True)
class SubtaskView:
    """What an allocator sees of a subtask."""

    name: str
    importance: float
    min_sites: int
    needs_memory_mib: float
    needs_min_examples: int
    smallest_model_mib: float  # memory of the smallest model of its list
    weight: float = 1.0  # of an α-fair policy


@dataclass(frozen=True)
class SiteView:
    """What an allocator sees of a site: its capability, and the seconds predicted from it."""

    name: str
    memory_mib: float
    gpu: bool
    gpu_memory_mib: float
    examples_per_s: float
    bandwidth_mbit: float
    price: float
    examples: Mapping[str, int]  # subtask -> rounded train examples; absent: no data for it
    seconds: Mapping[str, float]  # subtask -> predicted seconds of one round, compute and transfer


@dataclass(frozen=True)
class History:
    """What happened before this round. It is derived from the run's events, so it replays."""

    last_round: Mapping[tuple[str, str], int]  # (site, subtask) -> last round in which it contributed


@dataclass(frozen=True)
class Request:
    """One round's question: who does which subtask?

    Rounds are counted from 1. ``rules`` are predicates on a site, in the order in which they
    were written; a subtask without one is open to every site.

    Raises:
        ConfigError: two subtasks or two sites share a name, or ``capacity`` is below 1.
    """

    round: int
    subtasks: tuple[SubtaskView, ...]
    sites: tuple[SiteView, ...]
    capacity: int  # max_subtasks_per_site, a round
    rules: Mapping[str, str]
    history: History
    seed: int

    def __post_init__(self) -> None:
        _check_unique("subtasks", (subtask.name for subtask in self.subtasks))
        _check_unique("sites", (site.name for site in self.sites))
        if self.capacity < 1:
            raise ConfigError(f"[allocation] max_subtasks_per_site is {self.capacity}, it must be at least 1")


@dataclass(frozen=True)
class Suggestion:
    """One site for one subtask; of two that compete for a site's capacity the higher score wins."""

    site: str
    subtask: str
    score: float
    reason: str  # one sentence for people: "utility 0.41: 31 % of the examples, 12 s, waited 3 rounds"


def _check_unique(what: str, names: Iterable[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ConfigError(f"allocation: two {what} are called '{twice[0]}', names must differ")
