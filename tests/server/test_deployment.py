"""A server and three hospitals, each their own processes with mutual TLS, on the heart data of 1988."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
from flwr.serverapp import Grid
from safetensors.numpy import load_file

from clients.app import app as client_app
from collab.settings import parse
from server.federation import Terms, federate, to_toml
from simulations.deployed import Deployed
from simulations.local_engine import run_locally
from tests.deployment_cases import COORDINATION, SITES, heart_terms, scenario

# What must not rise once a site is warm.
LOADS = ("site_loads", "data_loads", "speed_measurements", "tensor_builds")


def _simulated(folder: Path, terms: dict[str, Any]) -> Path:
    """The same collaboration on the local engine, with the same files; the folder of its run."""
    tables = scenario()
    data = tables["data"]["heart"]
    data["files"] = {site: data["files"][site] for site in SITES}
    profiles = {site: {"device": "cpu", "examples_per_s": 1000} for site in SITES}
    made = terms | {"data": {"heart": data}, "partition": tables["partition"], "sites": profiles}
    made["coordination"] = {key: value for key, value in COORDINATION.items() if key != "sites"}
    collaboration = parse(made, "test")
    run = folder / "simulated"

    def serve(grid: Grid) -> None:
        federate(grid, collaboration, Terms("simulated", run))

    config = {"collaboration": to_toml(collaboration)}
    run_locally(serve, client_app, num_nodes=len(SITES), run_config=config)
    return run


def _same_arrays(found: Path, expected: Path) -> None:
    """Every array of the models that two runs left is the same, bit for bit."""
    files = sorted((expected / "models" / "heart").glob("*.safetensors"))
    assert (expected / "models" / "heart" / "final.safetensors") in files
    for file in files:
        arrays = load_file(file)
        others = load_file(found / "models" / "heart" / file.name)
        assert others.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(others[name], array, err_msg=f"{file.name}: {name}")


def _submit(at: Deployed, run: str, terms: dict[str, Any]) -> None:
    file = at.folder / f"{run}.toml"
    file.write_text(tomlkit.dumps(terms), encoding="utf-8")
    options = ["--run", run, "--kit", at.server, "--no-baselines", "--json"]
    order = json.loads(at.consilium("submit", file, *options))
    assert order["run"] == run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_sites_give_the_arrays_of_the_local_engine(federation: Deployed, tmp_path: Path) -> None:
    """Three rounds between real parties end with the very bits of the in-process engine.

    And once the first round is over, no site loads anything anew.
    """
    at, terms = federation, heart_terms(rounds=3)
    _submit(at, "plain", terms)
    at.wait(lambda: at.status("plain")["runs"]["plain"].get("round", 0) >= 1, "round 1 is over", 300)
    at.wait(lambda: all(at.counters(site).get("data_loads") for site in SITES), "every site has counted")
    before = {site: at.counters(site) for site in SITES}
    assert at.await_end("plain", 300) == "finished", at.story("the run did not finish")
    after = {site: at.counters(site) for site in SITES}
    for site in SITES:
        assert after[site]["pid"] == before[site]["pid"]
        assert after[site]["torch_imported"]
        assert not after[site]["cuda_initialised"]
        for name in ("site_loads", "data_loads", "speed_measurements"):
            assert after[site][name] == before[site][name], f"{site}: {name}"
        assert after[site]["hits"] > before[site]["hits"]
    found = at.server / "runs" / "plain"
    _same_arrays(found, _simulated(tmp_path, terms))
    summary = json.loads((found / "summary.json").read_text(encoding="utf-8"))
    assert summary["ended"] == "all 3 rounds are done"
    assert (found / "report.html").is_file()
    shown = at.consilium("status", "plain", "--kit", at.server)
    assert "run plain: finished" in shown
    assert all(site in shown for site in SITES)
    assert at.consilium("logs", "plain", "--kit", at.server)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_process_may_die_in_mid_round(federation: Deployed, tmp_path: Path) -> None:
    """A worker, an agent, a SuperNode, the run's process and the link are killed while sites work.

    The run finishes, and with the bits of a run in which nothing died.
    """
    at, terms = federation, heart_terms(rounds=6, local_epochs=120)
    _submit(at, "hurt", terms)
    kills = [
        ("cleveland", "clients.worker"),
        ("hungarian", "clients.agent"),
        ("va", "clients.node"),
        ("server", "server.serve"),
        ("server", "server.link"),
    ]
    for round_, (name, module) in enumerate(kills, start=1):
        site = name if name in SITES else "va"
        at.wait(lambda r=round_, s=site: _is_training(at, s, r), f"{site} works in round {round_}", 300)
        at.kill(name, module)
    assert at.await_end("hurt", 600) == "finished", at.story("the run did not finish")
    order = at.status("hurt")["runs"]["hurt"]["order"]
    assert order["starts"] == 2, at.story("the run's process was started again once")
    _same_arrays(at.server / "runs" / "hurt", _simulated(tmp_path, terms))


def _is_training(at: Deployed, site: str, round_: int) -> bool:
    """Whether a site is at work on its assignment of a round, or of a later one."""
    work = at.status("hurt").get("runs", {}).get("hurt", {}).get("sites", {}).get(site, {})
    at_work = work.get("state") == "working" and str(work.get("kind", "")).startswith("train.")
    parts = str(work.get("task", "")).split("/")
    return at_work and len(parts) > 1 and int(parts[1]) >= round_
