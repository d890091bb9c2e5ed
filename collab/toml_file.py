"""Read a small TOML file into a model, and say in one line what is wrong in it.

Nothing here needs torch: a process that only reads its own file starts without it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from collab import plugins
from protocol.errors import ConfigError

MAX_FILE_BYTES: Final = 2**20

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


def validate(model: type[M], tables: Mapping[str, Any], source: str) -> M:
    """Return ``tables`` as ``model``; raise ``ConfigError`` that names the key and suggests the nearest."""
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        # A key with a slip of the pen is also missing under its right name: the slip explains both.
        problems = sorted(error.errors(include_url=False), key=lambda p: p["type"] != "extra_forbidden")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{source}: {_explain(model, dict(problems[0]))}{more}") from None


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
