"""``[decomposition.NAME]`` written out: the subtask NAME becomes NAME-PART for each of its parts.

By labels the parts are the gate and the groups, by modality the modalities. Works on the tables of a
collaboration file before they are checked, so that parts are subtasks like any other ever after. What was
written stays as ``decomposition.NAME.subtask``; its presence says that the work is done, and ``expand`` then
leaves the table alone.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from collab.data.locate import locate
from collab.decomposition.affinity_terms import AffinityTerms
from collab.decomposition.label_hierarchy import parse
from collab.decomposition.tables import table_in
from collab.decomposition.terms import RULES, LabelHierarchyTerms, WholeTerms, name_of
from collab.plugins import unknown
from protocol.bounds import Name
from protocol.errors import ConfigError

_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)

Tables = dict[str, Any]


def is_whole(tables: Mapping[str, Any]) -> bool:
    """Return whether there is a decomposition that has not been written out yet."""
    found = tables.get("decomposition")
    return isinstance(found, Mapping) and any(
        isinstance(table, Mapping) and "subtask" not in table for table in found.values()
    )


def model_of(table: Mapping[str, Any]) -> type[WholeTerms | AffinityTerms]:
    """Return the model of a decomposition's table; ``ConfigError`` if nothing is taken apart so."""
    by = table.get("by")
    if by is None:
        raise ConfigError(f"key 'by' is required: one of {', '.join(RULES)}")
    if not isinstance(by, str) or by not in RULES:
        raise ConfigError(f"by: {unknown(f'rule {str(by)[:40]!r}', str(by), RULES)}")
    return RULES[by]


def read_groups(table: Mapping[str, Any], base: Path | None) -> Tables:
    """Return a decomposition's table with the groups of its ``map`` in it.

    Raises:
        DataError: the file is nowhere.
        ConfigError: both ``map`` and ``groups`` are given, or the file holds no hierarchy.
    """
    path = table.get("map")
    if path is None:
        return dict(table)
    if not isinstance(path, str):
        raise ConfigError(f"map: is the path of a file, found a {type(path).__name__}")
    if "groups" in table:
        raise ConfigError("give either map or groups, found both")
    file = locate(path, base)
    hierarchy = parse(file.read_text(encoding="utf-8"), file.name)
    return {**table, "groups": {group: list(labels) for group, labels in hierarchy.groups.items()}}


def expand(tables: Mapping[str, Any], name: str, terms: WholeTerms) -> Tables:
    """Return ``tables`` with the subtask ``name`` replaced by its parts.

    Raises:
        ConfigError: there is no such subtask, a part's name is taken or too long, or a key cannot be.
    """
    result: Tables = {key: dict(v) if isinstance(v, Mapping) else v for key, v in tables.items()}
    subtasks, whole = _whole(result, name)
    made = []
    for part, table in terms.part_tables(name, whole).items():
        made.append(name_of(name, part))
        _check_name(made[-1], subtasks)
        subtasks[made[-1]] = {"data": name, **whole, **table, "part_of": name}
    if isinstance(terms, LabelHierarchyTerms):
        _name_sites(result, name, str(whole.get("data", name)), terms)
    _for_all_parts(result, name, made)
    done = terms.model_dump(mode="json", exclude_defaults=True) | {"subtask": whole}
    result["decomposition"] = {**tables["decomposition"], name: done}
    return result


def _whole(result: Tables, name: str) -> tuple[Tables, Tables]:
    """Return the subtasks without the whole, and the whole's own table."""
    subtasks = table_in(result, "subtasks")
    if name not in subtasks:
        raise ConfigError(unknown(f"subtask '{name}'", name, subtasks))
    whole = table_in(subtasks, name, "subtasks")
    del subtasks[name]
    result["subtasks"] = subtasks
    return subtasks, whole


def _check_name(subtask: str, taken: Mapping[str, Any]) -> None:
    if subtask in taken:
        raise ConfigError(f"its part '{subtask}' has the name of another subtask: rename one")
    try:
        _NAME.validate_python(subtask)
    except ValidationError:
        raise ConfigError(
            f"its part would be called '{subtask[:80]}', which is no name: at most 64 of A-Z a-z 0-9 _ . -"
        ) from None


def _name_sites(result: Tables, name: str, data: str, terms: LabelHierarchyTerms) -> None:
    """Say whose each row is, where a group's rows lie at one site."""
    if not terms.sites:
        return
    known = {*terms.hierarchy.names, *(() if terms.outside is None else (terms.outside,))}
    for group in terms.sites:
        if group not in known:
            raise ConfigError(unknown(f"group '{group}' in sites", group, known))
    owners = terms.hierarchy.site_of_label(terms.sites)
    if terms.outside is not None:
        if terms.outside not in terms.sites:
            raise ConfigError(f"sites: rows with the label '{terms.outside}' have no site")
        owners[terms.outside] = terms.sites[terms.outside]
    blocks = table_in(result, "data")
    block = table_in(blocks, data, "data")
    if "site_of_label" in block:
        raise ConfigError(f"sites and [data.{data}] site_of_label say the same: leave one out")
    blocks[data] = block | {"site_of_label": owners}
    result["data"] = blocks
    result["partition"] = {name: {"kind": "column"}, **table_in(result, "partition")}


def _for_all_parts(result: Tables, name: str, made: list[str]) -> None:
    """Let rules and sites that name the whole mean all its parts."""
    allocation = result.get("allocation")
    if isinstance(allocation, MutableMapping) and isinstance(allocation.get("rules"), Mapping):
        allocation["rules"] = _spread(allocation["rules"], name, made)
    for site, profile in table_in(result, "sites").items():
        if not isinstance(profile, Mapping):
            continue
        changed = dict(profile)
        if isinstance(profile.get("subtasks"), (list, tuple)):
            listed = profile["subtasks"]
            changed["subtasks"] = [s for one in listed for s in (made if one == name else [one])]
        if name in table_in(profile, "abstain", f"sites.{site}"):
            raise ConfigError(f"sites.{site}.abstain.{name}: name one of its parts, such as '{made[0]}'")
        result["sites"][site] = changed


def _spread(table: Mapping[str, Any], name: str, made: list[str]) -> Tables:
    """Return the table with the whole's entry given to each part that has none of its own."""
    rest = {key: value for key, value in table.items() if key != name}
    return (dict.fromkeys(made, table[name]) | rest) if name in table else rest
