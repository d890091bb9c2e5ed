"""Four hospitals by modality: who has which part, and the benchmark's tables from its figures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from collab.collaboration import Collaboration
from collab.settings import override, parse, parse_toml, read_text
from simulations.benchmarks import modality
from simulations.simulate import Order, ready, scenario_path, simulate

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def _ready(*changes: str) -> Collaboration:
    if not Path(os.environ.get("CONSILIUM_DATA", "."), "heart_disease").is_dir():
        pytest.skip("heart_disease is not under CONSILIUM_DATA")
    path = scenario_path("heart_modality")
    tables = override(parse_toml(read_text(path), str(path)), changes)
    return ready(parse(tables, str(path), path.parent), path.parent)


def test_switzerland_has_no_laboratory(tmp_path: Path) -> None:
    """Its cholesterol is 0 throughout, which means missing: it takes part in the other three modalities."""
    found = _ready("rounds=3")
    assert found.sites_of("heart-laboratory") == ("cleveland", "hungarian", "va")
    for part in ("history", "ecg", "scan"):
        assert len(found.sites_of(f"heart-{part}")) == 4
    summary = simulate(found, Order("r", tmp_path, baselines=False), lambda _: None)
    whole = summary["decompositions"]["heart"]
    assert set(whole["sites"]) == set(found.sites)
    assert whole["global"] < 0.65
    assert whole["rows"]["laboratory"] < whole["rows"]["history"]
    assert not summary["notes"]


def test_both_arms_have_the_same_rows() -> None:
    """The one model's data, split and training are the scenario's own, without its decomposition."""
    made = modality.tables(2, "mlp_small", 0.03)
    assert (made["seed"], made["subtasks"]["heart"]["models"]) == (2, ["mlp_small"])
    assert made["subtasks"]["heart"]["train"]["lr"] == 0.03
    assert set(made["data"]) == {"heart"}


def test_the_published_table_is_that_of_the_figures() -> None:
    """docs/results/modality.md says what modality.json holds, a loss as well as a gain."""
    found = json.loads((RESULTS / "modality.json").read_text(encoding="utf-8"))["seeds"]
    text = (RESULTS / "modality.md").read_text(encoding="utf-8")
    assert "\n".join(modality.rows(found)) in text
    assert modality.paired([0.1, 0.1001, 0.0999], "log_loss").endswith("worse")
    assert modality.paired([0.1, -0.1], "accuracy").endswith("even")
    assert modality.paired([0.1, 0.11], "accuracy").endswith("better")
