"""A file with a decomposition whose tables are none: one line that names the key."""

from __future__ import annotations

import re

import pytest

from collab.settings import parse
from protocol.errors import ConfigError
from tests.collab.test_expand import Tables, tables


def _put(made: Tables, path: str, value: object) -> None:
    *above, last = path.split(".")
    for key in above:
        made = made.setdefault(key, {})
    made[last] = value


NO_TABLES = [
    ("subtasks", 3),
    ("subtasks.help", 3),
    ("subtasks.help", "x"),
    ("data", 3),
    ("data.help", "x"),
    ("partition", 3),
    ("sites", 3),
    ("sites.north.abstain", 3),
]


@pytest.mark.parametrize(("path", "value"), NO_TABLES)
def test_what_is_no_table_is_said_in_one_line(path: str, value: object) -> None:
    """A slip of the pen in a file with a decomposition gives its key, as in one without."""
    made = tables(sites={"weather": "north", "clock": "south", "chat": "north"})
    _put(made, path, value)
    with pytest.raises(ConfigError, match=rf"^file: decomposition\.help: {re.escape(path)}: is no table$"):
        parse(made, "file")


@pytest.mark.parametrize(("path", "value"), [case for case in NO_TABLES if case[0].startswith("subtasks")])
def test_nor_in_a_family(path: str, value: object) -> None:
    """A family's subtasks are tables as well."""
    made = tables() | {"decomposition": {"both": {"by": "affinity", "subtasks": ["help", "other"]}}}
    _put(made, path, value)
    with pytest.raises(ConfigError, match=rf"^file: decomposition\.both: {re.escape(path)}: is no table$"):
        parse(made, "file")
