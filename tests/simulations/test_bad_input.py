"""Files and rows that people get wrong: one line on stderr, exit code 2, and never a traceback."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command import Command, assert_one_line, command, file_of, on_csv
from tests.small import SOFT_LABELS, Tables, tables


@pytest.fixture
def consilium(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, run in this process."""
    return command(monkeypatch, capsys)


def _with(*path: str, value: Any) -> Tables:
    made = tables()
    table = made
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value
    return made


WRONG: Mapping[str, tuple[Tables, str]] = {
    "an unknown key": (_with("subtasks", "iris", "agregation", value={}), "aggregation"),
    "an unknown rule": (_with("subtasks", "iris", "aggregation", value={"rule": "fedavgg"}), "fedavg"),
    "an unknown option": (
        _with("subtasks", "iris", "aggregation", value={"rule": "fedadam", "server_lrr": 1.0}),
        "server_lr",
    ),
    "an unknown policy": (_with("allocation", "policy", value="asignment"), "assignment"),
    "an unknown fusion": (_with("fusion", value={"rule": "least_square"}), "least_squares"),
    "an unknown model": (_with("subtasks", "iris", "models", value=["mlp_smal"]), "mlp_small"),
    "an unknown kind": (_with("subtasks", "iris", "kind", value="tabular_clasification"), "tabular_classif"),
    "an unknown metric": (_with("subtasks", "iris", "metric", value="acuracy"), "accuracy"),
    "an unknown data set": (_with("subtasks", "iris", "data", value="irs"), "iris"),
    "an unknown subtask": (_with("sites", "beta", "subtasks", value=["irs"]), "iris"),
    "rounds below 1": (_with("rounds", value=0), "rounds"),
    "soft labels without a public set": (
        _with("subtasks", "iris", "exchange", value="soft_labels"),
        "public",
    ),
    "a public set larger than the data": (
        _with("subtasks", "iris", value={**SOFT_LABELS, "soft_labels": {"public": {"holdout": 1000}}}),
        "1000",
    ),
    "no sites": (_with("sites", value={}), r"\[sites"),
    "too few sites": (_with("subtasks", "iris", "min_sites", value=9), "min_sites"),
    "an infinite number": (_with("subtasks", "iris", "train", value={"lr": float("inf")}), "lr"),
    "a rule that cannot be read": (
        _with("allocation", "rules", value={"iris": "memory >>> 3"}),
        "rules.iris",
    ),
    "a rule that would be code": (
        _with("allocation", "rules", value={"iris": "__import__('os')"}),
        "rules.iris",
    ),
    "one class in the labels": (_with("subtasks", "iris", "labels", value=["setosa"]), "label"),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_a_wrong_file_is_one_line(what: str, consilium: Command, tmp_path: Path) -> None:
    """The line names the key, and the nearest name that would be right."""
    made, says = WRONG[what]
    line = assert_one_line(consilium("simulate", file_of(tmp_path, made), "--out", tmp_path / "runs"), 2)
    assert says.replace("\\", "") in line
    assert not (tmp_path / "runs").exists()


ROWS: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "a missing file": ("", {"path": "nowhere.csv"}, "nowhere.csv"),
    "a wrong target": ("", {"target": "yy"}, "'yy'"),
    "a wrong feature": ("", {"features": ["age", "dosis"]}, "dosis"),
    "a wrong site column": ("", {"site": "ward"}, "ward"),
    "one class only": ("age,y\n" + "\n".join(f"{i},no" for i in range(50)), {}, "one class"),
    "no rows": ("age,y\n", {}, "no rows"),
    "nothing at all": ("\n", {}, "rows.csv"),
    "fewer rows than sites": ("age,y\n1,no\n2,yes\n", {}, "rows"),
    "text in a number": ("age,y\nJane Doe,no\n" + "\n".join(f"{i},yes" for i in range(50)), {}, "'age'"),
    "gaps everywhere": (
        "age,dose,y\n" + "\n".join(f",{i},{['no', 'yes'][i % 2]}" for i in range(50)),
        {"missing_rows": "drop"},
        "gap",
    ),
}


@pytest.mark.parametrize("what", sorted(ROWS))
def test_wrong_rows_are_one_line(what: str, consilium: Command, tmp_path: Path) -> None:
    """File and column are named, and no cell is shown."""
    text, changes, says = ROWS[what]
    file = file_of(tmp_path, on_csv(tmp_path, text, **changes))
    line = assert_one_line(consilium("simulate", file, "--out", tmp_path), 2)
    assert says in line
    assert "Jane" not in line


def test_a_site_without_rows_is_named(consilium: Command, tmp_path: Path) -> None:
    """A site of the file that no row belongs to is the user's error, by name."""
    lines = "\n".join(f"{i},{('no', 'yes')[i % 2]},{('alpha', 'beta')[i % 3 > 0]}" for i in range(60))
    made = on_csv(tmp_path, f"age,y,ward\n{lines}\n", site="ward")
    made["partition"] = {"default": {"kind": "column"}}
    assert "gamma" in assert_one_line(consilium("simulate", file_of(tmp_path, made), "--out", tmp_path), 2)


def test_a_site_with_one_class_takes_part(consilium: Command, tmp_path: Path) -> None:
    """A site whose rows are all of one class is no error: it trains, and its own numbers are finite."""
    lines = "\n".join(
        f"{i},{'no' if i % 3 == 0 else ('no', 'yes')[i % 2]},{('alpha', 'beta', 'gamma')[i % 3]}"
        for i in range(90)
    )
    made = on_csv(tmp_path, f"age,y,ward\n{lines}\n", site="ward")
    made["partition"] = {"default": {"kind": "column"}}
    ended = consilium("simulate", file_of(tmp_path, made), "--out", tmp_path, "--json")
    assert ended.code == 0, ended.err
    gains = json.loads(ended.out)["subtasks"]["rows"]["gains"]
    assert all(np.isfinite(gains["alpha"][key]) for key in ("own", "alone"))


def test_gaps_are_imputed_or_dropped(consilium: Command, tmp_path: Path) -> None:
    """NaN in features: imputed by default, left out where asked; either way the run is whole and finite."""
    lines = "\n".join(f"{'' if i % 5 == 0 else i},{i % 7},{('no', 'yes')[i % 2]}" for i in range(90))
    counts = {}
    for how in ("impute", "drop"):
        made = on_csv(tmp_path, f"age,dose,y\n{lines}\n", missing_rows=how)
        ended = consilium(
            "simulate", file_of(tmp_path, made), "--out", tmp_path / how, "--no-baselines", "--json"
        )
        assert ended.code == 0, ended.err
        entry = json.loads(ended.out)["subtasks"]["rows"]
        assert np.isfinite(entry["collaboration"]["global"])
        counts[how] = sum(gain["test_examples"] for gain in entry["gains"].values())
    assert counts["drop"] < counts["impute"]


def test_images_with_holes_are_refused(consilium: Command, tmp_path: Path) -> None:
    """A pixel that is NaN has no honest value: the row is named."""
    x = np.zeros((60, 4, 4))
    x[17, 2, 2] = np.nan
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(60) % 2)
    made = tables({"images": {"kind": "image_classification"}})
    made["data"] = {"images": {"format": "npz", "path": "images.npz"}}
    line = assert_one_line(consilium("simulate", file_of(tmp_path, made), "--out", tmp_path), 2)
    assert "NaN" in line
    assert "row 18" in line
