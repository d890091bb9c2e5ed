"""Do allocation, distillation and fusion help each other? A 2 x 2 x 2 factorial on one end metric.

Run: python simulations/benchmarks/allocation_factorial.py [--seeds 5] [--budget 600] [--jobs 2] [--json PATH]

{allocation random, consilium} x {distillation off, on} x {fusion mean, least_squares}, on the federation of
``allocation``. The end metric is the sum over subtasks of the test loss of the fused prediction over that of
the best constant answer, after the same simulated seconds: less is better. Distillation is FedDF (Lin et
al., NeurIPS 2020) on the two image subtasks, whose public images are held out in every arm. Both fusions are
fitted on the same run. An effect is the mean where the levels (-1 and +1) multiply to +1 less the mean
elsewhere, over seeds with a bootstrap interval; "joint" is said only where that of allocation x distillation
excludes 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from server.environment import be_quiet

be_quiet()

import torch  # noqa: E402 - Flower reads the environment at its import

from collab import metrics, objective  # noqa: E402
from collab.collaboration import Collaboration  # noqa: E402
from collab.rng import generator  # noqa: E402
from collab.settings import parse  # noqa: E402
from server.finale import conclude  # noqa: E402
from simulations.benchmarks.allocation_measures import bootstrap  # noqa: E402
from simulations.benchmarks.allocation_runs import Rehearsal, rehearse  # noqa: E402
from simulations.benchmarks.allocation_sites import Job, Size, tables, write_data  # noqa: E402
from simulations.simulate import ready  # noqa: E402

POLICIES: Final = ("random", "consilium")
FUSIONS: Final = ("mean", "least_squares")
FACTORS: Final = ("allocation", "distillation", "fusion")
IMAGES: Final = ("tops", "rest")
PUBLIC: Final = 300
Record = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One run: two of the factors; both levels of the third are measured on it."""

    policy: str
    distils: bool
    seed: int


def collaboration_of(arm: Arm, size: Size, folder: Path) -> Collaboration:
    """Return one arm's collaboration: no targets, so all work until the time is up."""
    made = tables(Job(arm.policy, arm.seed), size, folder)
    for name in IMAGES:
        made["subtasks"][name]["soft_labels"] = {"combine": "mean_logit", "public": {"holdout": PUBLIC}}
        made["subtasks"][name]["distillation"] = {
            "ensemble": arm.distils,
            "epochs": 3,
            "lr": 1e-3,
            "sharpen": "none",
        }
    return ready(parse(made, "factorial"), folder)


def measure(arm: Arm, size: Size, folder: Path, budget_s: float) -> list[Record]:
    """Return one row a fusion: the relative test loss of each subtask, and their sum."""
    torch.set_num_threads(1)

    def report(one: Rehearsal) -> Record:
        one.conduct(budget_s)
        return {
            fusion: {name: _loss(one, name, fusion) for name in sorted(one.learners)} for fusion in FUSIONS
        }

    found = rehearse(collaboration_of(arm, size, folder), report)
    return [
        {
            "seed": arm.seed,
            "allocation": POLICIES.index(arm.policy),
            "distillation": int(arm.distils),
            "fusion": place,
            "losses": found[fusion],
            "total": sum(found[fusion].values()),
        }
        for place, fusion in enumerate(FUSIONS)
    ]


def _loss(one: Rehearsal, name: str, fusion: str) -> float:
    """Fit the fusion on validation rows; return its test loss over the constant answer's."""
    learner = one.learners[name]
    learner.prepared = replace(learner.prepared, fusion=fusion)
    outcome = conclude(
        *(one.courier, learner, "run", one.collaboration.rounds),
        unspent={},
        baselines=False,
        notes=one.notes,
    )
    merged = metrics.merge([stats["fused"] for stats in outcome.sites.values() if "fused" in stats])
    loss, _ = objective.relative_losses(merged, {})
    return 1.0 if loss is None else loss  # nobody ever contributed: no better than the constant answer


def effects(rows: Sequence[Record], seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Return each main effect and interaction on the total, mean over seeds and its interval.

    An effect of one seed is the mean of the rows whose levels multiply to +1 less that of the others.
    """
    seeds = sorted({row["seed"] for row in rows})
    terms = [term for n in (1, 2, 3) for term in itertools.combinations(FACTORS, n)]
    return {
        " x ".join(term): bootstrap(
            [_effect([row for row in rows if row["seed"] == s], term) for s in seeds],
            generator(seed, "bootstrap", *term),
        )
        for term in terms
    }


def _effect(rows: Sequence[Record], term: Sequence[str]) -> float:
    signs = [(-1) ** sum(row[factor] == 0 for factor in term) for row in rows]
    return 2.0 * float(sum(sign * row["total"] for sign, row in zip(signs, rows, strict=True))) / len(rows)


def lines(rows: Sequence[Record], budget_s: float) -> Iterable[str]:
    """Yield what is printed."""
    seeds = sorted({row["seed"] for row in rows})
    subtasks = sorted(rows[0]["losses"])
    yield (
        f"Seeds {seeds[0]} to {seeds[-1]}, {budget_s:.0f} simulated seconds. Test loss of the fused "
        "prediction over the constant answer's, mean over seeds; total: sum over subtasks, less is better. "
        "Percentile intervals of fewer than about eight seeds are too narrow."
    )
    yield f"\n| allocation | distillation | fusion | {' | '.join(subtasks)} | total |"
    yield "| --- | --- | --- |" + " ---: |" * (len(subtasks) + 1)
    for a, d, f in itertools.product((0, 1), repeat=3):
        mine = [r for r in rows if (r["allocation"], r["distillation"], r["fusion"]) == (a, d, f)]
        cells = [f"{sum(r['losses'][name] for r in mine) / len(mine):.3f}" for name in subtasks]
        total = sum(r["total"] for r in mine) / len(mine)
        yield f"| {POLICIES[a]} | {('off', 'on')[d]} | {FUSIONS[f]} | {' | '.join(cells)} | {total:.3f} |"
    yield "\n| effect on the total | mean | 95 % bootstrap interval over seeds | |"
    yield "| --- | ---: | ---: | --- |"
    for name, (mean, low, high) in effects(rows).items():
        yield f"| {name} | {mean:+.3f} | [{low:+.3f}, {high:+.3f}] | {_word(name, low, high)} |"


def _word(name: str, low: float, high: float) -> str:
    if low <= 0 <= high:
        return "not told from 0"
    return "joint" if name == "allocation x distillation" else "excludes 0"


def main() -> None:
    """Measure all arms and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=600.0, help="simulated seconds")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    arguments = parser.parse_args()
    began, size = time.perf_counter(), Size()
    seeds = range(1, arguments.seeds + 1)
    arms = [Arm(policy, distils, seed) for seed in seeds for policy in POLICIES for distils in (False, True)]
    with TemporaryDirectory() as scratch:
        write_data(size, Path(scratch))
        one = partial(measure, size=size, folder=Path(scratch), budget_s=arguments.budget)
        with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            rows = [row for found in pool.map(one, arms) for row in found]
    print("\n".join(lines(rows, arguments.budget)))
    print(f"\n{time.perf_counter() - began:.0f} s, {arguments.jobs} runs at a time")
    if arguments.json:
        report = {"budget_s": arguments.budget, "rows": rows, "effects": effects(rows)}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
