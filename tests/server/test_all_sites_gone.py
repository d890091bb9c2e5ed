"""Without any site a run ends with one sentence, and leaves its log and no half result."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.errors import RunError
from tests.fault_cases import Fault, app_with, contribution, fails, refuses
from tests.small import run, tables


@pytest.mark.parametrize(
    ("message_type", "says"),
    [
        ("query.capability", "0 of 3 sites joined"),
        ("query.summary", "subtask 'iris': no site can take part"),
        ("train.weights", "nobody answered in 3 rounds on end"),
    ],
)
@pytest.mark.parametrize("fault", [refuses, fails])
def test_without_any_site_the_run_ends_and_says_why(
    message_type: str, says: str, fault: Fault, tmp_path: Path
) -> None:
    """Where every site refuses or dies, the run ends with one sentence and leaves no half result."""
    with pytest.raises(RunError, match=says) as raised:
        run(tables(rounds=9), tmp_path, app=app_with(fault, message_type, None))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "r" / "summary.json").exists()
    assert not (tmp_path / "r" / "contributions").exists()


def test_with_coverage_asked_for_the_run_ends_at_once(tmp_path: Path) -> None:
    """Where every site sends nonsense and rows must be covered, the first round is the last."""
    made = tables(rounds=9)
    made["coordination"]["min_coverage"] = 0.5
    app = app_with(contribution(digest="0" * 64), "train.weights", None)
    with pytest.raises(RunError, match=r"round 1, iris: only 0% .* missing: alpha, beta, gamma"):
        run(made, tmp_path, app=app)
