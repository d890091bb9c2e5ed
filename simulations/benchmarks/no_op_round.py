"""What a round costs beside its work: two real sites with seals and gate, against stock Flower.

Ours is a whole round of a run, an assignment and an evaluation for each of two sites, of a linear model on 60
rows: everything is signed, checked, kept in the site's ledger and written to the log. Stock is Flower's own
SuperLink and SuperNodes with TLS and node authentication, and an app that returns what it was sent: one
message for each node, where a round of Flower's strategies takes two. The pairs alternate in one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit

from server.runlog import EVENT_ROW, rows
from simulations.benchmarks.stock_round import stock_rounds
from simulations.deployed import Deployed, deployed

SITES = ("east", "west")
_ROWS = {"format": "csv", "target": "outcome", "split": {"test": 0.2, "validation": 0.2}}


def main() -> None:
    """Measure and print; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory(prefix="consilium-") as scratch:
        folder = Path(scratch)
        for number in range(options.pairs):
            with deployed(_made(folder / f"ours-{number}"), _tables(folder)) as at:
                ours = _our_rounds(at, options.rounds)
                certificates = at.server
            stock = stock_rounds(_made(folder / f"stock-{number}"), certificates, options.rounds)
            pairs.append({"ours": ours, "stock": stock})
    found = _summary(pairs)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(_shown(found))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tables(folder: Path) -> dict[str, dict[str, Any]]:
    """Write each site's rows, and return what its site.toml holds."""
    found = {}
    for number, site in enumerate(SITES):
        rng = np.random.default_rng(number)
        x_NF = rng.normal(size=(60, 3))
        outcome = np.where(x_NF.sum(axis=1) > 0, "yes", "no")
        lines = [",".join([*(f"{v:.6f}" for v in x), y]) for x, y in zip(x_NF, outcome, strict=True)]
        path = folder / f"{site}.csv"
        path.write_text("\n".join(["age,dose,pressure,outcome", *lines]) + "\n", encoding="utf-8")
        limits = {"examples_per_s": 1000, "memory_mib": 4096, "device": "cpu"}
        egress = {"label_histogram": "exact", "models": True}
        found[site] = {"data": {"risk": _ROWS | {"path": str(path)}}, "limits": limits, "egress": egress}
    return found


def _our_rounds(at: Deployed, rounds: int) -> dict[str, list[float]]:
    """Return how long each round and its assignments took, but for the first: sites still load then."""
    subtask = {
        "kind": "tabular_classification",
        "labels": ["no", "yes"],
        "models": ["linear"],
        "train": {"lr": 0.1, "batch_size": 8, "local_epochs": 1},
    }
    terms = {
        "name": "noop",
        "seed": 1,
        "rounds": rounds + 1,
        "subtasks": {"risk": subtask},
        "allocation": {"policy": "everyone"},
        "fusion": {"rule": "own_pool"},
        "coordination": {"sites": 2, "quorum": 1.0},
    }
    file = at.folder / "noop.toml"
    file.write_text(tomlkit.dumps(terms), encoding="utf-8")
    at.consilium("submit", file, "--run", "noop", "--kit", at.server)
    at.await_end("noop", 600)
    return _times([row.body for row in rows(at.server / "runs" / "noop") if row.kind == EVENT_ROW])


def _times(log: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return seconds of whole rounds, and from an assignment to the last contribution of its round."""
    begins: list[float] = []
    arrived: dict[int, float] = {}
    for line in log:
        event, at_s = line["event"], float(line["event"]["at_s"])
        if any(one["type"] == "send" for one in line["instructions"]):
            begins.append(at_s)
        elif event["type"] == "arrived":
            arrived[len(begins) - 1] = at_s
    rounds = [end - begin for begin, end in pairwise(begins)]
    exchanges = [arrived[n] - begin for n, begin in enumerate(begins)]
    return {"round": rounds[1:], "exchange": exchanges[1:]}


def _summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [
        {
            "round_s": statistics.median(pair["ours"]["round"]),
            "exchange_s": statistics.median(pair["ours"]["exchange"]),
            "stock_s": statistics.median(pair["stock"]),
        }
        for pair in pairs
    ]
    return {"at": time.strftime("%Y-%m-%d"), "pairs": pairs, "medians": rows}


def _shown(found: dict[str, Any]) -> str:
    lines = ["| pair | ours, whole round | ours, one exchange | stock, one exchange | ratio, exchange |"]
    lines += ["|---|---|---|---|---|"]
    ratios = []
    for number, row in enumerate(found["medians"], start=1):
        ratios.append(row["stock_s"] / row["exchange_s"])
        figures = [f"{row[key]:.2f} s" for key in ("round_s", "exchange_s", "stock_s")]
        lines.append(f"| {number} | {' | '.join(figures)} | {ratios[-1]:.1f}x |")
    lines.append(
        f"\nMedian ratio {statistics.median(ratios):.1f}x; stock's strategies take two exchanges a round."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
