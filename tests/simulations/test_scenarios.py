"""The scenarios that come along: they parse, refer to what is there, and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from collab.collaboration import Collaboration
from collab.data.locate import locate
from collab.settings import override, parse, parse_toml, read_text
from protocol.errors import DataError
from simulations.simulate import Order, ready, scenario_path, simulate


def _read(name: str, **changes: object) -> Collaboration:
    path = scenario_path(name)
    return parse(parse_toml(read_text(path), name) | changes, name)


@pytest.mark.parametrize("name", ["clinic", "heart"])
def test_a_scenario_parses_and_can_be_simulated(name: str) -> None:
    """It is a scenario of its own name, with sites for each of its subtasks."""
    found = _read(name)
    assert found.name == name
    assert found.is_scenario
    assert all(len(found.sites_of(subtask)) >= 2 for subtask in found.subtasks)


def test_in_clinic_allocation_matters() -> None:
    """Sites differ in data and memory: no site has all but one, and not every model fits everywhere."""
    found = ready(_read("clinic"), Path())
    has = [site for site in found.sites if all(site in found.sites_of(name) for name in found.subtasks)]
    assert len(found.sites) == 6
    assert len(found.subtasks) == 3
    assert 0 < len(has) < len(found.sites)
    sizes = [m.memory_mib for m in found.subtasks["digits"].models or () if m.memory_mib]
    fits = {sum(size <= found.sites[site].memory_mib for size in sizes) for site in found.sites_of("digits")}
    assert len(fits) == 3


def test_clinic_runs_a_round(tmp_path: Path) -> None:
    """One round of it, with little distillation, ends with a result for every subtask."""
    tables = override(
        parse_toml(read_text(scenario_path("clinic")), "clinic"),
        ["rounds=1", "subtasks.digits.distillation.sharpen=none", "subtasks.digits.distillation.epochs=1"],
    )
    collaboration = ready(parse(tables, "clinic"), Path())
    summary = simulate(collaboration, Order("r", tmp_path, baselines=False), lambda _: None)
    for name, entry in summary["subtasks"].items():
        assert np.isfinite(entry["collaboration"]["own"]), name
    assert summary["totals"]["bytes"] > 0


def test_heart_runs_a_round_where_its_data_are(tmp_path: Path) -> None:
    """With the four hospitals' files at hand, one round trains and merges at all of them."""
    found = _read("heart", rounds=1)
    try:
        for path in (found.data["heart"].files or {}).values():
            locate(path, None, origins={})
    except DataError:
        pytest.skip("the hospitals' files are not under CONSILIUM_DATA")
    summary = simulate(ready(found, Path()), Order("r", tmp_path, baselines=False), lambda _: None)
    assert {row["outcome"] for row in summary["allocations"]} == {"contributed"}
    assert len(summary["allocations"]) == 4
    assert summary["subtasks"]["heart"]["collaboration"]["global"] < np.log(2)


def test_heart_without_its_data_says_where_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No file, no network: one sentence names the file and the variable."""
    monkeypatch.delenv("CONSILIUM_DATA", raising=False)
    with pytest.raises(DataError, match=r"cleveland.*CONSILIUM_DATA"):
        locate("heart_disease/processed.cleveland.data.gone", None, origins={}, cache=tmp_path)
