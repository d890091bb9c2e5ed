"""What a run has taught about its sites and subtasks: the beliefs behind the next allocation.

Everything here follows from the run's events in their order, so a replayed log gives the same
beliefs, and feedback of round t is there when round t + 1 is planned. Nothing is learnt from test rows.

The gain of a contribution is its part of what its round took off the lowest f_k so far
(``collab.objective``), as if its site had been alone: parts are by examples times credit, and a cohort of n
is worth Σ 1/j sites. A loss that swings gains nothing by coming back. A pair's gains have a Normal-Gamma
posterior whose prior is the mean of the subtask's own gains, in proportion to the site's examples, and as
wide as that. Old evidence is discounted every round and a gain may
wander meanwhile, so a pair that is not asked becomes uncertain again; an alarm of drift halves what
is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from collab.allocation.contract import Belief
from collab.drift import PageHinkley
from collab.objective import fair_weight, smoothed, worth_of
from collab.pace import Pace
from collab.standing import Standing, judge

# A gain before any was measured: a tenth of what there is to learn.
FIRST_GAIN = 0.1
# What is kept of the evidence from one round to the next.
DISCOUNT = 0.9
# How far a gain may wander in a round, as a part of the subtask's mean gain.
WANDERS = 1.0
# After an alarm: how much more is explored, and how much of that is left a round later.
EXPLORE_AFTER_ALARM, EXPLORE_DECAY = 2.0, 0.8
# A site with many more or fewer examples than the others is expected to gain so much more or less, at most.
WIDEST = 10.0
_LEAST = 1e-9


@dataclass(frozen=True)
class Gains:
    """Discounted sums of gains: how many, their total, the total of their squares, and of their examples."""

    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    examples: float = 0.0

    def plus(self, gain: float, examples: int = 0) -> Gains:
        """Return the sums with one more."""
        return Gains(self.n + 1.0, self.total + gain, self.squares + gain * gain, self.examples + examples)

    def times(self, factor: float) -> Gains:
        """Return the sums, discounted."""
        return Gains(self.n * factor, self.total * factor, self.squares * factor, self.examples * factor)

    def usual(self, examples: int) -> float:
        """Return what a contribution of so many examples gained on average; of 0: whatever it has."""
        if examples <= 0 or self.examples <= 0.0:
            return self.mean
        return self.mean * min(max(examples * self.n / self.examples, 1.0 / WIDEST), WIDEST)

    @property
    def mean(self) -> float:
        """The mean; ``FIRST_GAIN`` counts as one half of an observation, so there is always one."""
        return (self.total + 0.5 * FIRST_GAIN) / (self.n + 0.5)

    def posterior(self, prior_mean: float) -> tuple[float, float]:
        """Return mean and sd of the posterior of the mean: Normal-Gamma, κ0 = 1, a0 = 1, b0 = prior_mean²."""
        kappa = 1.0 + self.n
        mean = (prior_mean + self.total) / kappa
        b = prior_mean**2
        if self.n > 0:
            own = self.total / self.n
            b += 0.5 * max(0.0, self.squares - self.n * own * own)
            b += 0.5 * self.n / kappa * (own - prior_mean) ** 2
        return mean, math.sqrt(max(b / (1.0 + self.n / 2), _LEAST**2) / kappa)


@dataclass(frozen=True)
class SubtaskRecord:
    """How a subtask fares: the lowest f_k and the smoothed one, its gains, and whether its loss drifts."""

    best: float = 1.0
    smooth: float | None = None
    gains: Gains = field(default_factory=Gains)
    drift: PageHinkley = field(default_factory=PageHinkley)
    exploration: float = 1.0

    @property
    def loss(self) -> float:
        """The smoothed f_k; 1, as good as the constant answer, before it was measured."""
        return 1.0 if self.smooth is None else self.smooth


@dataclass(frozen=True)
class PairRecord:
    """How a site fares with a subtask."""

    gains: Gains = field(default_factory=Gains)
    attempts: int = 0
    last_asked: int = 0
    last_round: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class Contributed:
    """One contribution of the round: how many examples it is of."""

    site: str
    examples: int


@dataclass(frozen=True)
class Measured:
    """What was measured of a subtask at the end of a round.

    Attributes:
        loss: over that of the best constant answer; None where no site could measure it.
        losses: f_k on each site's own validation rows.
        credits: how well each contribution agreed with what was made of all, relative to the
            cohort's median, 0 to 1; a site that is missing counts as 1.
        to_go: what is left of the way to the subtask's target; None where it has none.
    """

    loss: float | None
    losses: Mapping[str, float]
    credits: Mapping[str, float]
    to_go: float | None = None


class Beliefs:
    """The beliefs of one run. They change by what happened alone, in the order in which it happened."""

    def __init__(self) -> None:
        self._subtasks: dict[str, SubtaskRecord] = {}
        self._pairs: dict[tuple[str, str], PairRecord] = {}
        self._paces: dict[str, Pace] = {}
        self._standings: dict[str, Standing] = {}

    def as_json(self) -> dict[str, Any]:
        """Return all that is believed, for the record; infinite numbers as text."""
        pairs = {f"{site}/{subtask}": asdict(r) for (site, subtask), r in sorted(self._pairs.items())}
        found: dict[str, Any] = _finite(
            {
                "subtasks": {name: asdict(one) for name, one in sorted(self._subtasks.items())},
                "pairs": pairs,
                "paces": {site: asdict(one) for site, one in sorted(self._paces.items())},
                "standings": {site: asdict(one) for site, one in sorted(self._standings.items())},
            }
        )
        return found

    # -- what happened --------------------------------------------------------------------------

    def joined(self, site: str) -> None:
        """A site is there; one that comes back keeps its record."""
        self._standings.setdefault(site, Standing())

    def answered(self, site: str, subtasks: Iterable[str], round_: int) -> None:
        """A contribution came in time: of one subtask, or of those of a group that the site has."""
        for subtask in subtasks:
            before = self._pair(site, subtask)
            self._pairs[site, subtask] = replace(
                before, attempts=before.attempts + 1, last_asked=round_, last_round=round_
            )
        self._standings[site] = self.standing(site).answered(True)

    def paced(self, site: str, work_s: float, seconds: float) -> None:
        """A site answered, in time or late, after ``seconds`` where its figures predicted ``work_s``."""
        self._paces[site] = self._paces.get(site, Pace()).observe(work_s, seconds)

    def failed(self, site: str, subtasks: Iterable[str], round_: int, *, poisoned: bool) -> None:
        """An assignment gave nothing, a gain of 0; ``poisoned``: what came was refused as impossible."""
        for subtask in subtasks:
            before = self._pair(site, subtask)
            self._pairs[site, subtask] = replace(
                before, attempts=before.attempts + 1, last_asked=round_, gains=before.gains.plus(0.0)
            )
        standing = self.standing(site).answered(False)
        self._standings[site] = standing.credited(0.0, round_) if poisoned else standing

    def measured(self, subtask: str, round_: int, given: tuple[Contributed, ...], found: Measured) -> None:
        """Take in a subtask's measurement after ``given`` were merged."""
        for site, loss in found.losses.items():
            self._pairs[site, subtask] = replace(self._pair(site, subtask), loss=loss)
        for one in given:
            credit = found.credits.get(one.site, 1.0)
            self._standings[one.site] = self.standing(one.site).credited(credit, round_)
        if found.loss is None:
            return
        record = self.subtask(subtask)
        f = found.loss if found.to_go is None else found.to_go
        alone = max(record.best - f, 0.0) * len(given) / max(worth_of(len(given)), 1.0)
        gains, parts = record.gains, _parts(given, found.credits)
        for one in given:
            pair, gain = self._pair(one.site, subtask), alone * parts[one.site]
            self._pairs[one.site, subtask] = replace(pair, gains=pair.gains.plus(gain, one.examples))
            gains = gains.plus(gain, one.examples)
        drift, smooth = record.drift.observe(found.loss), smoothed(record.smooth, f)
        self._subtasks[subtask] = SubtaskRecord(
            max(smooth, f) if drift.alarm else min(record.best, f),
            smooth,
            gains,
            drift,
            EXPLORE_AFTER_ALARM if drift.alarm else record.exploration,
        )
        if drift.alarm:
            self._forget(subtask)

    def round_over(self, contributed: frozenset[str], round_: int) -> None:
        """Discount what was learnt, and judge who contributed in the round."""
        self._pairs = {k: replace(p, gains=p.gains.times(DISCOUNT)) for k, p in self._pairs.items()}
        self._subtasks = {
            k: replace(
                s,
                gains=s.gains.times(DISCOUNT),
                exploration=1.0 + EXPLORE_DECAY * (s.exploration - 1.0),
            )
            for k, s in self._subtasks.items()
        }
        self._standings = judge(self._standings, contributed, round_)

    def _forget(self, subtask: str) -> None:
        self._pairs = {
            key: replace(pair, gains=pair.gains.times(0.5)) if key[1] == subtask else pair
            for key, pair in self._pairs.items()
        }

    # -- what is believed -----------------------------------------------------------------------

    def subtask(self, name: str) -> SubtaskRecord:
        """Return how a subtask fares."""
        return self._subtasks.get(name, SubtaskRecord())

    def weight(self, name: str, alpha: float) -> float:
        """Return f_k^(α-1)."""
        return fair_weight(self.subtask(name).loss, alpha)

    def standing(self, site: str) -> Standing:
        """Return a site's record."""
        return self._standings.get(site, Standing())

    def seconds(self, site: str, work_s: float) -> tuple[float, float]:
        """Return the seconds that so much predicted work takes the site, and the sd of their logarithm."""
        return self._paces.get(site, Pace()).predict(work_s)

    def last_round(self, site: str, subtask: str) -> int:
        """Return the last round in which the pair contributed; 0 for never."""
        return self._pair(site, subtask).last_round

    def belief(self, site: str, subtask: str, work_s: float, round_: int, examples: int = 0) -> Belief:
        """Return what is believed of a pair with so many examples (0: not known) as ``round_`` is planned.

        Its gain may have wandered since it was last asked: the variance grows with every round of waiting,
        so every pair comes round in the end.
        """
        pair = self._pair(site, subtask)
        usual = self.subtask(subtask).gains.usual(examples)
        gain, gain_sd = pair.gains.posterior(usual)
        gain_sd = math.hypot(gain_sd, WANDERS * usual * math.sqrt(max(round_ - 1 - pair.last_asked, 0)))
        seconds, seconds_sd = self.seconds(site, work_s)
        return Belief(
            gain=gain,
            gain_sd=gain_sd,
            seconds=seconds,
            seconds_sd=seconds_sd,
            attempts=pair.attempts,
            weight=pair.gains.n,
            last_round=pair.last_round,
            loss=pair.loss,
        )

    def _pair(self, site: str, subtask: str) -> PairRecord:
        return self._pairs.get((site, subtask), PairRecord())


def _parts(given: tuple[Contributed, ...], credit_of: Mapping[str, float]) -> dict[str, float]:
    """Return each contribution's part of a round, by examples times credit; they sum to 1."""
    if not given:
        return {}
    weights = {c.site: max(c.examples, 1) * max(credit_of.get(c.site, 1.0), 0.0) for c in given}
    total = sum(weights.values())
    if total <= 0.0:
        return {site: 1.0 / len(weights) for site in weights}
    return {site: weight / total for site, weight in weights.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_finite(one) for one in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
