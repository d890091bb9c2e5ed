"""Draw when all subtasks were at their targets, by policy: Kaplan-Meier curves over seeds.

Run: python simulations/benchmarks/allocation_plot.py docs/results/allocation.json docs/allocation.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from simulations.benchmarks.allocation_measures import Reached, reached
from simulations.benchmarks.allocation_tables import BASELINE, OURS, UPPER

# What is drawn, each with a colour that readers who confuse red and green tell apart, and a line of its own.
SHOWN: Final[Mapping[str, tuple[str, str, float]]] = {
    BASELINE: ("#000000", "-", 1.6),
    "round_robin": ("#888888", "--", 1.2),
    "fair": ("#D55E00", "-.", 1.2),
    "bandit": ("#E69F00", "--", 1.2),
    "auction": ("#CC79A7", "-.", 1.2),
    "random, with budgets": ("#56B4E9", "-", 1.4),
    OURS: ("#0072B2", "-", 2.6),
    UPPER: ("#BBBBBB", ":", 1.6),
}


def steps(times: Sequence[Reached], horizon: float) -> tuple[list[float], list[float]]:
    """Return the corners of 1 − S(t), the share of runs that are through by t (product-limit estimate)."""
    share, at_S, share_S = 1.0, [0.0], [0.0]
    for at in sorted({x.at for x in times if not x.censored}):
        at_risk = sum(x.at >= at for x in times)
        share *= 1.0 - sum(x.at == at and not x.censored for x in times) / at_risk
        at_S.append(at)
        share_S.append(1.0 - share)
    return [*at_S, horizon], [*share_S, share_S[-1]]


def draw(runs: Sequence[Mapping[str, Any]], targets: Mapping[str, float], path: Path) -> None:
    """Write the figure."""
    mpl.rcParams["svg.hashsalt"] = "consilium"
    times = {
        name: [reached(run, "simulated_s", targets) for run in runs if run["name"] == name] for name in SHOWN
    }
    horizon = 1.05 * max(x.at for found in times.values() for x in found)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (colour, line, width) in SHOWN.items():
        if times[name]:
            at_S, share_S = steps(times[name], horizon)
            axes.step(at_S, share_S, where="post", label=name, color=colour, linestyle=line, linewidth=width)
    axes.set_xlabel("simulated seconds")
    axes.set_ylabel("share of runs with all five subtasks at target")
    axes.set_xlim(0, horizon)
    axes.set_ylim(0, 1.03)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    """Read a benchmark's JSON and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    arguments = parser.parse_args()
    found = json.loads(arguments.results.read_text(encoding="utf-8"))
    draw(found["runs"], found["targets"], arguments.figure)


if __name__ == "__main__":
    main()
