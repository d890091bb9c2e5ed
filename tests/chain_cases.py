"""Small collaborations whose subtasks come after others: what upstream says decides downstream.

Not a test. ``side`` is whether the numbers ``u`` and ``v`` have one sign, which no linear model sees.
``verdict`` is whether ``w`` and ``side`` together weigh enough: for a linear model a matter of luck without
``side``, and easy with it. ``dose`` is a number that follows from ``verdict``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.small import tables

Tables = dict[str, Any]

COLUMNS = ("u", "v", "w", "side", "verdict", "dose", "part")
TRAIN: Mapping[str, Any] = {"optimizer": "adam", "lr": 0.02, "batch_size": 16, "local_epochs": 6}
SIDE: Mapping[str, Any] = {
    "kind": "tabular_classification",
    "labels": ["left", "right"],
    "models": ["mlp_small"],
    "until_round": 2,
    "train": TRAIN,
}
VERDICT: Mapping[str, Any] = {
    "kind": "tabular_classification",
    "labels": ["no", "yes"],
    "models": ["linear"],
    "train": TRAIN,
    "after": ["side"],
}
DOSE: Mapping[str, Any] = {
    "kind": "tabular_regression",
    "models": ["mlp_small"],
    "train": {**TRAIN, "lr": 0.01},
    "after": ["verdict"],
}


def write(folder: Path, rows: int = 360) -> Path:
    """Write the rows of all subtasks, each on the same side for all of them."""
    rng = np.random.default_rng(4)
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i in range(rows):
            side, u = int(rng.integers(2)), float(rng.choice([-1.0, 1.0]))
            v, w = u if side else -u, float(rng.normal())
            verdict = int(w + (3 if side else -3) * 0.5 > 0)
            dose = 20 + 10 * verdict + float(rng.normal())
            noise_u, noise_v = rng.normal(0, 0.2, 2)
            part = ("train", "train", "train", "validation", "test")[i % 5]
            cells = [f"{x:.4f}" for x in (u + noise_u, v + noise_v, w)]
            writer.writerow([*cells, ("left", "right")[side], ("no", "yes")[verdict], f"{dose:.3f}", part])
    return path


def block(path: Path, target: str, *features: str) -> Tables:
    """Return a data block that predicts ``target`` from ``features``."""
    return {
        "format": "csv",
        "path": str(path),
        "target": target,
        "features": list(features),
        "split": {"column": "part"},
    }


def two(folder: Path, **changes: Any) -> Tables:
    """Return ``verdict`` after ``side``."""
    path = write(folder)
    data = {"side": block(path, "side", "u", "v"), "verdict": block(path, "verdict", "u", "v", "w")}
    made: Tables = {
        "rounds": 4,
        "data": data,
        "allocation": {"policy": "everyone", "max_subtasks_per_site": 2},
    }
    return tables(changes.pop("subtasks", {"side": SIDE, "verdict": VERDICT}), **made | changes)


def three(folder: Path, **changes: Any) -> Tables:
    """Return ``dose`` after ``verdict`` after ``side``; ``dose`` is a regression."""
    made = two(folder, subtasks={"side": SIDE, "verdict": {**VERDICT, "until_round": 4}, "dose": DOSE})
    path = made["data"]["side"]["path"]
    made["data"]["dose"] = block(path, "dose", "u", "v", "w")
    return made | {"rounds": 7} | changes
