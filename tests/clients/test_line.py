"""What is not stated of the line is what was measured of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomlkit

from clients import line, site_file
from clients.site import from_config

DATA = {"rows": {"format": "csv", "path": "rows.csv", "target": "y"}}


def _mbit(folder: Path, **limits: object) -> float:
    path = folder / "site.toml"
    known = {"examples_per_s": 1, "memory_mib": 1, "device": "cpu"}
    path.write_text(
        tomlkit.dumps({"name": "north", "data": DATA, "limits": known | limits}), encoding="utf-8"
    )
    return from_config(site_file.load(path), folder).capability.bandwidth_mbit


def test_what_is_stated_counts_then_what_was_measured(tmp_path: Path) -> None:
    """A site without a kit has neither, and the usual assumption holds."""
    assert _mbit(tmp_path) == line.ASSUMED_MBIT
    (tmp_path / "state").mkdir()
    line.keep(tmp_path, 37.5)
    assert _mbit(tmp_path) == 37.5
    assert _mbit(tmp_path, bandwidth_mbit=8) == 8


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"mbit": "9"}', '{"mbit": -1}', '{"mbit": true}', '{"mbit": 1e9}']
)
def test_what_is_no_rate_is_not_used(tmp_path: Path, text: str) -> None:
    """A file that was cut off, or that somebody wrote in, does no harm."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "line.json").write_text(text, encoding="utf-8")
    assert line.mbit(tmp_path) == line.ASSUMED_MBIT


def test_no_line_is_faster_than_one_can_be(tmp_path: Path) -> None:
    """A clock that stood still gives no infinite rate."""
    (tmp_path / "state").mkdir()
    line.keep(tmp_path, float("inf"))
    assert line.mbit(tmp_path) == 1e6
