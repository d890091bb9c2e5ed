"""A subtask that comes after one of a family: merged, measured, split, settled, and read by the next."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from clients.custody import DeploymentCustody
from collab.data.config import DataConfig
from collab.settings import parse
from protocol.arrays import digest
from protocol.errors import ConfigError, DataError
from server.description import describe
from server.models import read_arrays, read_manifest
from server.predict import predict
from server.runlog import replay
from tests.chain_cases import SIDE, VERDICT, block, two
from tests.small import Small, run, scenario

Tables = dict[str, Any]


def made(folder: Path) -> Tables:
    """Return ``verdict`` after ``side``, which is of a family with its mirror image ``edge``."""
    own = {**SIDE, "until_round": 3}
    tables = two(folder, rounds=5, subtasks={"side": own, "edge": own, "verdict": VERDICT})
    path = Path(tables["data"]["side"]["path"])
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    at = rows[0].index("side")
    mirrored = {"left": "right", "right": "left"}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*rows[0], "edge"])
        writer.writerows([*row, mirrored[row[at]]] for row in rows[1:])
    tables["data"]["edge"] = block(path, "edge", "u", "v")
    family = {"by": "affinity", "subtasks": ["edge", "side"], "merge_rounds": 2, "every": 2, "max_groups": 2}
    return tables | {"decomposition": {"sides": family}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the rows and of the run."""
    return tmp_path_factory.mktemp("family")


@pytest.fixture(scope="module")
def found(folder: Path) -> Small:
    """A run of the family and what comes after it, with each site alone."""
    return run(made(folder), folder, baselines=True)


def test_what_comes_after_reads_a_member_of_the_family(found: Small) -> None:
    """The linear model learns from what the shared encoder sees of ``u`` and ``v``."""
    chain = found.summary["chains"]["verdict"]
    assert chain["end_to_end"] < 0.5 * chain["ablated"]
    assert found.summary["decompositions"]["sides"]["groups"] is not None
    rounds: dict[str, set[int]] = {}
    for row in found.summary["allocations"]:
        rounds.setdefault(row["subtask"], set()).add(row["round"])
    assert rounds["edge"] == {1, 2, 3}
    assert rounds["verdict"] == {4, 5}


def test_the_settled_model_is_the_members_own(found: Small) -> None:
    """Encoder and head of ``side``, with the preprocessing of the family; nothing changes it afterwards."""
    manifest = read_manifest(found.folder, "side")
    assert manifest.settled is not None
    assert manifest.settled.digest == digest(read_arrays(found.folder, "side", "final"))
    assert manifest.settled.preprocessing == manifest.subtask.preprocessing
    assert read_manifest(found.folder, "edge").settled is None


def test_the_run_replays_and_predicts(found: Small, folder: Path, tmp_path: Path) -> None:
    """Both are events of one log, and both are in the prediction."""
    assert replay(found.folder, scenario(made(folder))).ended
    source = tmp_path / "new.csv"
    source.write_text("u,v,w\n1,1,0\n1,-1,0\n", encoding="utf-8")
    outputs_NC = predict(found.folder, "verdict", source).outputs_NK
    assert outputs_NC.shape == (2, 2)
    assert outputs_NC[0, 1] > 0.5 > outputs_NC[1, 1]


def test_nothing_tests_on_what_trained_the_family(tmp_path: Path) -> None:
    """The family's encoder saw the rows of all of it: these too must be on the same sides as downstream's."""
    tables = made(tmp_path)
    edge = tables["data"]["edge"]["path"]
    (tmp_path / "apart").mkdir()
    tables["data"]["side"]["path"] = str(tmp_path / "apart" / "rows.csv")
    tables["data"]["verdict"] |= {"path": edge, "split": {"test": 0.2}}
    said = r"'verdict' comes after 'side', which trains with 'edge', and .* rows that one trains on"
    with pytest.raises(ConfigError, match=said):
        parse(tables, "file")
    tables["data"]["verdict"]["path"] = "another.csv"
    told = describe(parse(tables, "file"), "verdict")
    assert told.upstream[0].beside == ("edge",)
    tables["data"]["verdict"]["path"] = edge
    blocks = {name: DataConfig.model_validate(block) for name, block in tables["data"].items()}
    with pytest.raises(DataError, match="'verdict' and 'edge' at site 'north': rows that one trains on"):
        DeploymentCustody(blocks, tmp_path, "north").rows(told)
