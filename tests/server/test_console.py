"""What the terminal shows: the final tables and the progress of a run."""

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from server.console import Progress, result_table


def sample(site: str = "north", subtask: str = "tumour") -> dict[str, Any]:
    """Return a summary of one subtask and two sites, of which edge lost by two standard errors."""
    gains = {
        site: {"own": 0.09, "alone": 0.12, "pooled": 0.07, "standard_error": 0.01},
        "edge": {"own": 0.14, "alone": 0.12, "pooled": 0.07, "standard_error": 0.01},
    }
    baselines = {"local_mean": {"global": 0.2, "own": 0.12}, "pooled": {"global": 0.07, "own": 0.08}}
    return {
        "rounds": 4,
        "subtasks": {
            subtask: {
                "metric": "log_loss",
                "collaboration": {"global": 0.08, "own": 0.115},
                "fusion": {"rule": "least_squares", "weights": {"final": 0.7, site: 0.3}, "global": 0.075},
                "baselines": {**baselines, "fedavg_smallest": {"global": 0.15, "own": 0.13}},
                "gains": gains,
            }
        },
        "sites": {name: {"bytes_up": 1500, "bytes_down": 2500, "simulated_s": 30.1} for name in gains},
        "totals": {"bytes": 8000, "bytes_up": 3000, "bytes_down": 5000, "simulated_s": 60.2, "wall_s": 4.0},
        "notes": ["edge trained the small model."],
    }


def shown(summary: dict[str, Any], *, colour: bool = False) -> str:
    """Return what an 80-column terminal shows."""
    console = Console(file=io.StringIO(), width=80, force_terminal=colour)
    console.print(result_table(summary))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_loss_is_said_in_words() -> None:
    """A site that is worse by more than one standard error is called worse than alone, without colour."""
    text = " ".join(shown(sample()).split())
    assert "Worse off than alone: edge on tumour." in text
    assert "worse than" in text


def test_a_loss_within_the_error_is_not_called_worse() -> None:
    """A site that is worse by less than one standard error is unclear."""
    summary = sample()
    summary["subtasks"]["tumour"]["gains"]["edge"]["standard_error"] = 0.03
    text = shown(summary)
    assert "unclear" in text
    assert "worse than" not in text


def test_every_method_has_its_row() -> None:
    """Alone, FedAvg, the collaboration, its fusion and pooled data stand in one table."""
    text = shown(sample())
    for method in ("alone, mean", "FedAvg smallest", "collaboration", "fused (least_squares)", "pooled"):
        assert method in text


@settings(deadline=None, max_examples=25)
@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_any_name_fits_and_none_takes_control(site: str, subtask: str) -> None:
    """Whatever the names, no line is longer than 80 columns and no escape reaches the terminal."""
    summary = sample(site, subtask)
    summary["subtasks"] = {**summary["subtasks"], f"{subtask}[red]": {"metric": "rmse"}}
    text = shown(summary)
    assert "\x1b" not in text
    assert all(cell_len(line) <= 80 for line in text.splitlines())


def test_a_long_name_breaks_between_its_words() -> None:
    """Parts are called after their whole: neither word is cut in the middle."""
    text = shown(sample(site="switzerland", subtask="heart-laboratory"))
    sites = text[text.index("Sites:") :]
    assert "heart-lab" not in sites
    assert "laboratory" in sites


def test_names_are_not_markup() -> None:
    """Rich markup in a name is shown as it is."""
    assert "[red]x" in shown(sample(site="[red]x"), colour=True)


@pytest.mark.parametrize("key", ["baselines", "gains", "fusion", "collaboration"])
def test_a_subtask_may_lack_a_part(key: str) -> None:
    """Each part of a subtask may be null, and the tables still show."""
    summary = sample()
    summary["subtasks"]["tumour"][key] = None
    assert "collaboration" in shown(summary)


EVENTS: list[dict[str, Any]] = [
    {"type": "assigned", "round": 1, "site": "north", "subtask": "digits"},
    {"type": "assigned", "round": 1, "site": "edge", "subtask": "digits"},
    {"type": "arrived", "round": 1, "site": "north", "subtask": "digits"},
    {
        "type": "rejected",
        "site": "edge",
        "subtask": "digits",
        "code": "arrays",
        "detail": "not finite\x1b[2J",
    },
    {"type": "evaluated", "round": 1, "subtask": "digits", "metric": "accuracy", "value": 0.9123},
    {"type": "of a later version"},
    {"type": "coverage", "subtask": "digits", "round": 1, "whole": False, "text": "without \x1bedge"},
    {"type": "coverage", "subtask": "digits", "round": 1, "whole": True, "text": "all"},
    {"type": "round", "round": 1, "simulated_s": 12.3},
    {"type": "stage", "text": "baseline: alone, north"},
]


def played(*, terminal: bool) -> str:
    """Return what a console shows of the events."""
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system=None)
    with Progress(console, rounds=3) as progress:
        for event in EVENTS:
            progress.on_event(event)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_progress_is_plain_lines() -> None:
    """Piped output has one line for each thing that matters, and no control characters."""
    assert played(terminal=False).splitlines() == [
        "  rejected: edge: digits: arrays: not finite\ufffd[2J",
        "  digits: accuracy 0.912",
        "  digits, round 1: without \ufffdedge",
        "round 1 of 3 done, 12.3 s simulated",
        "baseline: alone, north",
    ]


def test_in_a_terminal_progress_shows_the_latest() -> None:
    """A terminal shows the round, the counts, the latest value of each subtask, and keeps rejections."""
    text = played(terminal=True)
    said = (
        "round 1 of 3",
        "assigned 2, arrived 1, rejected 1",
        "digits  accuracy 0.912 (round 1)",
        "alone, north",
    )
    for words in (*said, "rejected: edge: digits: arrays"):
        assert words in text
    assert "\x1b[2J" not in text


def test_an_error_leaves_the_terminal_usable() -> None:
    """An exception passes through the progress, and the cursor is shown again."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with pytest.raises(RuntimeError, match="lost"), Progress(console, rounds=3):
        raise RuntimeError("lost")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")
