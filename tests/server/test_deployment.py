"""A server and three hospitals, each their own processes with mutual TLS, on the heart data of 1988."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
from flwr.serverapp import Grid
from safetensors.numpy import load_file

from clients.app import app as client_app
from collab.data.locate import locate
from collab.settings import parse, parse_toml, read_text
from server.federation import Terms, federate, to_toml
from simulations.deployed import Deployed, deployed
from simulations.local_engine import run_locally
from simulations.simulate import ready, scenario_path

SITES = ("cleveland", "hungarian", "va")
KEPT = ("name", "seed", "subtasks", "allocation", "fusion")
COORDINATION = {"sites": len(SITES), "quorum": 1.0, "deadline_s": 600}  # who takes part must not differ
# What must not rise once a site is warm.
LOADS = ("site_loads", "data_loads", "speed_measurements", "tensor_builds")


def _scenario() -> dict[str, Any]:
    path = scenario_path("heart")
    return ready(parse(parse_toml(read_text(path), str(path)), str(path)), path.parent).model_dump(
        mode="json", exclude_unset=True
    )


def _terms(rounds: int, **train: Any) -> dict[str, Any]:
    """The heart collaboration for real sites."""
    scenario = _scenario()
    terms = {key: scenario[key] for key in KEPT if key in scenario}
    terms["subtasks"]["heart"]["train"] |= train
    return terms | {"rounds": rounds, "coordination": COORDINATION}


def _site_tables() -> dict[str, dict[str, Any]]:
    """What each hospital writes into its site.toml: its own file, as the scenario reads it."""
    data = dict(_scenario()["data"]["heart"])
    files = data.pop("files")
    limits = {"memory_mib": 4096, "examples_per_s": 1000, "device": "cpu"}
    egress = {"label_histogram": "exact", "models": True}
    return {
        site: {"data": {"heart": data | {"path": _located(files[site])}}, "limits": limits, "egress": egress}
        for site in SITES
    }


def _located(path: str) -> str:
    """Where a hospital's file lies, as a path that its site.toml can name."""
    return str(locate(path, Path.cwd()).resolve())


def _simulated(folder: Path, terms: dict[str, Any]) -> Path:
    """The same collaboration on the local engine, with the same files; the folder of its run."""
    scenario = _scenario()
    data = scenario["data"]["heart"]
    data["files"] = {site: data["files"][site] for site in SITES}
    profiles = {site: {"device": "cpu", "examples_per_s": 1000} for site in SITES}
    tables = terms | {"data": {"heart": data}, "partition": scenario["partition"], "sites": profiles}
    tables["coordination"] = {key: value for key, value in COORDINATION.items() if key != "sites"}
    collaboration = parse(tables, "test")
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


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """One real federation for all tests of this file."""
    with deployed(tmp_path_factory.mktemp("federation"), _site_tables()) as at:
        yield at


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
    at, terms = federation, _terms(rounds=3)
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
    at, terms = federation, _terms(rounds=6, local_epochs=120)
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
