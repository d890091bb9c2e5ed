"""Read a collaboration's text, apply overrides, and say what is wrong in one line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from collab import plugins
from collab.collaboration import Collaboration
from collab.decomposition import expand as decomposing
from collab.decomposition.affinity_terms import AffinityTerms, name_family
from collab.decomposition.terms import LabelHierarchyTerms
from collab.rng import generator
from collab.terms import SiteProfile
from protocol.errors import ConfigError

MAX_FILE_BYTES = 2**20
_MAX_SIGMA = 3.0  # a site in a thousand is 10,000 times slower than the median

M = TypeVar("M", bound=BaseModel)


def read_text(path: Path) -> str:
    """Return the text of a small configuration file.

    Raises:
        ConfigError: it is missing, not text, or larger than a configuration can be.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: more than {MAX_FILE_BYTES} bytes; a configuration is smaller")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Return the tables of ``text``; raise ``ConfigError`` with line and column if it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: not valid TOML: nested too deeply") from None


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


def validate(model: type[M], tables: Mapping[str, Any], source: str) -> M:
    """Return ``tables`` as ``model``; raise ``ConfigError`` that names the key and suggests the nearest."""
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        # A key with a slip of the pen is also missing under its right name: the slip explains both.
        problems = sorted(error.errors(include_url=False), key=lambda p: p["type"] != "extra_forbidden")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{source}: {_explain(model, dict(problems[0]))}{more}") from None


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


def _explain(model: type[BaseModel], problem: dict[str, Any]) -> str:
    # pydantic names the branch of a union, such as "literal['auto','none']"; no file holds such a key.
    loc = [str(part) for part in problem["loc"] if "[" not in str(part)]
    key = ".".join(part if part.isprintable() else ascii(part) for part in loc)
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(model, loc[:-1])
        return plugins.unknown(f"key '{key}'", loc[-1], fields) if fields else f"unknown key '{key}'"
    if problem["type"] == "missing":
        return f"key '{key}' is required"
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message.replace("valid tuple", "list")
    message = re.sub(r"valid dictionary( or instance of \w+)?", "table", message)
    found = problem.get("input")
    shown = f", found {found!r:.60}" if isinstance(found, (str, int, float, bool)) else ""
    return f"{key + ': ' if key else ''}{message}{shown}"


def _fields_at(model: type[BaseModel], loc: Sequence[str]) -> list[str]:
    """Return the field names that are allowed at ``loc``: models, dicts of models and unions are walked."""
    current: Any = model
    for part in loc:
        found = _models_in(current)
        if found and part in found[0].model_fields:
            current = found[0].model_fields[part].annotation
        elif found and part not in {m.__name__ for m in found}:
            current = found[0]  # a key of a dict, or an index of a tuple
    found = _models_in(current)
    return list(found[0].model_fields) if found else []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in get_args(annotation) for m in _models_in(arg)]
