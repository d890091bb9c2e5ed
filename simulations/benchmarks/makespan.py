"""How much sooner does a cohort finish if its sites work in proportion to their speed?

Run: python simulations/benchmarks/makespan.py [--seeds 1000] [--json FILE]

Compared is the time of the slowest site (makespan) of one and the same cohort, drawn at random, with one
and the same total work: dealt out equally, and in proportion to predicted speed
(``collab.allocation.budgets``). A site's seconds for all its epochs are log-normal with parameter σ; the
prediction is off by a factor uniform in 0.9 to 1.1, unknown to the rule; the time it takes is share x
seconds. Cohorts are not chosen by speed, so what an allocator gains by that comes on top.

Where the ratio comes from: equal work ends with the slowest of n sites, about exp(1.54 σ) times the median
for n = 10; proportional work ends with the harmonic mean, about exp(−σ²/2) times it, and up to a tenth
more for a site whose prediction was too low. The spread of speeds and the size of the cohort drive the
ratio: at equal speeds there is nothing to gain. In the first row a fast site may do more than the mean
by any factor. Bounds take some of it back: where a share of at least ``low`` meets a mean share of w, the
slowest site alone keeps the ratio at low / w, 0.5 for 0.25 and 0.5. The ratio assumes that time is
proportional to work: the last rows add a fixed part, the same at each site, that no budget shortens. It
says nothing of accuracy: unlike steps need ``fednova``, and a site that does little of its work adds little.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.allocation.budgets import HIGH, LOW, equal_time
from collab.allocation.consilium import Options

BAR = 0.45
UNBOUNDED = (1e-6, 1e6)


@dataclass(frozen=True)
class Case:
    """What is varied.

    Attributes:
        name: of the row.
        sigma: of the logarithm of the sites' seconds.
        cohort: number of sites.
        error: the largest relative error of a prediction.
        bounds: of the shares.
        work: mean share of its epochs that a site does.
        fixed: seconds that do not depend on the share, over the median site's seconds for that work.
    """

    name: str
    sigma: float = 0.7
    cohort: int = 10
    error: float = 0.1
    bounds: tuple[float, float] = UNBOUNDED
    work: float = 0.5
    fixed: float = 0.0


STATED = Case("σ 0.7, 10 sites, ±10 %")
CASES = (
    STATED,
    Case("same, shares of 0.25 to 1, mean 0.5", bounds=(0.25, 1.0)),
    Case("same, shares of 0.1 to 1, mean 0.5", bounds=(LOW, HIGH)),
    Case("same, budgets of the policy consilium", bounds=(LOW, Options().most), work=Options().work),
    Case("same, perfect predictions", error=0.0),
    Case("same, ±50 %", error=0.5),
    Case("same, 5 sites", cohort=5),
    Case("same, 20 sites", cohort=20),
    Case("σ 0.3", sigma=0.3),
    Case("σ 1.0", sigma=1.0),
    Case("equal speeds", sigma=0.0),
    Case("same as the first, fixed part 0.2", fixed=0.2),
    Case("same as the first, fixed part 1", fixed=1.0),
)


def shares(case: Case, predicted_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each site's budget [N]."""
    return equal_time(case.work * case.cohort, predicted_N, None, *case.bounds)


def ratio(case: Case, seed: int) -> tuple[float, float]:
    """Return a cohort's makespan over that of equal work, and the mean share of epochs that is done."""
    rng = np.random.default_rng(seed)
    seconds_N = np.exp(case.sigma * rng.standard_normal(case.cohort))
    predicted_N = seconds_N * rng.uniform(1 - case.error, 1 + case.error, case.cohort)
    share_N = shares(case, predicted_N)
    done = float(share_N.mean())
    fixed = case.fixed * done  # the median site needs 1 s for all its epochs
    return float(((share_N * seconds_N).max() + fixed) / (done * seconds_N.max() + fixed)), done


def measure(seeds: Iterable[int], case: Case = STATED) -> dict[str, Any]:
    """Return mean and sd of the ratio over ``seeds``, its 95th percentile and the mean share done."""
    found = np.array([ratio(case, seed) for seed in seeds])
    ratios, done = found[:, 0], found[:, 1]
    return {
        "case": case.name,
        "seeds": len(ratios),
        "mean": float(ratios.mean()),
        "sd": float(ratios.std(ddof=1)) if len(ratios) > 1 else 0.0,
        "p95": float(np.quantile(ratios, 0.95)),
        "work": float(done.mean()),
    }


def lines(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Return the rows as a Markdown table."""
    head = ["| case | makespan over equal work, mean ± sd | 95th percentile | mean share of epochs |"]
    head.append("|---|---|---|---|")
    return head + [
        f"| {r['case']} | {r['mean']:.3f} ± {r['sd']:.3f} | {r['p95']:.3f} | {r['work']:.2f} |" for r in rows
    ]


def main() -> None:
    """Measure all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    arguments = parser.parse_args()
    rows = [measure(range(arguments.seeds), case) for case in CASES]
    print(f"{arguments.seeds} cohorts a case; equal work is 1\n")
    print("\n".join(lines(rows)))
    print(f"\nbar {BAR}: {'met' if rows[0]['mean'] <= BAR else 'MISSED'} by the first row")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
