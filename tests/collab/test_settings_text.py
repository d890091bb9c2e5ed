"""What a person writes becomes tables: files, run configs, and assignments on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.settings import MAX_FILE_BYTES, from_run_config, override, parse, parse_toml, read_text
from protocol.errors import ConfigError
from tests.collab.terms_cases import TEXT, changed

laws = settings(deadline=None, max_examples=60, derandomize=True)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("seed=5", 5),
        ("seed = 5", 5),
        ("seed=2.5", 2.5),
        ("seed=true", True),
        ("seed='5'", "5"),
        ("seed=random", "random"),
        ("seed=", ""),
        ("seed=a=b", "a=b"),
        ("seed=[1, 2]", [1, 2]),
        ("seed={a = 1}", {"a": 1}),
        ("seed=" + "[" * 100_000, "[" * 100_000),
    ],
)
def test_a_value_on_the_command_line_is_toml_or_a_bare_string(assignment: str, value: object) -> None:
    """What reads as TOML is that; everything else is the text itself, so names need no quotes."""
    assert override({}, [assignment]) == {"seed": value}


def test_assignments_reach_down_and_the_last_counts() -> None:
    """A path makes the tables that are missing, leaves their other keys, and a second assignment wins."""
    tables = {"a": {"b": {"c": 1, "d": 2}}}
    assert override(tables, ["a.b.c=3", "a.e.f=4", "a.b.c=5"]) == {
        "a": {"b": {"c": 5, "d": 2}, "e": {"f": 4}}
    }
    assert tables == {"a": {"b": {"c": 1, "d": 2}}}  # untouched


@pytest.mark.parametrize("assignment", ["", "seed", "=5", ".=1", "a..b=1", "a.=1", " =1"])
def test_an_assignment_without_key_or_value_is_refused(assignment: str) -> None:
    """The message shows how to write one."""
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        override({}, [assignment])


def test_a_path_through_a_value_is_refused() -> None:
    """What is no table has no keys."""
    with pytest.raises(ConfigError, match=r"--set name.first=1: 'name' is not a table"):
        override({"name": "x"}, ["name.first=1"])


@laws
@given(st.text(max_size=60))
def test_no_text_surprises(text: str) -> None:
    """Any text at all is a table or a ``ConfigError``, and so is what it would be as a collaboration."""
    try:
        parse(parse_toml(text, "f"), "f")
    except ConfigError as error:
        assert str(error).startswith("f: ")  # noqa: PT017


@pytest.mark.parametrize("text", ["name =", "[a", "a = 1\na = 2", "v = " + "[" * 100_000, "a = 'b\nc'"])
def test_what_is_not_toml_is_refused(text: str) -> None:
    """The file is named, and where TOML says so, line and column."""
    with pytest.raises(ConfigError, match=r"^case.toml: not valid TOML: "):
        parse_toml(text, "case.toml")


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    """A configuration is small: one byte more than the limit is refused before it is read."""
    path = tmp_path / "big.toml"
    path.write_bytes(b"#" * MAX_FILE_BYTES)
    assert len(read_text(path)) == MAX_FILE_BYTES
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match=r"big.toml: more than \d+ bytes"):
        read_text(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, or not text: one line with the path."""
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    for name, says in (("none.toml", "cannot be read"), ("", "cannot be read"), ("latin.toml", "not UTF-8")):
        with pytest.raises(ConfigError, match=says):
            read_text(tmp_path / name)


def test_a_run_config_holds_the_text_or_a_path(tmp_path: Path) -> None:
    """Flower's run config has one string: with lines it is the text itself, else a path below the app."""
    (tmp_path / "case.toml").write_text(TEXT)
    assert from_run_config({"collaboration": TEXT}, tmp_path) == changed()
    assert from_run_config({"collaboration": "case.toml"}, tmp_path) == changed()
    for value in ({}, {"collaboration": "other.toml"}):
        with pytest.raises(ConfigError, match="cannot be read"):
            from_run_config(value, tmp_path)
