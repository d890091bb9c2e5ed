"""A site comes from its own file or from a scenario; what is wrong in it is said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
import torch

from clients.custody import DeploymentCustody
from clients.site import from_context, from_file, from_scenario
from protocol.errors import ConfigError, ConsiliumError, DataError
from protocol.messages import Subtask
from server.federation import to_toml
from tests.small import NAMES, scenario, sites, tables

SITE: dict[str, Any] = {
    "name": "north",
    "data": {"risk": {"format": "csv", "path": "rows.csv", "target": "y"}},
    "limits": {"memory_mib": 512, "examples_per_s": 100, "device": "cpu"},
}
RISK = Subtask(
    name="risk",
    data="risk",
    kind="tabular_classification",
    labels=("no", "yes"),
    outputs=2,
    metric="log_loss",
    exchange="weights",
    seed=1,
)


def _file(folder: Path, **changes: Any) -> Path:
    path = folder / "site.toml"
    path.write_text(tomlkit.dumps(SITE | changes), encoding="utf-8")
    return path


def _rows(folder: Path, text: str = "") -> None:
    lines = "\n".join(f"{i},{('no', 'yes')[i % 2]}" for i in range(40))
    (folder / "rows.csv").write_text(text or f"age,y\n{lines}\n", encoding="utf-8")


def test_a_site_is_what_its_file_says(tmp_path: Path) -> None:
    """Name, limits and price stand in the capability; by default models stay and histograms are rounded."""
    site = from_file(_file(tmp_path, price=2.5))
    assert (site.name, site.device) == ("north", torch.device("cpu"))
    assert site.capability.model_dump(include={"memory_mib", "examples_per_s", "price", "gpu"}) == {
        "memory_mib": 512,
        "examples_per_s": 100,
        "price": 2.5,
        "gpu": False,
    }
    assert set(site.capability.subtasks) == {"risk"}
    assert (site.egress.models, site.egress.label_histogram) == (False, "rounded")
    assert not site.capability.shares_models


def test_what_the_file_leaves_out_is_measured(tmp_path: Path) -> None:
    """Without limits a site says the memory and the speed that it has."""
    capability = from_file(_file(tmp_path, limits={"device": "cpu"})).capability
    assert capability.memory_mib > 64
    assert capability.examples_per_s > 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"egres": {"models": True}}, r"site.toml: unknown key 'egres'.*egress"),
        ({"limits": {"memory_mb": 5}}, r"site.toml: unknown key 'limits.memory_mb'.*memory_mib"),
        ({"limits": {"device": "tpu"}}, r"limits.device.*'cpu'"),
        ({"limits": {"memory_mib": -1}}, r"limits.memory_mib"),
        ({"name": "../north"}, r"site.toml: name"),
        ({"data": {}}, r"site.toml: data"),
        ({"data": {"risk": {"format": "xlsx", "path": "rows.xlsx"}}}, r"data.risk.format"),
        ({"data": {"risk": {"format": "csv", "path": "r.csv", "targt": "y"}}}, r"'data.risk.targt'.*target"),
        ({"egress": {"label_histogram": "all"}}, r"egress.label_histogram.*'mask'"),
    ],
)
def test_a_wrong_key_names_the_right_one(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    """File, key, what was found and what is allowed or near, in one line."""
    with pytest.raises(ConfigError, match=says) as raised:
        from_file(_file(tmp_path, **changes))
    assert "\n" not in str(raised.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    """No file, no TOML, no text: one line with the path."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        from_file(tmp_path / "nowhere.toml")
    (tmp_path / "site.toml").write_text("name = \n")
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 1"):
        from_file(tmp_path / "site.toml")
    (tmp_path / "site.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        from_file(tmp_path / "site.toml")


def test_rows_lie_beside_the_file(tmp_path: Path) -> None:
    """A relative path starts from the folder of site.toml; the three sides are all rows, each once."""
    _rows(tmp_path)
    rows = from_file(_file(tmp_path)).custody.rows(RISK)
    ages = np.concatenate([part.numeric_NP[:, 0] for part in (rows.train, rows.validation, rows.test)])
    assert sorted(ages.tolist()) == list(range(40))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("age,outcome\n1,no\n2,yes\n", "rows.csv: .*'y'"),
        ("age,y\n1,no\n2,perhaps\n", "rows.csv, y: .*row 2"),
        ("age,y\n", "rows.csv: .*no rows"),
        ("age,y\nold,no\n2,yes\n", "rows.csv: column 'age' is not a number"),
    ],
)
def test_bad_rows_are_refused_without_showing_them(text: str, says: str, tmp_path: Path) -> None:
    """A wrong column, label or cell is named by column and row, never by its value."""
    _rows(tmp_path, text)
    with pytest.raises(DataError, match=says) as raised:
        from_file(_file(tmp_path)).custody.rows(RISK)
    assert not any(value in str(raised.value) for value in ("perhaps", "old"))


def test_data_that_the_site_lacks_is_named(tmp_path: Path) -> None:
    """No file, no block for the subtask, no block for the public set: each a sentence."""
    custody = from_file(_file(tmp_path)).custody
    assert isinstance(custody, DeploymentCustody)
    with pytest.raises(DataError, match=r"rows.csv"):
        custody.rows(RISK)
    with pytest.raises(DataError, match=r"unknown data 'rusk' at site 'north'.*risk"):
        custody.rows(RISK.model_copy(update={"name": "rusk"}))
    with pytest.raises(DataError, match="'risk-public'"):
        custody.public(RISK)


def test_labels_must_come_from_the_collaboration(tmp_path: Path) -> None:
    """A site never numbers classes by itself: another could number them otherwise."""
    _rows(tmp_path)
    with pytest.raises(ConfigError, match="needs labels"):
        from_file(_file(tmp_path)).custody.rows(RISK.model_copy(update={"labels": None}))


def test_a_node_is_a_site_of_the_scenario(tmp_path: Path) -> None:
    """In a simulation a node's number chooses the site, in order of name."""
    config = {"collaboration": to_toml(scenario(tables()))}
    found = [from_context({"partition-id": i}, config, tmp_path).name for i in range(3)]
    assert found == list(NAMES)
    with pytest.raises(ConfigError, match="num-supernodes = 3"):
        from_context({"partition-id": 3}, config, tmp_path)
    with pytest.raises(ConfigError, match="site"):
        from_context({}, config, tmp_path)


def test_a_site_file_wins_over_a_partition(tmp_path: Path) -> None:
    """A node that has a site.toml is that site, whatever number it has."""
    node = {"site": str(_file(tmp_path)), "partition-id": 0}
    assert from_context(node, {"collaboration": to_toml(scenario(tables()))}, tmp_path).name == "north"


def test_a_simulated_site_has_its_profile_and_no_others_rows() -> None:
    """Its capability is the profile's, its subtasks those that the file gives it, and no more."""
    profile = {"subtasks": ["iris"], "memory_mib": 77, "examples_per_s": 5, "gpu": True}
    both = {"iris": tables()["subtasks"]["iris"], "wine": tables()["subtasks"]["iris"]}
    collaboration = scenario(tables(both, sites=sites(beta=profile)))
    site = from_scenario(collaboration, "beta")
    assert (site.capability.memory_mib, site.capability.examples_per_s, site.capability.gpu) == (77, 5, True)
    assert set(site.capability.subtasks) == {"iris"}
    wine = RISK.model_copy(update={"name": "wine", "data": "wine"})
    with pytest.raises(ConsiliumError, match="site 'beta' has no data"):
        site.custody.rows(wine)
