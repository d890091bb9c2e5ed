"""The scenario of ten domains: it parses without its sentences, and with them the gate pays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from collab.collaboration import Collaboration
from collab.settings import override, parse, parse_toml, read_text
from simulations.simulate import Order, ready, scenario_path, simulate


def _ready(*changes: str) -> Collaboration:
    if not Path(os.environ.get("CONSILIUM_DATA", "."), "clinc150").is_dir():
        pytest.skip("clinc150 is not under CONSILIUM_DATA")
    path = scenario_path("service")
    tables = override(parse_toml(read_text(path), str(path)), changes)
    return ready(parse(tables, str(path), path.parent), path.parent)


def test_each_site_answers_for_its_own_domain() -> None:
    """The gate is everybody's, each domain's expert has the one site that its rows lie at; one has none."""
    found = _ready()
    assert len(found.sites) == 11
    assert found.sites_of("service-gate") == tuple(sorted(found.sites))
    owners = dict(found.decomposition["service"].sites)
    assert found.sites[owners.pop("oos")].subtasks == ("service-gate",)
    assert len(owners) == 10
    for group, site in owners.items():
        assert found.sites_of(f"service-{group}") == (site,)
        assert found.sites[site].subtasks == ("service-gate", f"service-{group}")
        assert len(found.subtasks[f"service-{group}"].labels or ()) == 15  # type: ignore[arg-type]


def test_the_gate_pays(tmp_path: Path) -> None:
    """On the official test sentences the soft gate beats experts side by side by several points."""
    changes = ("rounds=1", "data.service.grams.buckets=512", "subtasks.service.train.local_epochs=6")
    summary = simulate(_ready(*changes), Order("r", tmp_path, baselines=False), lambda _: None)
    whole = summary["decompositions"]["service"]
    assert whole["global"] > whole["closed_set"] + 0.03
    assert whole["global"] > 0.6
    assert len(whole["per_part"]) == 11
    assert not summary["notes"]
