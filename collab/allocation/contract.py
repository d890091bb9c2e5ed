"""What an allocator sees and what it may answer.

A policy is a file of this folder, or an entry point ``allocation.NAME``, with

    def allocate(request: Request, rng: np.random.Generator) -> list[Suggestion] | Decision

It may be naive: ``collab.allocation.feasibility.plan`` refuses what a site cannot do. It may take
its randomness from ``rng`` alone, and it sees the sites in order of name. It may further have

* ``Options``, a frozen dataclass of defaults that checks its ranges: ``allocate`` is then called with
  ``options=``, filled from ``[allocation] policy = { rule = NAME, ... }``;
* ``IGNORES_CAPACITY = True``, if every site shall do all that it can;
* ``USES``, what must be gathered for it before it is asked: ``frozenset({"ballots"})``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import ConfigError

# A fast site does at most so many times its local epochs in a round.
LARGEST_BUDGET: Final = 10.0


@dataclass(frozen=True)
class SubtaskView:
    """What an allocator sees of a subtask."""

    name: str
    importance: float
    min_sites: int
    needs_memory_mib: float
    needs_min_examples: int
    smallest_model_mib: float  # memory of the smallest model of its list
    max_sites: int | None = None  # the largest cohort of a round; None: no limit
    loss: float = 1.0  # f_k: smoothed validation loss over that of the best constant answer
    weight: float = 1.0  # f_k^(α-1), what the objective Σ λ_k f_k^α says of it beside its importance
    exploration: float = 1.0  # above 1 for a while after a drift alarm
    normalises: bool = True  # its aggregation divides by steps (fednova): sites may do unlike work
    together: tuple[str, ...] = ()  # whose training this is, where it leads a group (``joint_views``)


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
    class_counts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # as it lets out
    reputation: float = 1.0  # 0 to 1: measured credit and punctuality
    on_probation: bool = False  # back from quarantine, not yet cleared
    quarantined_until: int = 0  # the last round in which it must not be asked; 0: it may be


@dataclass(frozen=True)
class Belief:
    """What was learnt of a (site, subtask) pair, from the run's events alone, so that it replays.

    Attributes:
        gain: mean of what one contribution lowered f_k by; 0 to 1, above 0 before anything is known.
        gain_sd: how uncertain that mean is: the standard deviation of its posterior.
        seconds: predicted seconds of one round.
        seconds_sd: standard deviation of the logarithm of that prediction.
        attempts: how often the pair was asked, whatever came of it; ``weight`` is the same with old
            ones discounted.
        last_round: the last round in which it contributed; 0 for never.
        loss: the last validation loss of the subtask's model on the site's own rows, over f_k's
            reference; None before it was measured.
    """

    gain: float = 0.1
    gain_sd: float = 0.1
    seconds: float = 1.0
    seconds_sd: float = 1.0
    attempts: int = 0
    weight: float = 0.0
    last_round: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class Ballot:
    """A site's vote on the others' models of a subtask, judged on its own validation rows.

    ``order`` is best first and leaves the voter out; ``approved`` are those among them that beat the
    best constant answer on these rows.
    """

    voter: str
    order: tuple[str, ...]
    approved: frozenset[str]


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
    alpha: float = 1.0  # of the objective Σ λ_k f_k^α
    beliefs: Mapping[tuple[str, str], Belief] = field(default_factory=dict)  # (site, subtask)
    ballots: Mapping[str, tuple[Ballot, ...]] = field(default_factory=dict)  # subtask -> last poll

    def __post_init__(self) -> None:
        _check_unique("subtasks", (subtask.name for subtask in self.subtasks))
        _check_unique("sites", (site.name for site in self.sites))
        if self.capacity < 1:
            raise ConfigError(f"[allocation] max_subtasks_per_site is {self.capacity}, it must be at least 1")

    def belief(self, site: str, subtask: str) -> Belief:
        """Return what is believed of the pair; before anything was measured, the prior."""
        return self.beliefs.get((site, subtask), Belief())

    def seconds(self, site: SiteView, subtask: str) -> float:
        """Return the pair's predicted seconds of a round: as believed, else by the site's figures; else 0."""
        known = self.beliefs.get((site.name, subtask))
        return known.seconds if known else site.seconds.get(subtask, 0.0)


@dataclass(frozen=True)
class Suggestion:
    """One site for one subtask; of two that compete for a site's capacity the higher score wins.

    Attributes:
        reason: one sentence for people: "utility 0.41: 31 % of the examples, 12 s, waited 3 rounds".
        payment: what an auction pays the site for it, in the unit of its price.
        inclusion: the chance with which the pair was drawn, for an unbiased average; None for a rule
            that does not draw.
        budget: how much of its local epochs the site shall do, above 0 and at most ``LARGEST_BUDGET``; 1 is
            all of them, once.
    """

    site: str
    subtask: str
    score: float
    reason: str
    payment: float = 0.0
    inclusion: float | None = None
    budget: float = 1.0


@dataclass(frozen=True)
class Candidate:
    """A pair that a policy weighed and passed over, and why: "0.31, digits is worth 0.45 to it"."""

    site: str
    subtask: str
    score: float
    reason: str


@dataclass(frozen=True)
class Decision:
    """What a policy suggests, and what it weighed beside it, for those who ask why."""

    suggestions: tuple[Suggestion, ...]
    passed_over: tuple[Candidate, ...] = ()


def _check_unique(what: str, names: Iterable[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ConfigError(f"allocation: two {what} are called '{twice[0]}', names must differ")
