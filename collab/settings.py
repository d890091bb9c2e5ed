"""Read a collaboration's text, apply overrides, and say what is wrong in one line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from collab.collaboration import Collaboration
from collab.decomposition import expand as decomposing
from collab.decomposition.affinity_terms import AffinityTerms, name_family
from collab.decomposition.terms import LabelHierarchyTerms
from collab.rng import generator
from collab.terms import SiteProfile
from collab.toml_file import MAX_FILE_BYTES, parse_toml, read_text, validate
from protocol.errors import ConfigError

__all__ = [
    "MAX_FILE_BYTES",
    "expand_fleet",
    "from_run_config",
    "override",
    "parse",
    "parse_toml",
    "read_text",
    "validate",
]

_MAX_SIGMA = 3.0  # a site in a thousand is 10,000 times slower than the median


def parse(tables: Mapping[str, Any], source: str, base: Path | None = None) -> Collaboration:
    """Return the collaboration in ``tables``, decompositions and a fleet written out.

    Args:
        tables: the file's.
        source: what to call it in messages.
        base: the folder that the path of a decomposition's map starts from.

    Raises:
        ConfigError: one line with file, key, what is wrong and what is allowed.
        DataError: the file of a decomposition's map is nowhere.
    """
    if decomposing.is_whole(tables):
        tables = _decomposed(tables, source, base)
    collaboration = validate(Collaboration, tables, source)
    return expand_fleet(collaboration) if collaboration.fleet else collaboration


def _decomposed(tables: Mapping[str, Any], source: str, base: Path | None) -> Mapping[str, Any]:
    """Return ``tables`` with every decomposition written out that is not yet."""
    for name, table in tables["decomposition"].items():
        where = f"{source}: decomposition.{name}"
        if not isinstance(table, Mapping):
            raise ConfigError(f"{where}: is no table")
        if "subtask" in table:
            continue
        try:
            tables = _written_out(tables, name, table, base)
        except ConfigError as error:
            raise ConfigError(f"{where}: {str(error).removeprefix(': ')}") from None
    return tables


def _written_out(
    tables: Mapping[str, Any], name: str, table: Mapping[str, Any], base: Path | None
) -> Mapping[str, Any]:
    """Return ``tables`` with one decomposition written out, by what it goes by."""
    model = decomposing.model_of(table)
    read = decomposing.read_groups(table, base) if model is LabelHierarchyTerms else table
    terms = validate(model, read, "")
    if isinstance(terms, AffinityTerms):
        return name_family(tables, name, terms)
    return decomposing.expand(tables, name, terms)


def from_run_config(run_config: Mapping[str, object], root: Path) -> Collaboration:
    """Return the collaboration of a Flower run config: TOML text, or the path of a file below ``root``."""
    value = str(run_config.get("collaboration", ""))
    if "\n" in value:
        return _parsed(value)
    path = root / value
    return parse(parse_toml(read_text(path), str(path)), str(path), path.parent)


@lru_cache(maxsize=8)
def _parsed(text: str) -> Collaboration:
    # A pure function: every message of a simulation comes with the same text.
    return parse(parse_toml(text, "run config"), "run config")


def override(tables: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return ``tables`` with ``key.path=value`` put in; a value is TOML, or else a bare string.

    Raises:
        ConfigError: an assignment without ``=``, or a path through something that is no table.
    """
    result: dict[str, Any] = _copy(tables)
    for assignment in assignments:
        path, found, text = assignment.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not found or not all(keys):
            raise ConfigError(f"--set {assignment}: write KEY=VALUE, e.g. --set allocation.policy=random")
        table = result
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {assignment}: '{key}' is not a table")
        table[keys[-1]] = _value(text.strip())
    return result


def expand_fleet(c: Collaboration) -> Collaboration:
    """Write the ``[fleet]`` out as sites with derived speeds, memories and subtasks."""
    fleet = c.fleet
    if fleet is None:
        return c
    rng = generator(c.seed, "fleet")
    sigma = float(fleet.speeds.partition(":")[2])
    if sigma > _MAX_SIGMA:
        raise ConfigError(f"fleet.speeds: SIGMA is at most {_MAX_SIGMA:g}, found {sigma:g}")
    names = sorted(c.subtasks)
    low, high = fleet.subtasks_per_site or (len(names), len(names))
    if not 1 <= low <= high <= len(names):
        raise ConfigError(f"fleet.subtasks_per_site: between 1 and {len(names)}, found [{low}, {high}]")
    width = len(str(fleet.count))
    sites = dict(c.sites)
    for i in range(fleet.count):
        count, name = int(rng.integers(low, high + 1)), f"site-{i + 1:0{width}d}"
        if name in sites:
            raise ConfigError(f"sites.{name}: a site of the fleet has this name; give it another")
        sites[name] = SiteProfile(
            subtasks=tuple(sorted(rng.choice(names, size=count, replace=False).tolist())),
            memory_mib=float(rng.choice(fleet.memory_mib)),
            examples_per_s=max(0.001, round(1000 * float(rng.lognormal(0, sigma)), 3)),
            bandwidth_mbit=fleet.bandwidth_mbit,
            dropout=fleet.dropout,
        )
    return validate(Collaboration, c.model_dump() | {"sites": sites, "fleet": None}, "[fleet]")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value
