"""Names find choices: built in or installed, never by a path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from collab import plugins
from protocol.errors import ConfigError

ROOT = Path(__file__).parents[2]

MODULE = '''
"""An institution's own policy."""
from collab.allocation.contract import Suggestion

def allocate(request, rng):
    return [Suggestion("north", "tumour", 1.0, "house rule")]
'''


def test_names_are_the_files_of_a_folder_but_for_what_they_share() -> None:
    """A policy is found by its file's name; the contract and its helpers are no choices."""
    built_in = {"assignment", "everyone", "random", "round_robin", "rules"}
    assert built_in <= set(plugins.names("allocation"))
    assert not {"contract", "feasibility", "predicates"} & set(plugins.names("allocation"))


def test_every_name_loads() -> None:
    """Whatever ``names`` lists, ``load`` returns, and it has the contract's function."""
    assert all(callable(plugins.load("allocation", name).allocate) for name in plugins.built_in("allocation"))


@pytest.mark.parametrize(("name", "near"), [("asignment", "assignment"), ("roundrobin", "round_robin")])
def test_an_unknown_name_suggests_the_nearest(name: str, near: str) -> None:
    """A slip of the pen is answered with the name that was meant and the list of all."""
    with pytest.raises(ConfigError, match=f"unknown allocation '{name}': did you mean '{near}'.*everyone"):
        plugins.load("allocation", name)


@pytest.mark.parametrize(
    "name",
    [
        "os.path",
        "os",
        "collab.allocation.everyone",
        "everyone.allocate",
        "..plugins",
        "../everyone",
        "",
        "contract",
    ],
)
def test_a_path_is_refused(name: str) -> None:
    """A name is no dotted path and no file path, so no message can choose what is imported."""
    with pytest.raises(ConfigError, match="unknown allocation"):
        plugins.load("allocation", name)


def install(folder: Path, entry: str) -> None:
    """Lay out ``folder`` as pip would leave a package with one entry point."""
    info = folder / "house-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[consilium.plugins]\n{entry}\n", encoding="utf-8")
    (folder / "house_policy.py").write_text(MODULE, encoding="utf-8")


def run(folder: Path, code: str) -> str:
    """What ``code`` prints in a process that has ``folder`` on its path."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_an_installed_entry_point_is_found(tmp_path: Path) -> None:
    """An institution's package adds a policy by its metadata alone, without touching this tree."""
    install(tmp_path, "allocation.house = house_policy")
    found = run(
        tmp_path,
        "from collab import plugins\n"
        "print('house' in plugins.names('allocation'), 'house' in plugins.names('fusion'))\n"
        "print(plugins.load('allocation', 'house').__name__)",
    )
    assert found.split() == ["True", "False", "house_policy"]


def test_an_entry_point_cannot_replace_a_built_in(tmp_path: Path) -> None:
    """A built-in name means the same at every site, whatever is installed there."""
    install(tmp_path, "allocation.everyone = house_policy")
    found = run(
        tmp_path, "from collab import plugins\nprint(plugins.load('allocation', 'everyone').__name__)"
    )
    assert found == "collab.allocation.everyone"
