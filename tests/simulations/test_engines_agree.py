"""Two engines give the same run, and Flower's own FedAvg the same parameters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from safetensors.numpy import load_file

from clients.app import app as client_app
from clients.site import from_scenario
from clients.state import SiteState
from clients.weights import train_weights
from clients.work import Desk
from collab.collaboration import Collaboration
from collab.settings import parse
from protocol.messages import Assignment
from server.discovery import discover
from server.federation import Terms, federate, to_toml
from server.preparation import Prepared, prepare
from server.simulated_courier import SimulatedCourier
from simulations.local_engine import run_locally
from simulations.simulate import Order, ready, simulate
from tests.chain_cases import two
from tests.family_cases import family

ROOT = Path(__file__).parents[2]
NAMES = ("alpha", "beta", "gamma")
IRIS: dict[str, Any] = {
    "name": "agree",
    "seed": 11,
    "rounds": 3,
    "subtasks": {
        "iris": {
            "kind": "tabular_classification",
            "models": ["mlp_small"],
            "train": {"lr": 0.1, "batch_size": 8, "local_epochs": 2},
            "aggregation": {"rule": "fedavg"},
        }
    },
    "allocation": {"policy": "everyone"},
    "coordination": {"quorum": 1.0},
    "data": {"iris": {"format": "sklearn", "name": "iris"}},
    "partition": {"default": {"kind": "quantity", "skew": 0.4}},
    "sites": {name: {"device": "cpu", "examples_per_s": 100 * (i + 1)} for i, name in enumerate(NAMES)},
}
WINE: dict[str, Any] = {
    "kind": "tabular_classification",
    "exchange": "soft_labels",
    "models": ["linear", "mlp_small"],
    "soft_labels": {"public": {"holdout": 30}, "student_every": 2},
    "distillation": {"epochs": 3, "digest": {"epochs": 1}},
}


def _model_arrays(run: Path) -> dict[str, NDArray[Any]]:
    """Every array of every model that a run left."""
    files = sorted((run / "models").rglob("*.safetensors"))
    return {
        f"{file.parent.name}/{file.stem}/{name}": array
        for file in files
        for name, array in load_file(file).items()
    }


def _assert_close(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    """In each array, the largest difference is at most 1e-5 of the largest value."""
    assert found.keys() == expected.keys() != set()
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max(), name


@pytest.mark.slow
def test_the_flower_engine_agrees_with_the_local_engine(tmp_path: Path) -> None:
    """Same file, other engine: same arrays, allocations, seconds; weights, soft labels, chain and family."""
    chain, signs = two(tmp_path), family(tmp_path, signs={"merge_rounds": 1})
    chain["subtasks"]["side"]["until_round"] = 1
    tables = IRIS | {
        "rounds": 2,
        "allocation": {"policy": "everyone", "max_subtasks_per_site": 4},
        "subtasks": IRIS["subtasks"] | {"wine": WINE} | chain["subtasks"] | signs["subtasks"],
        "data": IRIS["data"]
        | {"wine": {"format": "sklearn", "name": "wine"}}
        | chain["data"]
        | signs["data"],
        "decomposition": signs["decomposition"],
    }
    file = tmp_path / "agree.toml"
    file.write_text(tomlkit.dumps(tables), encoding="utf-8")
    options = ["--engine", "flower", "--no-baselines", "--json", "--out", str(tmp_path)]
    flower = subprocess.run(
        [sys.executable, "-c", "import consilium; consilium.main()", "simulate", str(file), *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert flower.returncode == 0, flower.stderr
    found = json.loads(flower.stdout)
    collaboration = ready(parse(tables, "test"), tmp_path)
    run = found["run_id"]
    order = Order(run, tmp_path / "local", "local", baselines=False)  # same name: it takes bytes, so time
    expected = json.loads(json.dumps(simulate(collaboration, order, lambda _: None)))
    _assert_close(_model_arrays(tmp_path / run), _model_arrays(tmp_path / "local" / run))
    assert (found["engine"], expected["engine"]) == ("flower", "local")
    assert found["allocations"] == expected["allocations"]
    assert found["decompositions"] == expected["decompositions"]
    assert found["chains"]["verdict"]["end_to_end"] is not None
    assert found["totals"] | {"wall_s": 0} == expected["totals"] | {"wall_s": 0}


def _record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _plain_flower_client(collaboration: Collaboration, prepared: Prepared) -> ClientApp:
    """A ClientApp as Flower's own strategies want it, whose training is that of our sites."""
    plain, names = ClientApp(), sorted(collaboration.sites)

    @plain.train()
    def train(message: Message, context: Context) -> Message:
        site = from_scenario(collaboration, names[int(str(context.node_config["partition-id"]))])
        assignment = Assignment(
            run="plain",
            round=int(str(message.content.config_records["config"]["server-round"])),
            subtask=prepared.subtask,
            site=site.name,
            model=prepared.models[site.name],
        )
        given = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
        contribution, arrays = train_weights(
            Desk(site, SiteState(context.state), prepared.subtask), assignment, given
        )
        metrics = MetricRecord({"num-examples": contribution.num_examples})
        return Message(RecordDict({"arrays": _record(arrays), "metrics": metrics}), reply_to=message)

    return plain


def _prepared(collaboration: Collaboration, run_config: dict[str, str | int | float | bool]) -> Prepared:
    """What the server knows of the subtask before the first round."""
    found: list[Prepared] = []

    def serve(grid: Grid) -> None:
        nodes, capabilities = discover(grid, collaboration, [])
        courier = SimulatedCourier(grid, nodes, collaboration.sites, collaboration.seed)
        found.append(prepare(courier, collaboration, capabilities, [])["iris"])

    run_locally(serve, client_app, num_nodes=len(NAMES), run_config=run_config)
    return found[0]


def test_fedavg_gives_the_parameters_of_flowers_own_fedavg(tmp_path: Path) -> None:
    """One subtask, everyone, fedavg: after three rounds our arrays equal those of Flower's own strategy."""
    collaboration = ready(parse(IRIS, "test"), tmp_path)
    run_config: dict[str, str | int | float | bool] = {"collaboration": to_toml(collaboration)}
    prepared = _prepared(collaboration, run_config)
    theirs: list[ArrayRecord] = []

    def ours(grid: Grid) -> None:
        federate(grid, collaboration, Terms("ours", tmp_path / "ours", engine="local"))

    def plain(grid: Grid) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=3, weighted_by_key="num-examples")
        config = ConfigRecord({})
        initial = _record(prepared.fresh_arrays("mlp_small"))
        theirs.append(strategy.start(grid, initial, num_rounds=3, train_config=config).arrays)

    run_locally(ours, client_app, num_nodes=len(NAMES), run_config=run_config)
    plain_app = _plain_flower_client(collaboration, prepared)
    run_locally(plain, plain_app, num_nodes=len(NAMES), run_config=run_config)
    found = load_file(tmp_path / "ours" / "models" / "iris" / "final.safetensors")
    assert any(
        np.abs(array - prepared.fresh_arrays("mlp_small")[name]).max() > 0.01 for name, array in found.items()
    )
    _assert_close(found, {name: array.numpy() for name, array in theirs[0].items()})
