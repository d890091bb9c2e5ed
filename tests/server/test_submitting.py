"""A collaboration's file before it is handed over: paths made whole, scenarios refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from collab.settings import parse, parse_toml
from protocol.errors import ConfigError
from server.submitting import prepared
from tests.command import file_of, on_csv
from tests.small import tables


def test_the_servers_data_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths that are there become absolute; the server runs in another folder than the person."""
    folder = tmp_path / "mine"
    folder.mkdir()
    made = on_csv(folder)
    made.pop("sites", None)
    made.pop("partition", None)
    path = file_of(folder, made)
    monkeypatch.chdir(tmp_path)
    text, name = prepared(Path("mine/task.toml"))
    again = parse(parse_toml(text, "submitted"), "submitted", Path("/"))
    assert name == again.name == made["name"]
    assert str(folder.resolve() / "rows.csv") in text
    assert again.subtasks == parse(made, str(path), folder).subtasks
    monkeypatch.chdir("/")
    assert prepared(path) == (text, name)


def test_a_scenario_is_refused(tmp_path: Path) -> None:
    """Sites that are simulated have no place among real ones: the line says what to leave out."""
    path = file_of(tmp_path, tables())
    with pytest.raises(ConfigError, match=r"task\.toml: \[sites\] and \[fleet\].*leave them out"):
        prepared(path)


def test_a_mistake_is_found_before(tmp_path: Path) -> None:
    """What the server would refuse is refused here, with the file and the key."""
    path = file_of(tmp_path, {"name": "small", "rouns": 3, "subtasks": tables()["subtasks"]})
    with pytest.raises(ConfigError, match=r"task\.toml.*rouns.*rounds"):
        prepared(path)
    with pytest.raises(ConfigError, match="nowhere"):
        prepared(tmp_path / "nowhere.toml")
