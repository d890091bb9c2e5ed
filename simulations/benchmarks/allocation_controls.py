"""Negative controls of the allocator: where there is nothing to gain it must gain nothing.

* **alike**: four subtasks that are one, IID rows, equal speeds, nobody drops out: no policy beats random.
* **shuffled**: what is measured reaches the beliefs under other subtasks' and sites' names: what is left of
  the gain over random is not learnt. Speeds are no measurement and stay true, so the comparison is also
  made with everything but the measured gain switched off.
* **single**: one subtask that every site can do: every policy is FedAvg over all sites, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from simulations.benchmarks.allocation_measures import Difference, Run, by_seed, paired, reached
from simulations.benchmarks.allocation_sites import TARGETS, Job

# What digits come to on IID rows in a dozen rounds on seeds from 100 up.
DIGITS: Final = 0.85
GAIN_ONLY: Final[tuple[tuple[str, float | str], ...]] = (
    *(("most", 1.0), ("coverage", 0.0), ("crowding", 0.0)),
)
ALIKE: Final = ("random", "round_robin", "fair", "bandit", "consilium")
SINGLE: Final = ("everyone", "random", "round_robin", "fair", "bandit", "lpt", "assignment", "performance")


def control_jobs(seeds: int) -> list[Job]:
    """Return the runs of all three controls."""
    return [job for seed in range(1, seeds + 1) for job in _of_seed(seed)]


def _of_seed(seed: int) -> list[Job]:
    targets, digits = tuple(TARGETS.items()), (("digits", DIGITS),)
    ours = Job("consilium", seed, targets=targets)
    gain = replace(ours, options=GAIN_ONLY, label="gain alone")
    single = [Job(policy, seed, federation="single", targets=digits) for policy in SINGLE]
    return [
        *(Job(policy, seed, federation="equal", targets=digits) for policy in ALIKE),
        *(Job("random", seed, targets=targets), ours, gain),
        *(replace(job, shuffled=True, label=f"{job.name}, shuffled") for job in (ours, gain)),
        *single,
        # Budgets that level unlike sites' times are no FedAvg: all do their epochs once here.
        Job("consilium", seed, (("most", 1.0),), federation="single", targets=digits),
    ]


def control_lines(runs: Sequence[Run]) -> list[str]:
    """Return what is printed."""
    alike = [run for run in runs if run["federation"] == "equal"]
    unlike = [run for run in runs if run["federation"] == "unequal"]
    single = [run for run in runs if run["federation"] == "single"]
    return [
        "Alike: four subtasks that are one, IID rows, equal sites. Policy − random until all are done.",
        *("", *_times(alike, {f"digits-{k}": DIGITS for k in "abcd"})),
        *("", "Shuffled feedback: measurements under wrong names. Policy − random."),
        *("", *_times(unlike, TARGETS)),
        *("", "Single: one subtask, every site. Are the final arrays those of `everyone`, bit for bit?"),
        *("", *_same(single)),
    ]


def _times(runs: Sequence[Run], targets: Mapping[str, float]) -> Iterable[str]:
    yield "| policy | seconds | rounds |"
    yield "| --- | ---: | ---: |"
    for name in dict.fromkeys(run["name"] for run in runs):
        cells = [_cell(runs, name, key, targets) for key in ("simulated_s", "round")]
        yield f"| {name} | {' | '.join(cells)} |"


def _cell(runs: Sequence[Run], name: str, key: str, targets: Mapping[str, float]) -> str:
    mine = by_seed(runs, name, lambda run: reached(run, key, targets).at)
    mean = f"{sum(mine.values()) / len(mine):.1f}"
    if name == "random":
        return mean
    found = paired(mine, by_seed(runs, "random", lambda run: reached(run, key, targets).at), lower=True)
    return f"{mean}: {_shown(found)}" if found else mean


def _shown(found: Difference) -> str:
    if found.pairs == 1:
        return f"{found.mean:+.1f}"
    return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


def _same(runs: Sequence[Run]) -> Iterable[str]:
    yield "| policy | seeds with the same bits |"
    yield "| --- | ---: |"
    of_everyone = {run["seed"]: run["digests"] for run in runs if run["name"] == "everyone"}
    for name in dict.fromkeys(run["name"] for run in runs):
        mine = [run for run in runs if run["name"] == name]
        same = sum(run["digests"] == of_everyone[run["seed"]] for run in mine)
        yield f"| {name} | {same} of {len(mine)} |"
