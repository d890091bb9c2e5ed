"""A stock SuperLink and two SuperNodes, each a process, run this very app."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tomlkit
from flwr.serverapp import Grid
from safetensors.numpy import load_file

from clients.app import app as client_app
from collab.settings import parse
from server.federation import Terms, federate, to_toml
from simulations.local_engine import run_locally
from tests.processes import federation

ROOT = Path(__file__).parents[2]
SITES = ("east", "west")
TERMS = {
    "name": "risk",
    "seed": 5,
    "rounds": 2,
    "subtasks": {
        "risk": {
            "kind": "tabular_classification",
            "labels": ["no", "yes"],
            "models": ["mlp_small"],
            "train": {"lr": 0.1, "batch_size": 8, "local_epochs": 1},
        }
    },
    "allocation": {"policy": "everyone"},
    "fusion": {"rule": "own_pool"},
    "coordination": {"sites": 2, "quorum": 1.0},  # real clocks differ; who takes part must not
}
ROWS = {"format": "csv", "target": "outcome", "split": {"test": 0.2, "validation": 0.2}}


def _write_rows(file: Path, seed: int, rows: int) -> None:
    """Rows of three measurements, whose sum with some noise decides the outcome."""
    rng = np.random.default_rng(seed)
    x_NF = rng.normal(size=(rows, 3))
    outcome_N = np.where(x_NF.sum(axis=1) + rng.normal(scale=0.5, size=rows) > 0, "yes", "no")
    lines = [",".join([*(f"{value:.6f}" for value in x), y]) for x, y in zip(x_NF, outcome_N, strict=True)]
    file.write_text("\n".join(["age,dose,pressure,outcome", *lines]) + "\n", encoding="utf-8")


def _deploy(folder: Path) -> list[str]:
    """Give each site its rows and its site.toml; the node configs that point there."""
    for number, site in enumerate(SITES):
        (folder / site).mkdir()
        _write_rows(folder / site / "rows.csv", seed=number, rows=60 + 40 * number)
        data = {"risk": ROWS | {"path": "rows.csv"}}
        limits = {"examples_per_s": 1000, "memory_mib": 4096, "device": "cpu"}
        egress = {"label_histogram": "exact", "models": True}
        text = tomlkit.dumps({"name": site, "data": data, "limits": limits, "egress": egress})
        (folder / site / "site.toml").write_text(text, encoding="utf-8")
    return [f'site="{folder / site / "site.toml"}"' for site in SITES]


def _simulate(folder: Path) -> Path:
    """The same collaboration on the local engine, with the sites' files as its data; the run's folder."""
    files = {site: str(folder / site / "rows.csv") for site in SITES}
    scenario = {
        "data": {"risk": ROWS | {"files": files}},
        "partition": {"risk": {"kind": "files"}},
        "sites": {site: {"device": "cpu"} for site in SITES},
    }
    collaboration = parse(TERMS | scenario, "test")
    run = folder / "simulated"

    def serve(grid: Grid) -> None:
        federate(grid, collaboration, Terms("simulated", run))

    run_config = {"collaboration": to_toml(collaboration)}
    run_locally(serve, client_app, num_nodes=len(SITES), run_config=run_config)
    return run


def _arrays(run: Path) -> dict[str, dict[str, np.ndarray]]:
    """Every array of the models that a run left, by file."""
    return {file.name: load_file(file) for file in sorted((run / "models" / "risk").glob("*.safetensors"))}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_processes_give_the_arrays_of_the_local_engine(tmp_path: Path) -> None:
    """Two rounds over real processes and real files end with the very bits of the local engine."""
    node_configs = _deploy(tmp_path)
    processes = tmp_path / "processes"
    processes.mkdir()
    run_config = {"collaboration": tomlkit.dumps(TERMS), "out": str(tmp_path), "run": "real", "clock": "wall"}
    with federation(processes, node_configs) as at:
        at.run(ROOT, run_config, timeout_s=400)
    found, expected = _arrays(tmp_path / "real"), _arrays(_simulate(tmp_path))
    assert "final.safetensors" in expected
    assert found.keys() == expected.keys()
    for file, arrays in expected.items():
        assert found[file].keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[file][name], array, err_msg=f"{file}: {name}")
    summary = json.loads((tmp_path / "real" / "summary.json").read_text(encoding="utf-8"))
    assert summary["ended"] == "all 2 rounds are done"
