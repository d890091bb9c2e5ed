"""The commands: simulate, init, and those on a run's folder, as they end, well or badly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from simulations.simulate import scenario_path
from tests.command import Command, assert_one_line, command, file_of, on_csv
from tests.small import tables

ROOT = Path(__file__).parents[2]


@pytest.fixture
def consilium(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, run in this process."""
    return command(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["clinik"], "clinic"),
        (["nowhere.toml"], "nowhere.toml"),
        (["clinic", "--set", "allocation.policy"], "KEY=VALUE"),
        (["clinic", "--set", "allocation.policy=randon"], "random"),
        (["clinic", "--set", "name.x=1"], "'name' is not a table"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], says: str, consilium: Command) -> None:
    """A scenario, a file or a setting that is none, with what was near."""
    assert says in assert_one_line(consilium("simulate", *arguments), 2)


def test_where_nothing_can_be_written(consilium: Command, tmp_path: Path) -> None:
    """An output folder that is a file is the user's error too."""
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "runs"
    assert "file" in assert_one_line(consilium("simulate", file_of(tmp_path, tables()), "--out", out), 2)


def test_a_failed_run_is_exit_code_1(consilium: Command, tmp_path: Path) -> None:
    """All sites vanish: the run failed, not the user; one line says why, and the log is kept."""
    made = tables(rounds=9)
    made["sites"] = {name: {"device": "cpu", "dropout": 0.999} for name in made["sites"]}
    line = assert_one_line(consilium("simulate", file_of(tmp_path, made), "--out", tmp_path, "--json"), 1)
    assert "nobody answered in 3 rounds on end" in line
    assert list(tmp_path.glob("small-*/journal.db"))


def test_cuda_that_is_not_there_ends_the_run(
    consilium: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that asks for CUDA by name does not fall back in silence; the line says so at once."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    made = tables()
    made["sites"]["beta"] = {"device": "cuda"}
    line = assert_one_line(consilium("simulate", file_of(tmp_path, made), "--out", tmp_path, "--json"), 1)
    assert "2 of 3 sites joined" in line
    assert "'cuda' was asked for" in line


def test_json_is_the_summary_and_nothing_else(consilium: Command, tmp_path: Path) -> None:
    """``--json`` prints what summary.json holds; report, replay and predict then work on the folder."""
    ended = consilium(
        "simulate", file_of(tmp_path, tables()), "--out", tmp_path, "--json", "--seed", 5, "--rounds", 2
    )
    assert (ended.code, ended.err) == (0, "")
    summary = json.loads(ended.out)
    folder = tmp_path / summary["run_id"]
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == summary
    assert (summary["seed"], summary["rounds"]) == (5, 2)
    assert json.loads(consilium("report", folder, "--json").out) == summary
    assert json.loads(consilium("replay", folder, "--json").out)["same"]
    assert (folder / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("arguments", [["report"], ["replay"], ["predict", "iris", "--input", "new.csv"]])
def test_a_folder_that_is_no_run_is_one_line(
    arguments: list[str], consilium: Command, tmp_path: Path
) -> None:
    """Each command on a run says which folder it looked into."""
    ended = consilium(arguments[0], tmp_path / "nowhere", *arguments[1:])
    assert "nowhere" in assert_one_line(ended, 2)


def test_a_table_is_printed_for_a_person(consilium: Command, tmp_path: Path) -> None:
    """Without ``--json`` the answer, every site and the path of the report stand in the output."""
    ended = consilium("simulate", file_of(tmp_path, tables()), "--out", tmp_path)
    assert ended.code == 0, ended.err
    assert all(
        word in ended.out for word in ("Did collaborating pay?", "alpha", "beta", "gamma", "report.html")
    )


def test_scenarios_are_found_by_name_or_path() -> None:
    """A built-in name wins; a path is taken as it is; anything else is refused."""
    assert scenario_path("clinic").is_file()
    assert scenario_path("x/y.toml") == Path("x/y.toml")
    with pytest.raises(ConfigError, match="heart"):
        scenario_path("hart")


def test_init_writes_a_file_that_runs(consilium: Command, tmp_path: Path) -> None:
    """From a table to a result: the written file is accepted as it is; a bad place or name is one line."""
    on_csv(tmp_path)
    source, out = tmp_path / "rows.csv", tmp_path / "mine.toml"
    made = ("init", "--from", source, "--target")
    assert "no/mine.toml" in assert_one_line(consilium(*made, "y", "--out", tmp_path / "no" / "mine.toml"), 2)
    assert "'yy'" in assert_one_line(consilium(*made, "yy", "--out", out), 2)
    assert consilium(*made, "y", "--sites", 3, "--out", out).code == 0
    assert "is there already" in assert_one_line(consilium(*made, "y", "--out", out), 2)
    assert consilium("simulate", out, "--rounds", 1, "--no-baselines", "--out", tmp_path / "runs").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["simulate", "clinik"], 2, "error: unknown scenario 'clinik'"),
        (["predict", "nowhere", "iris", "--input", "new.csv"], 2, "error: nowhere"),
    ],
)
def test_as_a_process_too(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    """The real command ends with that code, one line on stderr and nothing on stdout."""
    ended = subprocess.run(
        [sys.executable, "-m", "consilium", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.startswith(says)
    assert ended.stderr.count("\n") == 1
