"""Three real hospitals on the heart data of 1988: their site files and a collaboration. Not a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collab.data.locate import locate
from collab.settings import parse, parse_toml, read_text
from simulations.simulate import ready, scenario_path

SITES = ("cleveland", "hungarian", "va")
COORDINATION = {"sites": len(SITES), "quorum": 1.0, "deadline_s": 600}  # who takes part must not differ
_KEPT = ("name", "seed", "subtasks", "allocation", "fusion")


def scenario() -> dict[str, Any]:
    """Return the tables of the scenario ``heart``."""
    path = scenario_path("heart")
    return ready(parse(parse_toml(read_text(path), str(path)), str(path)), path.parent).model_dump(
        mode="json", exclude_unset=True
    )


def heart_terms(rounds: int, **train: Any) -> dict[str, Any]:
    """Return the heart collaboration for real sites."""
    tables = scenario()
    terms = {key: tables[key] for key in _KEPT if key in tables}
    terms["subtasks"]["heart"]["train"] |= train
    return terms | {"rounds": rounds, "coordination": COORDINATION}


def site_tables() -> dict[str, dict[str, Any]]:
    """Return what each hospital writes into its site.toml: its own file, as the scenario reads it."""
    data = dict(scenario()["data"]["heart"])
    files = data.pop("files")
    limits = {"memory_mib": 4096, "examples_per_s": 1000, "device": "cpu"}
    egress = {"label_histogram": "exact", "models": True}
    return {
        site: {"data": {"heart": data | {"path": _located(files[site])}}, "limits": limits, "egress": egress}
        for site in SITES
    }


def _located(path: str) -> str:
    """Return where a hospital's file lies, as a path that its site.toml can name."""
    return str(locate(path, Path.cwd()).resolve())
