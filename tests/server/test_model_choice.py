"""Who holds which model: the largest that memory admits (for weights: of all), or the best on validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from protocol.errors import ConfigError, RunError
from protocol.messages import SubtaskQuery, Trial
from protocol.records import unpack
from tests.small import NAMES, SOFT_LABELS, WEIGHTS, Small, run, sites, tables

MODELS = [
    {"name": "mlp_medium", "memory_mib": 512},  # the order of the file is not the order of size
    {"name": "linear", "memory_mib": 16},
    {"name": "mlp_small", "memory_mib": 64},
]
MEMORY = {"alpha": {"memory_mib": 64}, "beta": {"memory_mib": 1024}, "gamma": {"memory_mib": 511}}


def _models(folder: Path, base: Any, profiles: Any, **changes: Any) -> tuple[dict[str, str], Small]:
    subtask = {**base, "models": MODELS, **changes}
    found = run(tables({"wine": subtask}, sites=sites(**profiles)), folder)
    return found.summary["subtasks"]["wine"]["models"], found


def test_with_soft_labels_each_holds_the_largest_that_fits(tmp_path: Path) -> None:
    """Memory admits a model up to its very size; each site has its own."""
    models, _ = _models(tmp_path, SOFT_LABELS, MEMORY)
    assert models == {"alpha": "mlp_small", "beta": "mlp_medium", "gamma": "mlp_small"}


def test_with_weights_all_hold_the_largest_that_all_can(tmp_path: Path) -> None:
    """One model for all: the largest that the smallest able site admits."""
    models, _ = _models(tmp_path, WEIGHTS, MEMORY)
    assert models == dict.fromkeys(NAMES, "mlp_small")


@pytest.mark.parametrize("base", [WEIGHTS, SOFT_LABELS])
def test_a_site_too_small_for_any_model_is_left_out_by_name(base: Any, tmp_path: Path) -> None:
    """It is told so and does not hold the others down."""
    models, found = _models(tmp_path, base, {**MEMORY, "alpha": {"memory_mib": 15}})
    assert models == {"beta": models["beta"], "gamma": "mlp_small"}
    assert "alpha: no model of wine fits into 15 MiB" in found.notes
    assert found.outcomes("alpha") == []


def test_where_no_site_has_the_memory_the_run_ends(tmp_path: Path) -> None:
    """Too small all of them: one sentence, before any training."""
    with pytest.raises(RunError, match="subtask 'wine': no site has the memory for any of its models"):
        _models(tmp_path, WEIGHTS, {name: {"memory_mib": 8} for name in NAMES})


def _tried(found: Small) -> dict[int, tuple[str, ...]]:
    asked = [a for a, _ in found.grid.passed if a.metadata.message_type == "query.trial"]
    return {a.metadata.dst_node_id: _models_of(a) for a in asked}


def _models_of(message: Message) -> tuple[str, ...]:
    return unpack(message.content, SubtaskQuery)[0].models


def test_on_validation_soft_labels_each_take_their_best(tmp_path: Path) -> None:
    """A site tries what its memory admits and no more, and holds the one of least validation loss."""
    train = {"optimizer": "sgd", "lr": 1e-5, "local_steps": 1}  # hardly trained: the first guess decides
    models, found = _models(tmp_path, SOFT_LABELS, MEMORY, select="validation", train=train)
    small = ("linear", "mlp_small")
    assert _tried(found) == {1: small, 2: (*small, "mlp_medium"), 3: small}
    trials = [unpack(reply.content, Trial)[0] for reply in found.grid.answers("query.trial")]
    assert models == {t.site: min(t.loss_sums, key=t.loss_sums.__getitem__) for t in trials}
    assert set(models) == set(NAMES)


def test_on_validation_weights_take_the_best_of_all_rows(tmp_path: Path) -> None:
    """One model for all, the one whose validation loss, summed over the sites, is least."""
    models, found = _models(tmp_path, WEIGHTS, MEMORY, select="validation")
    trials = [unpack(reply.content, Trial)[0] for reply in found.grid.answers("query.trial")]
    assert all(set(trial.loss_sums) == {"linear", "mlp_small"} for trial in trials)
    totals = {name: sum(t.loss_sums[name] for t in trials) for name in trials[0].loss_sums}
    assert len(trials) == len(NAMES)
    assert models == dict.fromkeys(NAMES, min(totals, key=lambda name: totals[name]))


def test_a_trial_is_of_validation_rows(tmp_path: Path) -> None:
    """Without validation rows nobody can choose by them, and the sentence says which key asks for it."""
    made = tables({"wine": {**WEIGHTS, "models": MODELS, "select": "validation"}})
    made["data"]["wine"]["split"] = {"test": 0.2, "validation": 0.0}
    with pytest.raises(ConfigError, match="select = 'validation', but no site could try its models"):
        run(made, tmp_path)
