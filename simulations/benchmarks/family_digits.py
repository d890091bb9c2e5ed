"""A family in whole runs: which groups do the sites' affinities give, and what do they cost and gain?

Run: python simulations/benchmarks/family_digits.py [--seeds 5] [--json PATH]

scikit-learn's digits, each moved by 0, 1 or 2 pixels across and down, at four sites; five subtasks on the
same rows: the digit, its parity, how far across, how far down, and a coin. Known: the first two ask what it
is, the next two where it is, the coin asks nothing. The family's run is merged for five of twelve rounds and
then split into three groups. Beside it the same run with one group, and plain FedAvg of each subtask by
itself: as many rounds, not as much work. Prints, as Markdown, the groups of each seed with their Rand index
against the known ones (chance: the mean over all ways to make three groups), and accuracies on test rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from collab.collaboration import Collaboration
from collab.settings import parse
from simulations.baselines import smallest_common
from simulations.simulate import Order, ready, simulate

WIDTHS: Final = {"digit": 10, "parity": 2, "across": 3, "down": 3, "coin": 2}
KNOWN: Final = (("digit", "parity"), ("across", "down"), ("coin",))
LEARNABLE: Final = ("digit", "parity", "across", "down")
SITES: Final = 4
_SIDE: Final = 10

Groups = Sequence[Sequence[str]]


def write(path: Path, seed: int, rows: int | None = None) -> list[str]:
    """Write the moved digits with all five targets; return the names of the pixels."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - a second to import

    x_ND, y_N = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(y_N))[:rows]
    x_ND, y_N = x_ND[chosen], y_N[chosen]
    across_N, down_N = rng.integers(3, size=len(y_N)), rng.integers(3, size=len(y_N))
    moved_NHW = np.zeros((len(y_N), _SIDE, _SIDE), dtype=np.int64)
    for n, image_D in enumerate(x_ND):
        moved_NHW[n, down_N[n] : down_N[n] + 8, across_N[n] : across_N[n] + 8] = image_D.reshape(8, 8)
    targets_NK = np.stack([y_N, y_N % 2, across_N, down_N, rng.integers(2, size=len(y_N))], axis=1)
    pixels = [f"p{at}" for at in range(_SIDE**2)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*pixels, *WIDTHS])
        writer.writerows(np.hstack([moved_NHW.reshape(len(y_N), -1), targets_NK]).tolist())
    return pixels


def collaboration(path: Path, seed: int, rounds: int, merge_rounds: int, groups: int) -> Collaboration:
    """Return the family's run on freshly written digits, split into so many groups."""
    pixels = write(path, seed)
    common = {
        "kind": "tabular_classification",
        "metric": "accuracy",
        "models": ["mlp_small"],
        "train": {"lr": 0.3, "batch_size": 32, "local_epochs": 1},
    }
    tables: dict[str, Any] = {
        "name": "moved-digits",
        "seed": seed,
        "rounds": rounds,
        "subtasks": {name: {**common, "labels": width} for name, width in WIDTHS.items()},
        "decomposition": {
            "digits": {
                "by": "affinity",
                "subtasks": list(WIDTHS),
                "merge_rounds": merge_rounds,
                "every": 1,
                "min_groups": groups,
                "max_groups": groups,
            }
        },
        "allocation": {"policy": "everyone"},
        "data": {
            name: {"format": "csv", "path": str(path), "target": name, "features": pixels} for name in WIDTHS
        },
        "partition": {"default": {"kind": "dirichlet", "alpha": 1.0}},
        "fleet": {"count": SITES},
    }
    return ready(parse(tables, "moved digits"), path.parent)


def measured(seed: int, rounds: int = 12, merge_rounds: int = 5) -> dict[str, Any]:
    """Return the groups of one seed, and the figures of the three runs."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        split, merged = (
            collaboration(folder / f"digits-{groups}.csv", seed, rounds, merge_rounds, groups)
            for groups in (len(KNOWN), 1)
        )
        runs = {"split": split, "merged": merged, "apart": smallest_common(split)}
        arms = {}
        for name, one in runs.items():
            summary = simulate(one, Order(name, folder, "local", baselines=False), lambda _: None)
            if name == "split":
                found = summary["decompositions"]["digits"]
            arms[name] = _figures(summary)
    groups = found["groups"]
    return {"seed": seed, "groups": groups, "rand": rand_index(groups, KNOWN), "found": found, "arms": arms}


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    entries = summary["subtasks"]
    accuracies = {name: entries[name]["collaboration"]["global"] for name in WIDTHS}
    return {"accuracy": accuracies, **{k: summary["totals"][k] for k in ("bytes", "simulated_s")}}


def rand_index(one: Groups, other: Groups) -> float:
    """Return the share of pairs on which two partitions agree (Rand, 1971): together or apart."""
    place = [{name: at for at, group in enumerate(groups) for name in group} for groups in (one, other)]
    pairs = list(combinations(WIDTHS, 2))
    agree = sum((place[0][a] == place[0][b]) == (place[1][a] == place[1][b]) for a, b in pairs)
    return float(agree) / len(pairs)


def chance() -> float:
    """Return the mean Rand index of all partitions into as many groups as are known."""
    every = [groups for groups in _partitions(list(WIDTHS)) if len(groups) == len(KNOWN)]
    return statistics.mean(rand_index(groups, KNOWN) for groups in every)


def _partitions(names: list[str]) -> Iterator[list[list[str]]]:
    if not names:
        yield []
        return
    first, rest = names[0], names[1:]
    for groups in _partitions(rest):
        yield [[first], *groups]
        for at, group in enumerate(groups):
            yield [*groups[:at], [first, *group], *groups[at + 1 :]]


def lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tables as Markdown."""
    table = ["| seed | groups | Rand index |", "|---|---|---:|"]
    for seed in found:
        groups = " \\| ".join(" + ".join(group) for group in seed["groups"])
        table.append(f"| {seed['seed']} | {groups} | {seed['rand']:.2f} |")
    mean = statistics.mean(seed["rand"] for seed in found)
    table += [f"| mean | by chance {chance():.2f} | {mean:.2f} |", ""]
    table += [f"| accuracy in % | {' | '.join(WIDTHS)} | MB | seconds |", f"|---|{'---:|' * 7}"]
    for arm in found[0]["arms"]:
        cells = [_spread([100 * s["arms"][arm]["accuracy"][name] for s in found]) for name in WIDTHS]
        cells.append(_spread([s["arms"][arm]["bytes"] / 1e6 for s in found]))
        cells.append(_spread([s["arms"][arm]["simulated_s"] for s in found]))
        table.append(f"| {arm} | {' | '.join(cells)} |")
    table += ["", f"| mean of the four that can be learned, points | {len(found)} seeds |", "|---|---:|"]
    for one, other in (("split", "merged"), ("split", "apart"), ("merged", "apart")):
        apart = [100 * (_mean(s["arms"][one]) - _mean(s["arms"][other])) for s in found]
        table.append(f"| {one} − {other} | {_spread(apart)} |")
    return table


def _mean(arm: Mapping[str, Any]) -> float:
    return statistics.mean(float(arm["accuracy"][name]) for name in LEARNABLE)


def _spread(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


def main() -> None:
    """Measure all seeds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write all figures of all seeds here")
    arguments = parser.parse_args()
    found = [measured(seed) for seed in range(1, arguments.seeds + 1)]
    print("\n".join(lines(found)))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
