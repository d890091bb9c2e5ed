"""What the benchmark of allocation prints: times to all targets, the end on test rows, costs, differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from simulations.benchmarks.allocation_measures import (
    Difference,
    Run,
    by_seed,
    final_shares,
    jain,
    kaplan_meier,
    minimum_auc,
    paired,
    reached,
    share_auc,
)
from simulations.benchmarks.allocation_sites import Size

BASELINE: Final = "random"
OURS: Final = "consilium"
UPPER: Final = "everyone"
# One part changed each: what the policy is made of.
PAIRS: Final = (
    (OURS, "random, with budgets"),
    ("consilium, no budgets", "assignment"),
    ("consilium, no budgets", "bandit"),
    (OURS, "consilium, β = 1"),
    ("consilium, no budgets", "consilium, no budgets, β = 1"),
    (OURS, "consilium, crowding = 0"),
)
# The time over which the worst subtask is averaged: random is through in most runs on seeds from 100 up.
HORIZON_S: Final = 600.0

Targets = Mapping[str, float]


def names(runs: Sequence[Run]) -> list[str]:
    """Return the names of the policies, in the order in which they were run."""
    return list(dict.fromkeys(run["name"] for run in runs))


def lines(runs: Sequence[Run], targets: Targets, size: Size) -> list[str]:
    """Return what is printed."""
    seeds = sorted({run["seed"] for run in runs})
    goals = ", ".join(f"{name} {value:g}" for name, value in targets.items())
    head = (
        f"Seeds {seeds[0]} to {seeds[-1]}; {size.sites} sites, one subtask a site and round, at most "
        f"{size.rounds} rounds, speeds log-normal {size.sigma:g}, drop-out {size.dropout[0]:.0%} to "
        f"{size.dropout[1]:.0%}. Targets on validation rows: {goals}. KM: Kaplan-Meier; mean: restricted to "
        "the longest run; worst: the worst subtask's share of its target, at most 1, mean over "
        f"{HORIZON_S:.0f} simulated s; Jain: over the subtasks' same means; end: test value over target, "
        "mean over subtasks; paid: what the auction pays; ± are standard deviations over seeds."
    )
    return [
        *(head, "", *_table(runs, targets), "", *_differences(runs, targets), ""),
        *(*_pairs(runs, targets), "", *_subtasks(runs, targets)),
    ]


def _table(runs: Sequence[Run], targets: Targets) -> Iterable[str]:
    yield (
        "| policy | seeds | all at target | s, KM median | s, mean | rounds, KM median | rounds, mean "
        "| worst | Jain | end | MB | s a round | came in | paid |"
    )
    yield "|" + " --- |" + " ---: |" * 13
    horizon_s = max(reached(run, "simulated_s", targets).at for run in runs)
    horizon = max(reached(run, "round", targets).at for run in runs)
    for name in names(runs):
        mine = [run for run in runs if run["name"] == name]
        seconds = kaplan_meier([reached(run, "simulated_s", targets) for run in mine], horizon_s)
        rounds = kaplan_meier([reached(run, "round", targets) for run in mine], horizon)
        cells = [
            _bold(name),
            str(len(mine)),
            f"{seconds.events} of {len(mine)}",
            _known(seconds.median),
            f"{seconds.restricted_mean:.0f}",
            _known(rounds.median),
            f"{rounds.restricted_mean:.1f}",
            _spread((minimum_auc(run, targets, HORIZON_S) for run in mine), 3),
            _spread((jain(share_auc(run, targets, HORIZON_S)) for run in mine), 3),
            _spread((float(final_shares(run, targets).mean()) for run in mine), 3),
            _spread((run["bytes"] / 1e6 for run in mine), 1),
            _spread((run["simulated_s"] / run["rounds"] for run in mine), 1),
            f"{sum(run['contributed'] for run in mine) / sum(run['asked'] for run in mine):.0%}",
            _spread((run["payment"] for run in mine), 0) if any(run["payment"] for run in mine) else "-",
        ]
        yield f"| {' | '.join(cells)} |"


def _bold(name: str) -> str:
    return f"**{name}**" if name == OURS else name


def _known(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.0f}"


def _spread(values: Iterable[float], digits: int) -> str:
    found = list(values)
    sd = statistics.stdev(found) if len(found) > 1 else 0.0
    return f"{statistics.mean(found):.{digits}f} ± {sd:.{digits}f}"


def measures(targets: Targets) -> dict[str, tuple[Callable[[Run], float], bool, int]]:
    """Return what is compared seed by seed: the figure, whether less is better, and its digits."""
    return {
        "log2 of seconds": (lambda run: math.log2(reached(run, "simulated_s", targets).at), True, 2),
        "seconds": (lambda run: reached(run, "simulated_s", targets).at, True, 0),
        "rounds": (lambda run: reached(run, "round", targets).at, True, 1),
        "worst": (lambda run: minimum_auc(run, targets, HORIZON_S), False, 3),
        "end": (lambda run: float(final_shares(run, targets).mean()), False, 3),
        "MB": (lambda run: run["bytes"] / 1e6, True, 1),
    }


def compare(runs: Sequence[Run], targets: Targets, name: str, other: str) -> dict[str, Difference | None]:
    """Return the paired differences name − other by figure; a censored time counts as it was seen last."""
    return {
        key: paired(by_seed(runs, name, value), by_seed(runs, other, value), lower=lower)
        for key, (value, lower, _) in measures(targets).items()
    }


def _differences(runs: Sequence[Run], targets: Targets) -> Iterable[str]:
    digits = {key: entry[2] for key, entry in measures(targets).items()}
    shown = [key for key in digits if key != "log2 of seconds"]
    yield (
        f"Differences to {BASELINE}, paired over seeds, with 95 % intervals (Student's t); in brackets the "
        "seeds in which the policy was better. The ratio of times is the geometric mean. A censored time "
        "counts as the last moment seen, in favour of the policy that was slower."
    )
    yield ""
    yield f"| policy − {BASELINE} | seeds | ratio of times | {' | '.join(shown)} |"
    yield "|" + " --- |" + " ---: |" * (2 + len(shown))
    for name in names(runs):
        found = compare(runs, targets, name, BASELINE)
        if name == BASELINE or (times := found["log2 of seconds"]) is None:
            continue
        cells = [_bold(name), str(times.pairs), ratio(times)]
        cells += [_interval(found[key], digits[key]) for key in shown]
        yield f"| {' | '.join(cells)} |"


def ratio(found: Difference) -> str:
    """Return a ratio of times with its interval, from a difference of their logarithms."""
    if not math.isfinite(found.low):
        return f"{2**found.mean:.2f}"
    return f"{2**found.mean:.2f} [{2**found.low:.2f}, {2**found.high:.2f}]"


def _interval(found: Difference | None, digits: int) -> str:
    if found is None:
        return "-"
    spread = f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]" if math.isfinite(found.low) else ""
    return f"{found.mean:+.{digits}f}{spread} ({found.better})"


def _pairs(runs: Sequence[Run], targets: Targets) -> Iterable[str]:
    yield "What the default is made of: ratio of times of one policy to another, and difference of the end."
    yield ""
    yield "| policy | against | seeds | ratio of times | end |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for name, other in PAIRS:
        found = compare(runs, targets, name, other)
        if (times := found["log2 of seconds"]) is not None:
            yield f"| {name} | {other} | {times.pairs} | {ratio(times)} | {_interval(found['end'], 3)} |"


def _subtasks(runs: Sequence[Run], targets: Targets) -> Iterable[str]:
    order = sorted(targets)
    yield "Rounds until each subtask is at its target, median over seeds; 'never': half did not reach it."
    yield ""
    yield f"| policy | {' | '.join(order)} |"
    yield "|" + " --- |" + " ---: |" * len(order)
    for name in names(runs):
        mine = [run for run in runs if run["name"] == name]
        cells = [_median_round(mine, subtask, targets[subtask]) for subtask in order]
        yield f"| {_bold(name)} | {' | '.join(cells)} |"


def _median_round(runs: Sequence[Run], subtask: str, target: float) -> str:
    only = [{**run, "subtasks": {subtask: run["subtasks"][subtask]}} for run in runs]
    times = [reached(run, "round", {subtask: target}) for run in only]
    middle = kaplan_meier(times, float(max(x.at for x in times))).median
    return "never" if middle is None else f"{middle:.0f}"


def verdict(runs: Sequence[Run], targets: Targets, rivals: Sequence[str]) -> dict[str, Any]:
    """Return the bars: who was faster beyond noise, who had a higher mean, and the time over random's."""
    against = {name: compare(runs, targets, OURS, name) for name in rivals if name != OURS}
    slower = [n for n, d in against.items() if (x := d["log2 of seconds"]) and x.mean > 0 and x.excludes_zero]
    lost = [n for n, d in against.items() if (x := d["end"]) and x.mean < 0 and x.excludes_zero]
    times = against[BASELINE]["log2 of seconds"]
    return {
        "slower than": slower,
        "lower mean than": lost,
        "time over random": None if times is None else float(np.exp2(times.mean)),
    }
