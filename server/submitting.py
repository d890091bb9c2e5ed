"""A collaboration's file, looked through before it is handed to the server."""

from __future__ import annotations

from pathlib import Path

from collab.settings import parse, parse_toml, read_text
from protocol.errors import ConfigError
from server.federation import to_toml
from server.orders import RUN_NAME

_SIMULATED = {"sites", "fleet", "partition"}


def prepared(path: Path) -> tuple[str, str]:
    """Return the text to submit, with the paths of the server's data made absolute, and its name.

    Raises:
        ConfigError: a key or value is wrong, or it is a scenario, whose sites are simulated.
    """
    tables = parse_toml(read_text(path), str(path))
    if _SIMULATED & tables.keys():
        raise ConfigError(
            f"{path}: [sites] and [fleet] are for simulations (consilium simulate); leave them out for real "
            "sites, and say how many with [coordination] sites"
        )
    found = parse(tables, str(path), path.parent)
    base = path.parent.resolve()
    data = {
        name: config.with_paths(lambda p: str(base / p) if (base / p).exists() else p)
        for name, config in found.data.items()
    }
    return to_toml(found.model_copy(update={"data": data})), found.name


def check_run(name: str) -> str:
    """Return a run's name; raise ``ConfigError`` for one that cannot stand in a path."""
    if not RUN_NAME.fullmatch(name):
        raise ConfigError(
            f"--run '{name[:64]}': up to 64 letters, digits, dots, - and _, a letter or digit first"
        )
    return name
