"""What docs/deployment.md shows can be typed in and is accepted."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from clients.site_file import SiteConfig
from collab.toml_file import validate
from server.federation_file import FederationFile
from server.submitting import prepared
from tests.command_lines import parse_line

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs/security.md").read_text(encoding="utf-8")


def blocks(language: str = "") -> list[str]:
    """Return the fenced blocks of a language in the guide."""
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


FEDERATION, SITE, COLLABORATION = blocks("toml")


def lines() -> list[str]:
    """Return the command lines of the guide, and of the README's section on real sites."""
    section = README.split("## Real sites")[1].split("\n## ")[0]
    shown = "\n".join([*blocks(), *re.findall(r"```\n(.*?)```", section, re.DOTALL)])
    return re.findall(r"^(?:\$ )?(consilium .*)$", shown, re.MULTILINE)


@pytest.mark.parametrize("line", lines())
def test_each_command_is_one(line: str) -> None:
    """Commands and options are those of the program."""
    parse_line(shlex.split(line, comments=True))


def test_there_are_commands_to_look_at() -> None:
    """The two places show what a federation takes."""
    shown = {" ".join(line.split()[1:3]) for line in lines()}
    assert {"provision federation.toml", "server up", "site up", "submit heart.toml"} <= shown


def test_the_federations_file_is_one() -> None:
    """The example names three sites, and the port that the text speaks of."""
    found = validate(FederationFile, tomllib.loads(FEDERATION), "guide")
    assert list(found.sites) == ["hospital-a", "hospital-b", "hospital-c"]
    assert found.server.port == 8443


def test_the_sites_file_is_one_and_agrees_with_the_others() -> None:
    """The example is accepted, its defaults are the defaults, and its server is the federation's."""
    told = tomllib.loads(SITE)
    found = validate(SiteConfig, told, "guide")
    bare = validate(SiteConfig, {k: v for k, v in told.items() if k != "egress"}, "guide")
    assert found.egress == bare.egress, "written out as the defaults of a site"
    assert found.server is not None
    federation = tomllib.loads(FEDERATION)
    assert found.name in federation["sites"]
    assert (found.server.host, found.server.port) == (
        federation["server"]["hosts"][0],
        federation["server"]["port"],
    )
    assert set(found.data) == set(tomllib.loads(COLLABORATION)["subtasks"])


def test_the_collaboration_can_be_submitted(tmp_path: Path) -> None:
    """The example goes through the checks of ``consilium submit``."""
    file = tmp_path / "heart.toml"
    file.write_text(COLLABORATION, encoding="utf-8")
    text, name = prepared(file)
    assert name == "heart"
    assert tomllib.loads(text)["coordination"]["sites"] == 3


def test_the_files_that_the_table_of_threats_names_are_there() -> None:
    """Where it says that something is tested, there is such a file."""
    named = re.findall(r"`((?:\w+/)?\w+\.py)`", SECURITY)
    assert named
    for name in named:
        assert (
            (ROOT / name).is_file()
            or (ROOT / "tests" / name).is_file()
            or list((ROOT / "tests").glob(f"*/{name}"))
        ), name
