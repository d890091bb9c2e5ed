"""Cases of three modalities at three sites, one of which has no laboratory; with or without a scan.

Not a test.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.small import NAMES, WEIGHTS, tables

COLUMNS = ("age", "sex", "chol", "lab_a", "pulse")
MODALITIES: Mapping[str, Any] = {
    "history": ["age", "sex"],
    "laboratory": ["chol", "lab_*"],
    "ecg": ["pulse"],
}
Tables = dict[str, Any]
EACH = 80


def patients(site: str, rows: int = EACH) -> tuple[list[list[str]], list[str]]:
    """Return a site's cells and its labels; gamma has no laboratory, some rows lack their pulse."""
    rng = np.random.default_rng(NAMES.index(site))
    found, labels = [], []
    for _ in range(rows):
        sick = rng.random() < {"alpha": 0.3, "beta": 0.5, "gamma": 0.8}[site]
        age = f"{rng.normal(50 + 8 * sick, 8):.1f}"
        sex = rng.choice(["f", "m"], p=[0.7, 0.3] if sick else [0.3, 0.7])
        chol, lab = (f"{rng.normal(sick, 1):.2f}" for _ in range(2))
        pulse = "" if rng.random() < 0.25 else f"{rng.normal(70 + 9 * sick, 8):.0f}"
        laboratory = ["", ""] if site == "gamma" else [chol, lab]
        found.append([age, str(sex), *laboratory, pulse])
        labels.append("yes" if sick else "no")
    return found, labels


def write(path: Path, sites: tuple[str, ...] = NAMES) -> Path:
    """Write a table of all sites' rows."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "site", "sick"])
        for site in sites:
            cells, labels = patients(site)
            writer.writerows([*row, site, label] for row, label in zip(cells, labels, strict=True))
    return path


def block(path: Path) -> Tables:
    """Return the data block of such a table."""
    return {
        "format": "csv",
        "path": str(path),
        "target": "sick",
        "site": "site",
        "categorical": ["sex"],
        "split": {"test": 0.3, "validation": 0.2},
    }


def made(folder: Path, *, modalities: Mapping[str, Any] = MODALITIES, **changes: Any) -> Tables:
    """Return the tables of a whole taken apart by modality, each site with its own rows."""
    case = {**WEIGHTS, "labels": ["no", "yes"], **changes.pop("subtask", {})}
    decomposition = {"by": "modality", "modalities": modalities, **changes.pop("decomposition", {})}
    usual: Tables = {
        "decomposition": {"case": decomposition},
        "partition": {"case": {"kind": "column"}},
        "allocation": {"policy": "everyone", "max_subtasks_per_site": 5},
        "fusion": {"rule": "own_pool"},
        "rounds": 3,
    }
    if "data" not in changes:
        usual["data"] = {"case": block(write(folder / "case.csv"))}
    return tables({"case": case}, **usual | changes)


def write_scans(path: Path) -> Path:
    """Write an archive of images beside columns; beta has no scans, a third of the others' are missing."""
    rng = np.random.default_rng(9)
    site_N = np.repeat(NAMES, EACH)
    y_N = rng.integers(2, size=len(site_N))
    image = rng.normal(0, 0.3, size=(len(y_N), 1, 4, 4)).astype(np.float32)
    image[y_N == 1, :, :2] += 0.5
    image[(site_N == "beta") | (rng.random(len(y_N)) < 0.3)] = np.nan
    table = np.stack([rng.normal(y_N, 1), rng.normal(size=len(y_N))], axis=1)
    np.savez(path, image=image, table=table, y=y_N, hospital=site_N)
    return path


def scans(folder: Path, **changes: Any) -> Tables:
    """Return the tables of a whole of a scan and two columns."""
    data = {
        "format": "npz",
        "path": str(write_scans(folder / "case.npz")),
        "inputs": "image",
        "table": "table",
        "columns": ["chol", "age"],
        "site": "hospital",
        "split": {"test": 0.3, "validation": 0.2},
    }
    return made(
        folder,
        modalities={"scan": "image", "blood": ["chol", "age"]},
        decomposition={"parts": {"scan": {"models": ["mlp_medium"], "train": {"lr": 0.05}}}},
        data={"case": data},
        **changes,
    )
