"""``[decomposition.NAME] by = "affinity"``: what a family may be, and what is said where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collab.settings import parse, parse_toml
from protocol.errors import ConfigError
from server.federation import to_toml
from tests.family_cases import SUBTASKS, block, family

Tables = dict[str, Any]


def test_its_subtasks_know_their_family(tmp_path: Path) -> None:
    """The file is written out: subtasks name their family, and the resolved text reads as the same."""
    c = parse(family(tmp_path), "file")
    assert list(c.families) == ["signs"]
    assert not c.wholes
    assert {t.family for t in c.subtasks.values()} == {"signs"}
    assert parse(parse_toml(to_toml(c), "again"), "again") == c


@pytest.mark.parametrize(
    ("signs", "said"),
    [
        ({"subtasks": ["shape"]}, "decomposition.signs: subtasks: .*at least 2"),
        ({"subtasks": ["shape", "shape"]}, "stands twice"),
        ({"subtasks": ["shape", "colour"]}, "unknown subtask 'colour'.*shape"),
        ({"merge_rounds": 4}, "merge_rounds is 4 of 4 rounds"),
        ({"min_groups": 3}, "1 <= min_groups <= max_groups"),
        ({"min_groups": 4, "max_groups": None}, "min_groups is 4, but there are 3"),
        ({"evry": 3}, "unknown key 'evry'.*every"),
        ({"by": "afinity"}, "by: unknown rule 'afinity'.*affinity"),
    ],
)
def test_a_family_that_cannot_be(tmp_path: Path, signs: Tables, said: str) -> None:
    """The message has the file, the key, and what is allowed."""
    made = family(tmp_path, signs=signs)
    made["decomposition"]["signs"] = {
        k: v for k, v in made["decomposition"]["signs"].items() if v is not None
    }
    with pytest.raises(ConfigError, match=f"^file: .*{said}"):
        parse(made, "file")


@pytest.mark.parametrize(
    ("subtask", "said"),
    [
        ({"aggregation": "median"}, 'aggregation can only be "fedavg"'),
        ({"wire": "int8_delta"}, 'wire can only be "fp32"'),
        ({"personal": "fedper"}, "leave out personal"),
        ({"architectures": "own"}, 'architectures can only be "common"'),
        ({"from_round": 2}, "leave out from_round"),
        ({"after": ["lone"]}, "leave out after"),
        ({"train": {"proximal_mu": 0.1}}, "leave out train.proximal_mu"),
    ],
)
def test_what_does_not_go_with_a_shared_encoder(tmp_path: Path, subtask: Tables, said: str) -> None:
    """Each restriction is said with the subtask that breaks it."""
    with pytest.raises(ConfigError, match=f"'signs': subtask 'shape' trains together.*{said}"):
        parse(family(tmp_path, subtask=subtask), "file")


def test_subtasks_that_differ_in_what_they_must_share(tmp_path: Path) -> None:
    """One model is trained, so the terms of its training are the same in all."""
    made = family(tmp_path)
    made["subtasks"]["coin"]["train"] = {"lr": 0.5}
    with pytest.raises(ConfigError, match="'shape' and 'coin' train one model: give both the same train"):
        parse(made, "file")
    made = family(tmp_path)
    made["subtasks"]["coin"]["until_round"] = 3
    with pytest.raises(
        ConfigError, match="'shape' and 'coin' train one model: give both the same until_round"
    ):
        parse(made, "file")
    with pytest.raises(ConfigError, match="merge_rounds is 2 of 2 rounds: none is left for the groups"):
        parse(family(tmp_path, subtask={"until_round": 2}), "file")
    made = family(tmp_path, allocation={"policy": "everyone", "rules": {"coin": "gpu"}})
    with pytest.raises(ConfigError, match="give all the same rule"):
        parse(made, "file")
    made = family(tmp_path)
    made["data"]["coin"] = block(tmp_path / "signs.csv", "coin", split={"test": 0.3})
    with pytest.raises(ConfigError, match="may hold the same rows: give both the same split"):
        parse(made, "file")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"missing": ["?"]}, "missing"),
        ({"missing_in": {"x0": ["0"]}}, "missing_in"),
        ({"missing_rows": "drop"}, "missing_rows"),
        ({"features": ["x0", "x1"]}, "features"),
        ({"features": "all", "drop": ["shape"]}, "drop"),
        ({"categorical": ["x0"]}, "categorical"),
        ({"rows": 100}, "rows"),
        ({"positive": "> 0"}, None),
        ({"label_map": {"0": "a"}, "abstain": ["a"]}, None),
    ],
)
def test_blocks_of_one_source_read_alike(tmp_path: Path, changes: Tables, said: str | None) -> None:
    """Rows are told by their inputs, so all that shapes these is the same; what is predicted is not."""
    made = family(tmp_path, partition={"default": {"kind": "column"}})
    path = tmp_path / "signs.csv"
    made["data"]["coin"] = block(path, "coin", **changes)
    made["data"]["coin"]["path"] = f"{tmp_path}/./signs.csv"
    if said is None:
        parse(made, "file")
        return
    with pytest.raises(ConfigError, match=rf"\[data\.shape\] and \[data\.coin\] .* the same {said}$"):
        parse(made, "file")
    made["data"]["coin"]["path"] = str(path.with_name("other.csv"))
    parse(made, "file")


def test_all_features_but_the_targets_are_the_same(tmp_path: Path) -> None:
    """Each block drops the others' targets: the inputs are the same."""
    made = family(tmp_path)
    for name in SUBTASKS:
        rest = [other for other in SUBTASKS if other != name]
        made["data"][name] |= {"features": "all", "drop": rest}
    parse(made, "file")


def test_parts_of_a_whole_train_apart(tmp_path: Path) -> None:
    """A whole is replaced by its parts, and these answer together: no family has one, in whatever order."""
    whole = {"by": "modality", "modalities": {"left": ["x0", "x1"], "right": ["x2"]}}
    for first in (True, False):
        made = family(tmp_path, signs={"subtasks": ["shape-left", "edges"]})
        own = made["decomposition"]["signs"]
        made["decomposition"] = {"shape": whole, "signs": own} if first else {"signs": own, "shape": whole}
        said = (
            "'shape-left' is a part of 'shape': parts of a whole train apart" if first else "unknown subtask"
        )
        with pytest.raises(ConfigError, match=said):
            parse(made, "file")


def test_a_subtask_is_of_one_family(tmp_path: Path) -> None:
    """Two families cannot train one head; a stranger cannot claim to be of a family."""
    made = family(tmp_path)
    made["decomposition"]["more"] = {"by": "affinity", "subtasks": ["coin", "edges"], "merge_rounds": 1}
    with pytest.raises(ConfigError, match=r"decomposition\.more: subtask 'coin' is of the family 'signs'"):
        parse(made, "file")
    made = family(tmp_path, signs={"subtasks": ["shape", "edges"]})
    made["subtasks"]["coin"]["family"] = "sings"
    with pytest.raises(ConfigError, match=r"unknown family 'sings' of subtask 'coin'.*signs"):
        parse(made, "file")
    made["subtasks"]["coin"]["family"] = "signs"
    with pytest.raises(ConfigError, match=r"'coin' is not in \[decomposition\.signs\] subtasks: leave out"):
        parse(made, "file")
