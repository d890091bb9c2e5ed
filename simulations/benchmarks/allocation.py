"""The allocator on the simulated clock: how long until every subtask is at its target, by policy.

Run: python simulations/benchmarks/allocation.py [--long] [--controls] [--seeds 3] [--jobs 2] [--json PATH]

Five unequal subtasks at twenty unlike sites, real training, one subtask a site and round; partition, first
models and who drops out of which round are the same for all policies. Prints, as Markdown, the time and
the rounds until all subtasks are at their targets on validation rows (censored at the last round,
Kaplan-Meier), the worst subtask over time, what was reached on test rows, and what it cost; then
differences to random, paired over seeds. ``everyone`` may do all that it can and is no competitor: it
shows what the rule of one subtask a round costs. Targets come from ``--pilot``, on seeds of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final

from server.environment import be_quiet

be_quiet()

import torch  # noqa: E402 - Flower reads the environment at its import

from simulations.benchmarks.allocation_controls import control_jobs, control_lines  # noqa: E402
from simulations.benchmarks.allocation_runs import measure  # noqa: E402
from simulations.benchmarks.allocation_sites import METRICS, TARGETS, Job, Size, write_data  # noqa: E402
from simulations.benchmarks.allocation_tables import lines  # noqa: E402

# Chosen on seeds from 100 up: three times the median price as reserve, and a worth at which the slowest
# learner's contributions are still bought. The others take the default apart: random draws with its budgets,
# itself without them, with speed counted once more, and with cohorts of any size.
_OPTIONS: Final[Mapping[str, tuple[str, tuple[tuple[str, float | str], ...]]]] = MappingProxyType(
    {
        "auction": ("auction", (("reserve", 3.0), ("value", 30_000.0))),
        "thompson": ("bandit", (("method", "thompson"),)),
        "random, with budgets": ("random", (("most", 4.0),)),
        "consilium, no budgets": ("consilium", (("most", 1.0),)),
        "consilium, β = 1": ("consilium", (("beta", 1.0),)),
        "consilium, crowding = 0": ("consilium", (("crowding", 0.0),)),
        "consilium, no budgets, β = 1": ("consilium", (("beta", 1.0), ("most", 1.0))),
    }
)
MAIN: Final = ("random", "round_robin", "fair", "bandit", "auction", "consilium")
BESIDE: Final = (
    *("random, with budgets", "consilium, no budgets", "consilium, β = 1", "consilium, crowding = 0"),
    *("consilium, no budgets, β = 1", "assignment", "everyone"),
)
OTHERS: Final = (*("performance", "oort", "power_of_choice", "optimal_sampling", "vote", "lpt", "thompson"),)
PILOT_SEEDS: Final = (101, 102, 103, 104)
PILOT_ROUNDS: Final = 36  # 60 % of 60


def job(policy: str, seed: int) -> Job:
    """Return the run of a policy as the tables name it."""
    rule, options = _OPTIONS.get(policy, (policy, ()))
    return Job(rule, seed, options, targets=tuple(TARGETS.items()), label=policy)


def measure_all(jobs: Sequence[Job], size: Size, processes: int) -> list[dict[str, Any]]:
    """Return the figures of all runs, ``processes`` at a time, each on one thread."""
    with TemporaryDirectory() as scratch:
        write_data(size, Path(scratch))
        one = partial(measure, size=size, folder=Path(scratch))
        if processes == 1:
            return [one(job) for job in jobs]
        with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            return list(pool.map(one, jobs))


def main_jobs(seeds: int, *, long: bool) -> list[Job]:
    """Return the runs: the six and those beside them, in the long form also the others with three seeds."""
    jobs = [job(policy, seed) for seed in range(1, seeds + 1) for policy in (*MAIN, *BESIDE)]
    return jobs + [job(policy, seed) for seed in (1, 2, 3) for policy in OTHERS if long]


def pilot(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return each subtask's target: 95 % of the median of everyone's last five rounds, mean over seeds."""
    found = {}
    for name in METRICS:
        last = [[p["value"] for p in run["subtasks"][name]["curve"][-5:]] for run in runs]
        found[name] = round(0.95 * statistics.mean(statistics.median(values) for values in last), 2)
    return found


def concise(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run with of each curve what the tables are made of, rounded."""
    subtasks = {
        name: entry
        | {
            "curve": [
                {
                    "round": p["round"],
                    "simulated_s": round(p["simulated_s"], 2),
                    "value": None if p["value"] is None else round(p["value"], 5),
                }
                for p in entry["curve"]
            ]
        }
        for name, entry in run["subtasks"].items()
    }
    return run | {"subtasks": subtasks}


def main() -> None:
    """Measure all runs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="ten seeds, and the other policies with three")
    parser.add_argument("--controls", action="store_true", help="the negative controls instead")
    parser.add_argument("--pilot", action="store_true", help="find the targets instead")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    arguments = parser.parse_args()
    began, size = time.perf_counter(), Size()
    seeds = arguments.seeds or (10 if arguments.long else 3)
    if arguments.pilot:
        pilots = [Job("everyone", seed) for seed in PILOT_SEEDS]
        print(json.dumps(pilot(measure_all(pilots, Size(rounds=PILOT_ROUNDS), arguments.jobs))))
        return
    jobs = control_jobs(seeds) if arguments.controls else main_jobs(seeds, long=arguments.long)
    runs = measure_all(jobs, size, arguments.jobs)
    text = control_lines(runs) if arguments.controls else lines(runs, TARGETS, size)
    seconds = time.perf_counter() - began
    print("\n".join(text))
    print(f"\n{seconds:.0f} s, {arguments.jobs} runs at a time")
    if arguments.json:
        kept = [concise(run) for run in runs]
        report = {"size": asdict(size), "targets": dict(TARGETS), "runs": kept, "seconds": seconds}
        # One run a line: a figure can be found, and a thousand curves stay below a megabyte.
        body = ",\n".join(json.dumps(run, separators=(",", ":")) for run in kept)
        head = json.dumps(report | {"runs": []})
        arguments.json.write_text(
            head.replace('"runs": []', f'"runs": [\n{body}\n]') + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
