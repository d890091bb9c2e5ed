"""Every rule that can be named in a file takes a run from its first message to its summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collab import plugins
from collab.aggregation import contract as aggregation
from collab.fusion.contract import ALL_TASKS
from collab.models.contract import build, to_arrays
from protocol.codec import decode, encode
from protocol.errors import ConfigError
from protocol.fusing import FINAL
from protocol.messages import Contribution
from protocol.records import unpack
from tests.small import SOFT_LABELS, WEIGHTS, Small, Tables, run, tables

SITES = tuple(f"site{i}" for i in range(7))


def _many(subtask: dict[str, Any], data: str = "digits", **changes: Any) -> Tables:
    """Return a run on seven alike sites: enough for every robust rule with f = 1."""
    made = tables({data: subtask}, **changes)
    made["sites"] = {site: {"device": "cpu"} for site in SITES}
    return made


def _entry(found: Small) -> dict[str, Any]:
    (entry,) = found.summary["subtasks"].values()
    return dict(entry)


@pytest.mark.parametrize("rule", plugins.names("aggregation"))
def test_every_aggregation_rule_learns(rule: str, tmp_path: Path) -> None:
    """After three rounds the merged model is better than chance, whoever merged it."""
    subtask = {**WEIGHTS, "kind": "tabular_classification", "aggregation": rule, "labels": 10}
    needs = aggregation.needs(plugins.load("aggregation", rule))
    if "root" in needs:
        subtask["root"] = {"holdout": 60}
    found = run(_many(subtask, rounds=3, fusion={"rule": "own_pool"}), tmp_path)
    assert not found.notes
    assert _entry(found)["collaboration_metrics"]["global"]["accuracy"] > 0.5


@pytest.mark.parametrize("rule", plugins.names("soft_labels"))
def test_every_combination_teaches_a_student(rule: str, tmp_path: Path) -> None:
    """The student of every combination is accepted and beats chance."""
    subtask = {**SOFT_LABELS, "labels": 10, "wire": "uint8"}
    subtask["soft_labels"] = {"combine": rule, "public": {"holdout": 150}, "student_every": 9}
    found = run(_many(subtask, rounds=1), tmp_path)
    assert not found.notes
    assert _entry(found)["collaboration_metrics"]["global"]["accuracy"] > 0.5


def _fusions(task: str) -> list[str]:
    return [
        r for r in plugins.names("fusion") if task in getattr(plugins.load("fusion", r), "TASKS", ALL_TASKS)
    ]


@pytest.mark.parametrize("rule", _fusions("classification"))
def test_every_fusion_fuses_classes(rule: str, tmp_path: Path) -> None:
    """The fused model of every rule is measured on all sites' test rows, and is no worse than chance."""
    found = run(tables(fusion={"rule": rule}, rounds=2), tmp_path)
    entry = _entry(found)
    assert not found.notes
    assert entry["fusion"]["rule"] == rule
    assert entry["fusion"]["metrics"]["accuracy"] > 0.4
    assert sum(entry["fusion"]["weights"].values()) == pytest.approx(1)


@pytest.mark.parametrize("rule", _fusions("regression"))
def test_every_fusion_fuses_values(rule: str, tmp_path: Path) -> None:
    """A regression is fused by every rule that says it can, and refused by the others."""
    subtask = {"kind": "tabular_regression", "models": ["linear"], "train": {"lr": 0.02, "local_epochs": 8}}
    found = run(tables({"diabetes": subtask}, fusion={"rule": rule}, rounds=3), tmp_path)
    assert not found.notes
    assert _entry(found)["fusion"]["metrics"]["r2"] > 0.1


@pytest.mark.parametrize("rule", sorted(set(plugins.names("fusion")) - set(_fusions("regression"))))
def test_a_fusion_of_classes_is_refused_for_values(rule: str) -> None:
    """A rule for classes says so before a run, in the subtask's table."""
    subtask = {"kind": "tabular_regression", "models": ["linear"], "fusion": {"rule": rule}}
    with pytest.raises(ConfigError, match=f"fusion '{rule}' is for a classification"):
        run(tables({"diabetes": subtask}), Path("never"))


COMPOSED: dict[str, dict[str, Any]] = {
    "fedmd": {"soft_labels": {"public": {"holdout": 150}}},
    "ds_fl": {"soft_labels": {"public": {"holdout": 150}}},
    "selective": {"soft_labels": {"public": {"holdout": 150}}},
    "one_shot": {"soft_labels": {"public": {"holdout": 150}}},
    "feddf": {"soft_labels": {"public": {"holdout": 150}}},
    "fedproto": {"prototypes": {"dim": 16}},
}


def test_every_composition_has_a_case() -> None:
    """A composition that is added is added to the runs below."""
    assert set(COMPOSED) == set(plugins.names("compositions"))


@pytest.mark.parametrize("name", sorted(COMPOSED))
def test_every_composition_runs_among_unlike_models(name: str, tmp_path: Path) -> None:
    """Two architectures; what the sites deploy is right more often than not on their own rows."""
    subtask = {
        "kind": "tabular_classification",
        "labels": 10,
        "composition": name,
        "models": [{"name": "mlp_small", "memory_mib": 64}, {"name": "mlp_medium", "memory_mib": 1024}],
        "train": {"optimizer": "adam", "lr": 0.005, "batch_size": 16, "local_epochs": 8},
        "distillation": {"epochs": 20, "lr": 0.005},
        **COMPOSED[name],
    }
    made = _many(subtask, rounds=1 if name == "one_shot" else 2, fusion={"rule": "own_pool"})
    for site in SITES[:3]:
        made["sites"][site]["memory_mib"] = 128
    found = run(made, tmp_path)
    entry = _entry(found)
    assert set(entry["models"].values()) == {"mlp_small", "mlp_medium"}
    assert entry["collaboration_metrics"]["own"]["accuracy"] > 0.6
    if name == "fedproto":
        assert entry["collaboration"]["global"] is None
    else:
        assert entry["collaboration_metrics"]["global"]["accuracy"] > 0.6


def test_one_shot_has_one_round(tmp_path: Path) -> None:
    """A file that asks for more is refused, not run as something else."""
    subtask = {"kind": "tabular_classification", "composition": "one_shot", **COMPOSED["one_shot"]}
    with pytest.raises(ConfigError, match="'one_shot' needs rounds = 1, found 2"):
        run(_many(subtask, rounds=2), tmp_path)


@pytest.mark.parametrize("rule", ["fedper", "fedrep", "fedbn", "ditto"])
def test_every_personal_model_is_deployed(rule: str, tmp_path: Path) -> None:
    """Layers that stay at home leave no global model; Ditto leaves one. Each site deploys what it has."""
    subtask = {
        "kind": "image_classification",
        "labels": 10,
        "models": ["cnn_small"],
        "personal": rule,
        "train": {"optimizer": "adam", "lr": 0.01, "batch_size": 16, "local_epochs": 3},
    }
    found = run(_many(subtask, rounds=2, fusion={"rule": "own_pool"}), tmp_path)
    entry = _entry(found)
    assert entry["collaboration_metrics"]["own"]["accuracy"] > 0.5
    assert (entry["collaboration"]["global"] is None) == (rule != "ditto")
    kept = {"fedper": "5.", "fedrep": "5.", "fedbn": "1.", "ditto": "none"}[rule]
    for reply in found.grid.answers("train.weights"):
        assert not any(name.startswith(kept) for name in _names(reply))


def _names(reply: Any) -> set[str]:
    return set(unpack(reply.content, Contribution)[1])


@pytest.mark.parametrize("join", ["teacher", "initialisation"])
def test_an_imported_model_joins(join: str, tmp_path: Path) -> None:
    """A file of a known architecture is one more vote, or the student's start."""
    arrays = to_arrays(build("linear", (64,), 10, seed=5))
    path = tmp_path / "other.safetensors"
    path.write_bytes(encode(arrays))
    subtask = {**SOFT_LABELS, "labels": 10}
    subtask["soft_labels"] = {"public": {"holdout": 150}, "student_every": 9}
    plain = run(_many(subtask), tmp_path, name="plain")
    subtask["teacher"] = {"path": str(path), "model": "linear", "join": join}
    joined = run(_many(subtask), tmp_path, name="joined")
    assert not joined.notes
    one, other = (found.models()[f"models/digits/{FINAL}.safetensors"] for found in (plain, joined))
    assert one != other


def test_quantised_deltas_lose_next_to_nothing(tmp_path: Path) -> None:
    """int8 deltas take about a quarter of the bytes up and end near the same model."""
    subtask = {**WEIGHTS, "models": ["mlp_medium"], "labels": 10}
    plain = run(_many(subtask, rounds=3, fusion={"rule": "own_pool"}), tmp_path, name="plain")
    small = run(
        _many({**subtask, "wire": "int8_delta"}, rounds=3, fusion={"rule": "own_pool"}),
        tmp_path,
        name="small",
    )
    up = [
        sum(len(r.content["arrays"]["blob"].data) for r in f.grid.answers("train.weights"))
        for f in (plain, small)
    ]
    assert up[1] < 0.3 * up[0]
    losses = [_entry(f)["collaboration"]["global"] for f in (plain, small)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_sums_give_the_ridge_of_all_rows_in_one_round(tmp_path: Path) -> None:
    """The model after one round of normal equations does not depend on how the rows were dealt out."""
    subtask = {"kind": "tabular_regression", "models": ["linear"], "aggregation": "normal_equations"}
    found = {}
    for kind in ({"kind": "iid"}, {"kind": "quantity", "skew": 0.5}):
        made = tables({"diabetes": subtask}, partition={"diabetes": kind}, fusion={"rule": "own_pool"})
        made["data"]["diabetes"]["split"] = {"test": 0.0, "validation": 0.0}
        found[kind["kind"]] = run(made, tmp_path, name=str(kind["kind"])).models()
    one, other = (decode(m["models/diabetes/final.safetensors"], 2**20) for m in found.values())
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-3)
