"""Tables of a file before they are checked: what should be one may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocol.errors import ConfigError


def table_in(tables: Mapping[str, Any], key: str, where: str = "") -> dict[str, Any]:
    """Return a copy of the table ``key``, {} if there is none; ``where`` is the path of ``tables``.

    Raises:
        ConfigError: it is no table.
    """
    found = tables.get(key, {})
    if not isinstance(found, Mapping):
        raise ConfigError(f"{f'{where}.' if where else ''}{key}: is no table")
    return dict(found)
