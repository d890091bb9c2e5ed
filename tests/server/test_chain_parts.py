"""Subtasks that come after a part of a whole: by labels or by modality, from the file to the prediction."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from clients.custody import DeploymentCustody
from collab.data.config import DataConfig
from collab.settings import parse
from protocol.errors import ConfigError, DataError
from server.description import describe
from server.predict import predict
from tests.chain_cases import SIDE, VERDICT, block, two
from tests.small import run, scenario

Tables = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the rows and of the runs."""
    return tmp_path_factory.mktemp("parts")


def by_labels(folder: Path) -> Tables:
    """Return ``verdict`` after the gate of ``side``, which is taken apart by its labels."""
    side = {key: value for key, value in SIDE.items() if key != "labels"}
    made = two(folder, subtasks={"side": side, "verdict": {**VERDICT, "after": ["side-gate"]}})
    groups = {"port": ["left"], "starboard": ["right"]}
    return made | {"decomposition": {"side": {"by": "label_hierarchy", "groups": groups}}}


def by_modality(folder: Path) -> Tables:
    """Return ``verdict`` after both modalities of ``side``, one of which says nothing of it."""
    verdict = {**VERDICT, "after": ["side-place", "side-weight"]}
    made = two(folder, subtasks={"side": SIDE, "verdict": verdict})
    made["data"]["side"] = block(Path(made["data"]["side"]["path"]), "side", "u", "v", "w")
    made["allocation"]["max_subtasks_per_site"] = 3
    modalities = {"place": ["u", "v"], "weight": ["w"]}
    return made | {"decomposition": {"side": {"by": "modality", "modalities": modalities}}}


def _new_rows(folder: Path, path: Path) -> Path:
    with (folder / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "test"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["u", "v", "w"])
        writer.writerows([row["u"], row["v"], row["w"]] for row in rows)
    return path


@pytest.mark.parametrize("made", [by_labels, by_modality])
def test_a_part_may_be_upstream(folder: Path, made: Any) -> None:
    """Its final model predicts as any other's, and the whole is measured and predicted beside it."""
    tables = made(folder)
    small = run(tables, folder, name=made.__name__)
    chain, whole = small.summary["chains"]["verdict"], small.summary["decompositions"]["side"]
    assert chain["after"] == list(tables["subtasks"]["verdict"]["after"])
    assert chain["end_to_end"] < 0.5 * chain["ablated"]
    assert whole["global"] is not None
    source = _new_rows(folder, folder / "new.csv")
    rows = len(source.read_text(encoding="utf-8").splitlines()) - 1
    assert len(predict(small.folder, "verdict", source).outputs_NK) == rows
    assert len(predict(small.folder, "side", source).outputs_NK) == rows


def test_a_whole_has_no_model_to_come_after(folder: Path) -> None:
    """The line names the parts that have one."""
    made = by_modality(folder)
    made["subtasks"]["verdict"] = {**VERDICT, "after": ["side"]}
    with pytest.raises(ConfigError, match="is taken apart, it has no model of its own: name side-place or"):
        parse(made, "test")


def test_a_modality_comes_after_none(folder: Path) -> None:
    """What a whole's parts answer together is of their own inputs alone."""
    made = two(folder)
    made["decomposition"] = {"verdict": {"by": "modality", "modalities": {"a": ["u"], "b": ["v", "w"]}}}
    with pytest.raises(ConfigError, match="a whole that is taken apart comes after none"):
        parse(made, "test")


def test_a_real_site_refuses_blocks_that_leak_into_a_part(folder: Path) -> None:
    """A part's rows lie in its whole's block: that is what the other's block is compared with."""
    made = by_labels(folder)
    subtask = describe(scenario(made), "verdict")
    assert [one.whole for one in subtask.upstream] == ["side"]
    blocks = {name: DataConfig.model_validate(block) for name, block in made["data"].items()}
    assert len(DeploymentCustody(blocks, folder, "north").rows(subtask).train)
    drawn = {key: value for key, value in made["data"]["verdict"].items() if key != "split"}
    leaking = blocks | {"verdict": DataConfig.model_validate(drawn)}
    with pytest.raises(DataError, match="'verdict' and 'side' at site 'north': rows that one trains on"):
        DeploymentCustody(leaking, folder, "north").rows(subtask)
