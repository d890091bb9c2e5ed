"""The tree is a Flower app: `flwr run .` bundles it, and the bundle is complete."""

from __future__ import annotations

import io
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

ROOT = Path(__file__).parents[2]
PARTS = ("protocol", "collab", "server", "clients", "simulations")

# Flower's own use of pathspec.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


@pytest.fixture(scope="module")
def bundle() -> zipfile.ZipFile:
    """What `flwr run` sends to the SuperLink."""
    return zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT)))


def test_the_bundle_holds_what_the_parts_need(bundle: zipfile.ZipFile) -> None:
    """Every file of the parts travels, whatever its suffix; Flower packs only some."""
    files = {path for part in PARTS for path in (ROOT / part).rglob("*") if path.is_file()}
    needed = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if "__pycache__" not in path.parts and "benchmarks" not in path.parts
    }
    assert needed - set(bundle.namelist()) == set()


def test_the_bundle_holds_no_tests(bundle: zipfile.ZipFile) -> None:
    """A site gets the app, not its tests."""
    assert [name for name in bundle.namelist() if name.startswith("tests/")] == []


def test_flower_allows_every_key_of_the_run_config(bundle: zipfile.ZipFile) -> None:
    """Flower refuses an override whose key has no default, so each key must have one."""
    app = tomllib.loads(bundle.read("pyproject.toml").decode())["tool"]["flwr"]["app"]
    assert {"collaboration", "out", "run", "clock", "baselines"} <= app["config"].keys()
