"""The small collaboration that is disturbed: made-up rows, one linear model, decisions without a clock.

Everybody is asked in every round and everybody must answer (``quorum`` 1, a deadline far off), so what a run
decides does not depend on how long anything took, and its bits are those of every other run of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from collab.rng import generator

SUBTASK = "risk"
ROUNDS = 6
_EPOCHS = 40
_FEATURES = 12
_ROWS = 240
_ROWS_MORE = 30  # of each site than of the one before it, so that shares of examples are all unlike
_FORMAT = {"format": "csv", "target": "outcome", "split": {"test": 0.2, "validation": 0.2}}


def site_names(count: int) -> tuple[str, ...]:
    """Return the names of so many sites, in order."""
    return tuple(f"site-{number}" for number in range(1, count + 1))


def site_tables(folder: Path, sites: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Write each site's rows into ``folder``, and return what its ``site.toml`` holds."""
    found = {}
    for number, site in enumerate(sites):
        path = folder / f"{site}.csv"
        path.write_text(_rows(site, _ROWS + _ROWS_MORE * number), encoding="utf-8")
        limits = {"examples_per_s": 1000, "memory_mib": 4096, "device": "cpu"}
        egress = {"label_histogram": "exact", "models": True}
        found[site] = {"data": {SUBTASK: _FORMAT | {"path": str(path)}}, "limits": limits, "egress": egress}
    return found


def terms(sites: int, rounds: int = ROUNDS, epochs: int = _EPOCHS, **coordination: Any) -> dict[str, Any]:
    """Return the tables of the collaboration file."""
    return {
        "name": "chaos",
        "seed": 5,
        "rounds": rounds,
        "subtasks": {
            SUBTASK: {
                "kind": "tabular_classification",
                "labels": ["no", "yes"],
                "metric": "log_loss",
                "models": ["linear"],
                "train": {"optimizer": "sgd", "lr": 0.01, "batch_size": 8, "local_epochs": epochs},
            }
        },
        "allocation": {"policy": "everyone"},
        "coordination": {"sites": sites, "quorum": 1.0, "deadline_s": 600, **coordination},
    }


def _rows(site: str, count: int) -> str:
    rng = generator(0, site, "rows")
    x_NF = rng.normal(size=(count, _FEATURES))
    outcome = np.where(x_NF[:, :3].sum(axis=1) + rng.normal(size=count) > 0, "yes", "no")
    head = ",".join([*(f"x{column}" for column in range(_FEATURES)), "outcome"])
    lines = [",".join([*(f"{v:.6f}" for v in x), y]) for x, y in zip(x_NF, outcome, strict=True)]
    return "\n".join([head, *lines]) + "\n"
