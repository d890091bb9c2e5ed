"""The default policy: the most measured gain, solved exactly, in cohorts that finish together.

    u_ik = λ_k f_k^(α-1) · (gain_ik + exploration_k κ sd_ik) · r_i / slow_ik^β / n_k^c − price · price_i s_ik

gain_ik ± sd_ik is what a contribution of the pair alone is believed to lower f_k by, r_i the site's
reputation, s_ik the predicted seconds of a round, slow_ik those over the median of the sites that can do k.
The gain counts half while a site is on probation. The optimism is an upper confidence bound (Auer et al.,
Machine Learning, 2002): where sd_ik grows with the time since a pair was asked, each feasible pair of
positive importance and reputation comes round; where it only returns to a prior, those do whose prior
is not below what their site does instead. A pair that never finishes is worth nothing.

β is 0 unless set: the budgets below let all sites take the same time, and each site is asked in any case,
so a fast one gains nothing by where it is sent. With β = 1 runs took about a tenth longer, with budgets
and without (docs/results/allocation.md).

A cohort's further sites add less and less: the j-th is worth 1 / j^c of the first (``crowding`` c), so small
cohorts get sites before large ones get more. n_k is the cohort that k would have if each site drew among
what it can do; what other places of a cohort are worth more or less than that one is counted for the
subtask's median pair, in steps of rising cost, which leave the programme linear and its vertex whole.

The assignment of greatest total utility within capacity, min_sites and max_sites is found by
``solver``. Pairs worth nothing or less serve a minimum and no more. Class coverage is soft: a class that
at least one site of the cohort holds adds ``coverage`` times the utility of the subtask's best pair, over
the number of classes that can be had. Sites that do not let class counts out cover none.

The sites of a round then get budgets with which they finish together (``budgets``): a slow site a tenth of
its local epochs at least, a fast one ``most`` times them at most, ``work`` times them on average over
examples. That takes an aggregation that normalises by steps, ``fednova``; with others all do the same.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from collab.allocation.budgets import Work, check, finish_together
from collab.allocation.contract import (
    Candidate,
    Decision,
    Request,
    SiteView,
    SubtaskView,
    Suggestion,
)
from collab.allocation.feasibility import able
from collab.allocation.solver import TIE, Coverage, Crowding, Optimum, pose, solve
from protocol.errors import ConfigError

PROBATION: Final = 0.5  # of the gain, while a site is on probation
_EACH: Final = 32  # so many sites of a cohort are weighed one by one, further ones in wider steps


@dataclass(frozen=True)
class Options:
    """What a collaboration may set.

    Attributes:
        beta: β, how much speed counts beside the budgets; 0: not at all.
        kappa: κ, how much uncertainty counts in favour of a pair; 0: no exploration.
        price: what one unit of a site's price is worth in utility; 0: prices play no part.
        coverage: what holding all classes is worth, as a part of the utility of a subtask's best pair.
        crowding: how fast what a further site adds to a cohort falls; 0: not at all.
        work: how many times their local epochs the round's sites do on average, slow ones less.
        most: how many times a fast site does at most; equal to ``work``, all do the same.

    Raises:
        ConfigError: a number is below 0 or not finite, or ``work`` or ``most`` is not in its range.
    """

    beta: float = 0.0
    kappa: float = 1.0
    price: float = 0.0
    coverage: float = 0.25
    crowding: float = 2.0
    work: float = 1.0
    most: float = 4.0

    def __post_init__(self) -> None:
        for name in ("beta", "kappa", "price", "coverage", "crowding"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"allocation 'consilium': {name} is {value}, it must be 0 or more")
        check("consilium", self.work, self.most)


@dataclass(frozen=True)
class _Pair:
    site: SiteView
    subtask: SubtaskView
    gain: float  # optimistic
    seconds: float
    slowness: float  # seconds over the median of the subtask's sites
    cohort: float  # how many sites the subtask would have if each drew among what it can do
    cost: float
    utility: float

    @property
    def key(self) -> tuple[str, str]:
        return self.site.name, self.subtask.name


def allocate(request: Request, rng: np.random.Generator, options: Options | None = None) -> Decision:
    """Suggest the assignment of greatest total utility; the score is the pair's utility."""
    chosen_options = options or Options()
    pairs = _pairs(request, chosen_options)
    if not pairs:
        return Decision(())
    utility_P = np.array([pair.utility for pair in pairs])
    coverage = _coverage(pairs, chosen_options.coverage)
    crowding = _crowding(request, pairs, chosen_options.crowding)
    optimum = solve(pose(request, [pair.key for pair in pairs], utility_P, coverage, crowding), rng)
    taken = [pair for pair, is_chosen in zip(pairs, optimum.chosen_P, strict=True) if is_chosen]
    works = [
        Work(*pair.key, pair.site.examples[pair.subtask.name], pair.seconds)
        for pair in taken
        if pair.subtask.normalises
    ]
    budgets = finish_together(works, chosen_options.work, chosen_options.most)
    cohorts = Counter(pair.subtask.name for pair in taken)
    return Decision(
        tuple(_suggest(pair, cohorts[pair.subtask.name], budgets.get(pair.key, 1.0)) for pair in taken),
        _passed_over(request, pairs, taken, optimum),
    )


def _pairs(request: Request, options: Options) -> list[_Pair]:
    found = able(request)
    feasible = [(site, subtask) for site, subtasks in found for subtask in subtasks]
    cohort_of: defaultdict[str, float] = defaultdict(float)
    for _, subtasks in found:
        for subtask in subtasks:
            cohort_of[subtask.name] += min(1.0, request.capacity / len(subtasks))
    known: defaultdict[str, list[float]] = defaultdict(list)
    for site, subtask in feasible:
        seconds = _seconds(request, site, subtask.name)
        if seconds is not None and math.isfinite(seconds):
            known[subtask.name].append(seconds)
    medians = {name: median(seconds) for name, seconds in known.items()}
    return [
        _pair(request, options, site, subtask, medians.get(subtask.name), max(cohort_of[subtask.name], 1.0))
        for site, subtask in feasible
    ]


def _seconds(request: Request, site: SiteView, subtask: str) -> float | None:
    believed = request.beliefs.get((site.name, subtask))
    return believed.seconds if believed else site.seconds.get(subtask)


def _pair(
    request: Request,
    options: Options,
    site: SiteView,
    subtask: SubtaskView,
    middle: float | None,
    cohort: float,
) -> _Pair:
    belief = request.belief(site.name, subtask.name)
    predicted = _seconds(request, site, subtask.name)
    seconds = predicted if predicted is not None else middle or 0.0
    # Capped, so that a prediction of (nearly) nothing or of ages does not drown all other pairs.
    slowness = min(max(seconds / middle, 1e-3), 1e3) if middle else 1.0
    gain = belief.gain + subtask.exploration * options.kappa * belief.gain_sd
    trust = site.reputation * (PROBATION if site.on_probation else 1.0)
    speed = slowness**-options.beta if math.isfinite(seconds) else 0.0
    place = cohort**-options.crowding
    worth = subtask.importance * subtask.weight * gain * trust * speed * place
    cost = options.price * site.price * min(seconds, slowness * (middle or 0.0))
    return _Pair(
        site, subtask, gain, seconds, slowness, cohort if options.crowding else 1.0, cost, worth - cost
    )


def _crowding(request: Request, pairs: Sequence[_Pair], exponent: float) -> Crowding | None:
    """Return what each further site of a cohort is worth less than one of a usual cohort, rising costs."""
    if exponent == 0.0:
        return None
    steps: list[tuple[int, int, float]] = []
    for k, subtask in enumerate(request.subtasks):
        mine = [pair for pair in pairs if pair.subtask.name == subtask.name]
        worths = [pair.utility for pair in mine if pair.utility > 0]
        if not worths:
            continue
        usual, typical = mine[0].cohort, median(worths)
        places_J = places(subtask.min_sites + 1, len(mine), usual, exponent)
        steps += [(k, width, typical * (1.0 - factor)) for width, factor in places_J]
    subtask_J, width_J, cost_J = zip(*steps, strict=True) if steps else ((), (), ())
    return Crowding(np.array(subtask_J, np.intp), np.array(width_J, np.float64), np.array(cost_J))


def places(first: int, last: int, usual: float, exponent: float) -> Iterator[tuple[int, float]]:
    """Yield what the places of a cohort are worth over the one after ``usual`` sites, in steps.

    A step is (sites wide, factor): the j-th site of a cohort is worth 1 / j^exponent of the first.
    """
    while first <= last:
        width = max(1, first // _EACH)
        yield width, ((first + (width - 1) / 2) / usual) ** -exponent
        first += width


def _coverage(pairs: Sequence[_Pair], share: float) -> Coverage | None:
    if share == 0.0:
        return None
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    best: defaultdict[str, float] = defaultdict(float)
    for index, pair in enumerate(pairs):
        best[pair.subtask.name] = max(best[pair.subtask.name], pair.utility)
        counts = pair.site.class_counts.get(pair.subtask.name, ())
        for label in np.flatnonzero(np.asarray(counts) > 0):
            groups[pair.subtask.name, int(label)].append(index)
    classes = Counter(subtask for subtask, _ in groups)
    sizes = [len(members) for members in groups.values()]
    return Coverage(
        group_Q=np.repeat(np.arange(len(groups)), sizes),
        pair_Q=np.array([index for members in groups.values() for index in members], np.intp),
        bonus_G=np.array([share * best[subtask] / classes[subtask] for subtask, _ in groups]),
    )


def _suggest(pair: _Pair, cohort: int, budget: float) -> Suggestion:
    subtask, site = pair.subtask, pair.site
    parts = [
        f"gain {_short(pair.gain)} at best",
        f"importance {_short(subtask.importance)} × weight {_short(subtask.weight)}",
        f"reputation {_short(site.reputation)}{', half on probation' if site.on_probation else ''}",
        f"{_short(pair.seconds)} s ({_short(pair.slowness)} of the median)",
    ]
    if pair.cohort > 1:
        parts.append(f"as one of {max(cohort, 1)}")
    if pair.cost:
        parts.append(f"less {_short(pair.cost)} for its price")
    if cohort < subtask.min_sites:
        parts.append(f"{cohort} of the {subtask.min_sites} sites that it needs, no more can be had")
    elif pair.utility <= 0:
        # Beyond the minima only a class that no other site of the cohort has can outweigh a loss.
        needed = cohort == subtask.min_sites
        parts.append(f"for its minimum of {subtask.min_sites} sites" if needed else "for its classes")
    if budget != 1.0:
        parts.append(f"{100 * budget:.0f} % of its epochs, to finish with the others")
    reason = f"utility {_short(pair.utility)}: {', '.join(parts)}"
    return Suggestion(site.name, subtask.name, pair.utility, reason, budget=budget)


def _passed_over(
    request: Request, pairs: Sequence[_Pair], taken: Sequence[_Pair], optimum: Optimum
) -> tuple[Candidate, ...]:
    """Return each pair that was weighed and not taken, with what stood in its way and what it lacked."""
    cohorts = Counter(pair.subtask.name for pair in taken)
    mine: defaultdict[str, list[_Pair]] = defaultdict(list)
    for pair in taken:
        mine[pair.site.name].append(pair)
    found = []
    for pair, is_chosen, rise in zip(pairs, optimum.chosen_P, optimum.rise_P, strict=True):
        if not is_chosen:
            why = _binding(request, pair, mine[pair.site.name], cohorts)
            why += _lack(pair, float(rise), 4 * TIE * abs(pair.utility), optimum.is_exact)
            found.append(
                Candidate(*pair.key, pair.utility, f"worth {_short(pair.utility)}: {'; '.join(why)}")
            )
    return tuple(found)


def _binding(request: Request, pair: _Pair, own: Sequence[_Pair], cohorts: Mapping[str, int]) -> list[str]:
    """Return the constraints that hold with equality where the pair would go."""
    binding = ["it gains no more than it costs"] if pair.utility <= 0 else []
    if cohorts[pair.subtask.name] == pair.subtask.max_sites:
        binding.append(f"the cohort is full at {pair.subtask.max_sites}")
    if len(own) >= request.capacity:
        minima = [other for other in own if cohorts[other.subtask.name] <= other.subtask.min_sites]
        better = [other for other in own if other in minima or other.utility >= pair.utility]
        binding += [_place(other, other in minima) for other in (better if binding else own)]
        if pair.cohort > 1 and not better and cohorts[pair.subtask.name] > 0:
            crowd = cohorts[pair.subtask.name]
            binding.append(f"with {crowd} site{'' if crowd == 1 else 's'} there already, one more adds less")
    return binding


def _place(pair: _Pair, is_minimum: bool) -> str:
    """Return why the site's place is with that subtask."""
    minimum = f" and needs it for its minimum of {pair.subtask.min_sites}" if is_minimum else ""
    return f"{pair.subtask.name} is worth {_short(pair.utility)} to the site{minimum}"


def _lack(pair: _Pair, rise: float, tie: float, is_exact: bool) -> list[str]:
    if math.isinf(rise):
        return ["no worth of its own would do, a minimum comes first"]
    if rise <= tie:
        return ["a tie, settled by lot"] if pair.utility > 0 else []
    return [f"it lacks {'' if is_exact else 'at least '}{_short(rise)}"]


def _short(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"
