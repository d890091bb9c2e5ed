"""The ``consilium`` command inside this process, and files to give to it. Not a test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomlkit

import consilium
from tests.small import WEIGHTS, Tables, tables


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs the command with these arguments."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["consilium", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            consilium.main()
        told = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, told.out, told.err)

    return run


def assert_one_line(ended: Ended, code: int) -> str:
    """The command ended with this code, and said one line of error and nothing else."""
    assert ended.code == code, ended.err
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ended.out + ended.err
    return lines[0]


def file_of(folder: Path, made: Mapping[str, Any]) -> Path:
    """Write the collaboration's file and return its path."""
    path = folder / "task.toml"
    path.write_text(tomlkit.dumps(dict(made)), encoding="utf-8")
    return path


def on_csv(folder: Path, text: str = "", **changes: Any) -> Tables:
    """Return a collaboration on ``rows.csv``: two numbers and an outcome."""
    lines = "\n".join(f"{i},{i * i % 7},{('no', 'yes')[i % 2]}" for i in range(60))
    (folder / "rows.csv").write_text(text or f"age,dose,y\n{lines}\n", encoding="utf-8")
    made = tables({"rows": dict(WEIGHTS)})
    made["data"] = {"rows": {"format": "csv", "path": "rows.csv", "target": "y", **changes}}
    return made
