"""Data blocks are parsed once and refuse what they would ignore."""

from typing import Any

import pytest
from pydantic import ValidationError

from collab.data.config import DataConfig, PartitionConfig, SplitConfig

CSV: dict[str, Any] = {"format": "csv", "path": "a.csv", "target": "y"}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"format": "sklearn"}, "needs name"),
        ({"format": "sklearn", "name": "iris", "path": "a"}, "no key 'path'"),
        ({"format": "sklearn", "name": "iris", "split": {"group": "g"}}, "no group"),
        ({"format": "csv", "target": "y"}, "either path or files"),
        (CSV | {"files": {"a": "a.csv"}}, "either path or files"),
        (CSV | {"name": "iris"}, "no key 'name'"),
        (CSV | {"columns": ["a", "y"]}, "header = false and columns"),
        (CSV | {"header": False}, "header = false and columns"),
        (CSV | {"drop": ["y"]}, "'y' stands twice"),
        (CSV | {"features": ["a", "y"]}, "'y' stands twice"),
        (CSV | {"categorical": ["a"], "features": ["b"]}, "features does not list"),
        (CSV | {"categorical": ["a"], "drop": ["a"]}, "'a' stands twice"),
        (CSV | {"positive": "about 3"}, "cannot read the comparison"),
        (CSV | {"separator": "||"}, "at most 1 character"),
        (CSV | {"targets": "y"}, "Extra inputs"),
        ({"format": "csv", "files": {"a": "a.csv"}, "target": "y", "site": "s"}, "leave out site"),
        ({"format": "csv", "files": {"../a": "a.csv"}, "target": "y"}, "pattern"),
        ({"format": "npz", "path": "a.npz", "categorical": ["a"]}, "no key 'categorical'"),
        ({"format": "npz", "path": "a.npz", "columns": ["a"]}, "give table"),
        ({"format": "npz", "path": "a.npz", "table": "t", "columns": ["a", "a"]}, "'a' stands twice"),
        (
            {"format": "npz", "path": "a", "table": "t", "split": {"test_inputs": "u", "test_target": "v"}},
            "give split.test_path",
        ),
        ({"format": "images", "path": "a", "table": "t"}, "no key 'table'"),
        ({"format": "npz", "path": "a.npz", "missing_in": {"a": ["0"]}}, "no key 'missing_in'"),
        ({"format": "parquet", "path": "a"}, "'sklearn', 'csv', 'npz', 'idx', 'images' or 'text'"),
        ({"format": "idx"}, "needs path"),
        ({"format": "idx", "path": "a", "split": {"group": "g"}}, "no columns"),
        ({"format": "idx", "path": "a", "split": {"test_path": "t"}}, "both split.test_path"),
        ({"format": "idx", "path": "a", "size": [8, 8]}, "no key 'size'"),
        ({"format": "images", "path": "a", "labels_path": "b"}, "no key 'labels_path'"),
        ({"format": "images", "path": "a", "size": [0, 8]}, "greater than or equal to 1"),
        (CSV | {"split": {"test_inputs": "t", "test_target": "u"}}, "no split.test_inputs"),
        (CSV | {"split": {"test_path": "t", "test_labels_path": "u"}}, "no split.test_labels_path"),
        (
            {"format": "npz", "path": "a", "site": "s", "split": {"test_inputs": "t", "test_target": "u"}},
            "neither split.group nor site",
        ),
        (CSV | {"positive": "> 0", "label_map": {"1": "yes"}}, "leave out label_map"),
    ],
)
def test_a_key_that_cannot_mean_anything_is_refused(block: dict[str, Any], said: str) -> None:
    """Every contradiction and every key that the format would ignore has its own message."""
    with pytest.raises(ValidationError, match=said):
        DataConfig.model_validate(block)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"test": 0.6, "validation": 0.4}, "below 1"),
        ({"column": "side", "test": 0.3}, "leave out test"),
        ({"column": "side", "group": "g"}, "leave out test"),
        ({"test_path": "t.csv", "test": 0.3}, "leave out test"),
        ({"test": -0.1}, "greater than or equal"),
        ({"test_inputs": "t"}, "go together"),
        ({"test_inputs": "t", "test_target": "u", "test": 0.3}, "leave out test"),
        ({"test_labels_path": "t"}, "goes with test_path"),
    ],
)
def test_a_split_that_contradicts_itself_is_refused(split: dict[str, Any], said: str) -> None:
    """Shares leave rows to train on, and a column or a file of sides excludes drawing them."""
    with pytest.raises(ValidationError, match=said):
        SplitConfig.model_validate(split)


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        ({"kind": "dirichlet"}, "needs alpha"),
        ({"kind": "shards"}, "needs shards"),
        ({"kind": "iid", "shards": 2}, "has no shards"),
        ({"kind": "quantity"}, "needs skew"),
        ({"kind": "iid", "alpha": 1.0}, "has no alpha"),
        ({"kind": "column", "skew": 0.5}, "has no skew"),
        ({"kind": "files", "min_rows": 3}, "has no min_rows"),
        ({"kind": "quantity", "skew": 1.0}, "less than 1"),
        ({"kind": "dirichlet", "alpha": 0.0}, "greater than 0"),
    ],
)
def test_a_partition_takes_its_own_options_alone(partition: dict[str, Any], said: str) -> None:
    """A kind of partition needs its options and refuses those of another."""
    with pytest.raises(ValidationError, match=said):
        PartitionConfig.model_validate(partition)


@pytest.mark.parametrize(
    "config",
    [
        DataConfig(format="sklearn", name="iris", split=SplitConfig(validation=0)),
        DataConfig.model_validate(CSV | {"split": {"group": "g"}, "missing": ["?"], "positive": "> 0"}),
        DataConfig(format="csv", files={"a": "a.csv"}, header=False, columns=("x", "y"), target="y"),
        DataConfig(format="npz", path="a.npz", split=SplitConfig(test_path="t.npz")),
        DataConfig(format="images", path="a", size=(8, 9), mode="L", rows=100, abstain=("a",)),
        DataConfig(format="idx", path="a", labels_path="b", label_map={"0": "shirt"}),
    ],
)
def test_a_block_survives_json_and_is_a_key(config: DataConfig) -> None:
    """Dumping and reading again gives an equal block with an equal hash: it can travel and be cached."""
    again = DataConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert hash(again) == hash(config)


def test_every_path_of_a_block_is_moved() -> None:
    """with_paths reaches all keys whose names say path or files, and changes nothing else."""
    split = SplitConfig(test_path="c", test_labels_path="d", validation=0.1)
    block = DataConfig(format="idx", path="a", labels_path="b", split=split)
    moved = block.with_paths(lambda path: f"/x/{path}")
    assert [moved.path, moved.labels_path] == ["/x/a", "/x/b"]
    assert [moved.split.test_path, moved.split.test_labels_path] == ["/x/c", "/x/d"]
    assert moved.with_paths(lambda path: path[3:]) == block
    files = DataConfig(format="csv", files={"s": "a"}, target="y").with_paths(str.upper)
    assert files.files == {"s": "A"}
    assert all("PATH" in name.upper() or name in {"files"} for name in _path_keys())


def _path_keys() -> list[str]:
    """The keys of a block and its split that hold paths, by their type."""
    found = [*DataConfig.model_fields.items(), *SplitConfig.model_fields.items()]
    return [name for name, field in found if "4096" in repr(field.annotation) + repr(field.metadata)]
