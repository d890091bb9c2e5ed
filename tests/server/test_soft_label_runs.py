"""Soft labels in whole runs: a student must beat the class frequencies; sharpening is chosen and paid for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from protocol.errors import DataError
from protocol.messages import EvaluationRequest
from protocol.records import unpack, wire_bytes
from tests.small import NAMES, SOFT_LABELS, Small, Tables, run, sites, tables

IMAGES: Mapping[str, Any] = {
    **SOFT_LABELS,
    "kind": "image_classification",
    "labels": 10,
    "models": ["mlp_medium"],
    "soft_labels": {"public": {"data": "other"}, "student_every": 1},
    "train": {"optimizer": "adam", "lr": 3e-3, "batch_size": 32, "local_epochs": 6},
    "distillation": {"sharpen": "none", "epochs": 10, "lr": 3e-3, "digest": {"epochs": 1}},
}


def _images(folder: Path, public_NHW: NDArray[np.floating], **changes: Any) -> Tables:
    """Return a subtask on 400 written digits with these images for a public set."""
    digits = load_digits()
    folder.mkdir(exist_ok=True)
    np.savez(folder / "private.npz", x=digits.images[:400] / 16, y=digits.target[:400])
    np.savez(folder / "public.npz", x=public_NHW)
    files = {"digits": "private.npz", "other": "public.npz"}
    data = {name: {"format": "npz", "path": str(folder / file)} for name, file in files.items()}
    return tables({"digits": IMAGES}, rounds=2, data=data, **changes)


def _noise() -> NDArray[np.floating]:
    """Return images that say nothing of any digit: grey, with a little grain."""
    return np.asarray(0.3 + 1e-3 * np.random.default_rng(0).uniform(size=(80, 8, 8)))


def test_an_honest_public_set_makes_a_student(tmp_path: Path) -> None:
    """Where public images are like private ones, the student is accepted and is the final model."""
    found = run(_images(tmp_path, load_digits().images[400:480] / 16), tmp_path)
    entry = found.summary["subtasks"]["digits"]
    assert entry["student"]["accepted"]
    assert entry["collaboration"]["global"] > 0.6
    assert "models/digits/final.safetensors" in found.models()


def test_a_public_set_of_noise_makes_none(tmp_path: Path) -> None:
    """Noise teaches class frequencies at best: the student is refused, a note says so, own results stay."""
    found = run(_images(tmp_path, _noise()), tmp_path)
    entry = found.summary["subtasks"]["digits"]
    refused = {"accepted": False, "temperature": None, "round": None, "validation": None}
    assert entry["student"] == {"model": "mlp_medium", **refused}
    assert "digits, round 1: student refused" in found.notes
    assert entry["collaboration"]["global"] is None
    assert "models/digits/final.safetensors" not in found.models()
    assert [entry["gains"][name]["own"] > 0.6 for name in NAMES] == [True] * 3


def test_without_a_student_sites_that_keep_their_models_still_have_their_own(tmp_path: Path) -> None:
    """Refused student and no shared model: nothing is fused, and each site's own result is reported."""
    keeps = {name: {"egress": {"models": False}} for name in NAMES}
    found = run(_images(tmp_path, _noise(), sites=sites(**keeps)), tmp_path, baselines=True)
    entry = found.summary["subtasks"]["digits"]
    assert not entry["student"]["accepted"]
    assert found.models() == {}
    assert entry["fusion"] == {"rule": "own_pool", "weights": {}, "global": None, "metrics": {}}
    assert [entry["gains"][name]["own"] > 0.6 for name in NAMES] == [True] * 3
    assert entry["baselines"]["local_mean"]["own"] > 0.6


def _wine(sharpen: object, rounds: int = 1) -> Tables:
    subtask = {**SOFT_LABELS, "distillation": {**SOFT_LABELS["distillation"], "sharpen": sharpen}}
    return tables({"wine": subtask}, rounds=rounds)


def _students(found: Small) -> list[Message]:
    return [m for m, _ in found.grid.passed if m.metadata.message_type == "evaluate.model"]


def test_sharpening_is_chosen_on_validation(tmp_path: Path) -> None:
    """``auto`` tries four teachers and keeps the best: what it reports is the best of the four alone."""
    auto = run(_wine("auto"), tmp_path / "auto").summary["subtasks"]["wine"]["student"]
    options = {"1.0": "none", "0.5": 0.5, "0.1": 0.1, "hard": "hard"}
    alone = {
        name: run(_wine(option), tmp_path / name).summary["subtasks"]["wine"]["student"]["validation"]
        for name, option in options.items()
    }
    assert auto["validation"] == min(alone.values())  # log loss
    assert alone[auto["temperature"]] == auto["validation"]


def test_all_that_was_tried_is_paid_for(tmp_path: Path) -> None:
    """``auto`` sends four students to every site where one temperature sends one, and bytes count each."""
    auto, one = run(_wine("auto"), tmp_path / "a"), run(_wine("none"), tmp_path / "n")
    sent = [_students(found) for found in (auto, one)]
    assert [len(messages) for messages in sent] == [4 * 3, 3]
    extra = sum(wire_bytes(m.content) for m in sent[0]) - sum(wire_bytes(m.content) for m in sent[1])
    down = [found.summary["totals"]["bytes_down"] for found in (auto, one)]
    assert abs(down[0] - down[1] - extra) < 0.01 * extra  # the final model differs a little in its text
    assert auto.summary["totals"]["simulated_s"] > one.summary["totals"]["simulated_s"]


def test_the_student_travels_when_it_should(tmp_path: Path) -> None:
    """With ``student_every = 2`` of 5 rounds it is distilled in rounds 2 and 4, and once more at the end."""
    subtask = {**SOFT_LABELS, "soft_labels": {"public": {"holdout": 40}, "student_every": 2}}
    found = run(tables({"wine": subtask}, rounds=5), tmp_path)
    rounds = [unpack(m.content, EvaluationRequest)[0].round for m in _students(found)]
    assert rounds == [2] * 3 + [4] * 3 + [5] * 3


def test_a_site_that_lacks_the_memory_abstains(tmp_path: Path) -> None:
    """A student that a site cannot hold is not measured there, and the validation says on how many rows."""
    models = [{"name": "linear", "memory_mib": 1}, {"name": "mlp_medium", "memory_mib": 64}]
    subtask = {**SOFT_LABELS, "models": models}
    subtask["distillation"] = {**SOFT_LABELS["distillation"], "student": "mlp_medium"}
    found = run(tables({"wine": subtask}, sites=sites(beta={"memory_mib": 8})), tmp_path)
    assert found.summary["subtasks"]["wine"]["models"] == {
        "alpha": "mlp_medium",
        "beta": "linear",
        "gamma": "mlp_medium",
    }
    measured = [
        r for m, r in found.grid.passed if m.metadata.message_type == "evaluate.model" and r.has_content()
    ]
    assert len(measured) == 3
    assert found.summary["subtasks"]["wine"]["student"]["accepted"]


def test_a_public_set_that_cannot_be_used_is_the_users_error(tmp_path: Path) -> None:
    """A public set of other shapes, or whose file is missing, ends the run with one sentence."""
    made = _images(tmp_path / "small", np.zeros((80, 4, 4)))
    with pytest.raises(DataError, match=r"images \(1, 4, 4\), the model was fitted on images \(1, 8, 8\)"):
        run(made, tmp_path)
    made["data"]["other"]["path"] = str(tmp_path / "nowhere.npz")
    with pytest.raises(DataError, match=r"nowhere\.npz"):
        run(made, tmp_path / "nowhere")
