"""A family of subtasks on the same rows: signs with a shape, a colour and a coin that nobody can foresee.

Not a test.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.small import Tables, sites, tables

SUBTASKS = ("shape", "edges", "coin")
FEATURES = tuple(f"x{i}" for i in range(8))
SUBTASK: Mapping[str, Any] = {
    "kind": "tabular_classification",
    "models": ["mlp_small"],
    "train": {"lr": 0.2, "batch_size": 16, "local_epochs": 1},
}
FAMILY: Mapping[str, Any] = {
    "by": "affinity",
    "subtasks": list(SUBTASKS),
    "merge_rounds": 2,
    "every": 2,
    "min_groups": 2,
    "max_groups": 2,
}
PROFILES: Mapping[str, Mapping[str, Any]] = {"beta": {"subtasks": ["edges", "coin"]}}


def write(path: Path, rows: int = 400, seed: int = 0) -> Path:
    """Write rows whose shape and edges ask for one feature of the inputs, and whose coin asks for none."""
    rng = np.random.default_rng(seed)
    x_NF = rng.normal(size=(rows, len(FEATURES))).round(4)
    hidden_N = x_NF[:, 0] + x_NF[:, 1]
    targets = [(hidden_N > 0).astype(int), (hidden_N > -0.6).astype(int) + (hidden_N > 0.6)]
    coin_N = rng.integers(2, size=rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*FEATURES, *SUBTASKS])
        for n in range(rows):
            writer.writerow([*x_NF[n].tolist(), *(int(t[n]) for t in targets), int(coin_N[n])])
    return path


def family(folder: Path, **changes: Any) -> Tables:
    """Return a collaboration whose site ``beta`` has no shapes; ``changes`` replace whole tables.

    Beside these ``signs`` changes keys of the decomposition, and ``subtask`` of all subtasks.
    """
    path = folder / "signs.csv"
    if not path.exists():
        write(path)
    signs = {**FAMILY, **changes.pop("signs", {})}
    own = {**SUBTASK, **changes.pop("subtask", {})}
    given: Tables = {
        "rounds": 4,
        "data": {name: block(path, name) for name in SUBTASKS},
        "decomposition": {"signs": signs},
        "sites": sites(**PROFILES),
    }
    labels = {"shape": 2, "edges": 3, "coin": 2}
    return tables({name: {**own, "labels": labels[name]} for name in SUBTASKS}, **(given | changes))


def block(path: Path, target: str, **changes: Any) -> Tables:
    """Return a data block of the file for one target."""
    return {"format": "csv", "path": str(path), "target": target, "features": list(FEATURES)} | changes
