"""Without validation rows what needs them is refused; what does not, runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collab.settings import parse
from protocol.errors import ConfigError
from simulations.simulate import Order, ready, simulate

NONE = {"test": 0.2, "validation": 0.0}


def outcome(folder: Path, **subtask: Any) -> dict[str, Any]:
    """Run two rounds of two sites that have no validation rows."""
    tables = {
        "name": "none",
        "rounds": 2,
        "subtasks": {"wine": {"kind": "tabular_classification", "models": ["linear"], **subtask}},
        "data": {"wine": {"format": "sklearn", "name": "wine", "split": NONE}},
        "sites": {"a": {}, "b": {}},
    }
    collaboration = ready(parse(tables, "test"), folder)
    return simulate(collaboration, Order("r", folder, baselines=False), lambda _: None)


def test_a_run_without_validation_fuses_nothing(tmp_path: Path) -> None:
    """It trains and is measured on test rows, and a note says that nothing was fitted on validation rows."""
    found = outcome(tmp_path)
    assert found["subtasks"]["wine"]["fusion"]["rule"] == "own_pool"
    assert found["subtasks"]["wine"]["collaboration"]["global"] is not None
    assert any("no validation rows" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("subtask", "named"),
    [
        ({"target": 0.1}, "a target"),
        ({"fusion": {"rule": "least_squares"}}, "least_squares"),
        ({"exchange": "soft_labels", "soft_labels": {"public": {"holdout": 40}}}, "soft_labels"),
    ],
)
def test_what_needs_validation_is_refused(tmp_path: Path, subtask: dict[str, Any], named: str) -> None:
    """A decision that nothing would support is refused before anybody trains."""
    with pytest.raises(ConfigError, match=f"{named}.*split.validation > 0"):
        outcome(tmp_path, **subtask)
