"""Inspection and draft: a file of unknown make becomes a collaboration file that reads it."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collab.data.config import DataConfig, PartitionConfig
from collab.data.dataset import build_scenario_examples
from collab.data.draft import write_toml
from collab.data.inspect_csv import Inspection, inspect
from protocol.errors import ConfigError, DataError


def _write(folder: Path, separator: str = ",", header: bool = True, rows: int = 120) -> Path:
    rng = np.random.default_rng(5)
    names = ["case_id", "age", "sex", "score", "remark", "hospital", "outcome"]
    lines = [
        [
            f"c{i}",
            str(rng.integers(20, 90)),
            "fm"[i % 2],
            "?" if i % 11 == 0 else f"{rng.normal():.5f}",
            f"seen on day {i}",
            ["St. Mary's", "North", 'The "Old" One'][i % 3].replace('"', "'"),
            str(i % 4 // 2),
        ]
        for i in range(rows)
    ]
    text = "\n".join(separator.join(line) for line in ([names, *lines] if header else lines))
    path = folder / "data.csv"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _blocks(found: Inspection) -> tuple[dict[str, Any], DataConfig, PartitionConfig, tuple[str, ...]]:
    tables = tomllib.loads(write_toml(found))
    (subtask,) = tables["subtasks"].values()
    data = DataConfig.model_validate(tables["data"][subtask["data"]])
    return (
        subtask,
        data,
        PartitionConfig.model_validate(tables["partition"]["default"]),
        tuple(tables["sites"]),
    )


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("with_site", [True, False])
def test_a_draft_reads_its_own_file(tmp_path: Path, separator: str, header: bool, with_site: bool) -> None:
    """Whatever the layout, the drafted blocks parse and deal every row of the file out."""
    path = _write(tmp_path, separator, header)
    target, site = ("outcome", "hospital") if header else ("column_7", "column_6")
    found = inspect(path, target, site if with_site else None)
    subtask, data, partition, sites = _blocks(found)
    assert subtask["kind"] == "tabular_classification"
    dealt = build_scenario_examples(
        data,
        partition,
        sites,
        labels=subtask["labels"],
        output="classes",
        inputs="table",
        seed=1,
        data_name="d",
    )
    assert sum(map(len, dealt.by_site.values())) == 120
    assert len(sites) == 3


def test_columns_are_told_apart(tmp_path: Path) -> None:
    """Identifiers and free text are left out, text is categorical, the marker of missing cells is found."""
    found = inspect(_write(tmp_path), "outcome", "hospital")
    assert found.drop == ("case_id", "remark")
    assert found.categorical == ("sex",)
    assert found.missing == ("?",)
    assert found.has_gaps
    assert found.labels == ("0", "1")
    assert found.sites == ("North", "St.-Mary-s", "The-Old-One")
    assert any("case_id" in warning and "identifier" in warning for warning in found.warnings)


def test_a_number_with_many_values_is_a_regression(tmp_path: Path) -> None:
    """Decimals, or many whole numbers, are predicted as values; few whole numbers as classes."""
    path = _write(tmp_path)
    assert inspect(path, "age", "hospital").kind == "tabular_regression"
    found = inspect(path, "score", "hospital")
    assert found.kind == "tabular_regression"
    assert found.target_has_gaps
    assert _blocks(found)[1].missing_rows == "drop"


def test_rows_that_repeat_across_sites_are_counted(tmp_path: Path) -> None:
    """A row counts if its like, identifiers aside, stands at another site; within one site it does not."""
    lines = [f"r{i},{i * 0.5},{'ab'[i % 2]},{i % 2}" for i in range(40)]
    lines += [
        "r90,0.0,b,0",
        "r91,0.5,b,1",
    ]  # the first repeats a row of site a, the second one of site b itself
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["row_id,u,s,y", *lines]))
    found = inspect(path, "y", "s")
    assert found.repeated_rows == 2
    assert any("more than one site" in warning for warning in found.warnings)
    assert inspect(path, "y", sites=2).repeated_rows == 2  # r1 and r91 differ in nothing but the identifier


def test_an_identifier_that_repeats_is_a_group(tmp_path: Path) -> None:
    """Rows of one patient are kept together, and the number is no feature."""
    lines = [f"{i // 3},{i * 0.5},{i % 2}" for i in range(60)]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["patient_id,u,y", *lines]))
    found = inspect(path, "y", sites=2)
    assert found.group == "patient_id"
    assert _blocks(found)[1].split.group == "patient_id"


@pytest.mark.parametrize("name", ["paid", "acid", "humid", "number", "indexed"])
def test_a_measurement_is_no_identifier(tmp_path: Path, name: str) -> None:
    """Words that merely end in id stay features, and so do numbers that all differ."""
    lines = [f"{i * 997 % 541},{i % 2}" for i in range(60)]
    path = tmp_path / "data.csv"
    path.write_text("\n".join([f"{name},y", *lines]))
    assert inspect(path, "y", sites=2).drop == ()


@pytest.mark.parametrize(
    ("target", "site", "sites", "error", "said"),
    [
        ("outcom", None, None, DataError, "did you mean 'outcome'"),
        ("outcome", "hospitl", None, DataError, "did you mean 'hospital'"),
        ("outcome", "case_id", None, DataError, "cannot name sites"),
        ("remark", None, None, DataError, "is it an identifier"),
        ("outcome", "hospital", 3, ConfigError, "not both"),
        ("outcome", None, 1, ConfigError, "not 1"),
        ("outcome", None, 100, ConfigError, "not 100"),
    ],
)
def test_what_cannot_be_drafted_is_refused(
    tmp_path: Path, target: str, site: str | None, sites: int | None, error: type[Exception], said: str
) -> None:
    """A wrong column or number of sites is one line that says what would do."""
    with pytest.raises(error, match=said):
        inspect(_write(tmp_path), target, site, sites)


def test_no_file_and_one_class_are_refused(tmp_path: Path) -> None:
    """A missing file and a target with a single class are DataErrors."""
    with pytest.raises(DataError, match="is missing"):
        inspect(tmp_path / "nothing.csv", "y")
    (tmp_path / "one.csv").write_text("\n".join(["u,y", *(f"{i * 1.5},1" for i in range(40))]))
    with pytest.raises(DataError, match="one class only"):
        inspect(tmp_path / "one.csv", "y")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Quotes, line ends, brackets and DEL in names cannot break out of the drafted file."""
    names = ['a"]\nx = 1 #', "b\x7f", "c'''"]
    lines = [f"{'pqr'[i % 3]},{'st'[i % 2]},{'uv'[i % 2]},{i % 2}" for i in range(40)]
    header = ",".join('"' + name.replace('"', '""') + '"' for name in [*names, "y"])
    path = tmp_path / "data.csv"
    path.write_text("\n".join([header, *lines]))
    subtask, data, _, _ = _blocks(inspect(path, "y", sites=2))
    assert list(data.categorical) == names
    assert subtask["labels"] == ["0", "1"]
