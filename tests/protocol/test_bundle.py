"""The app bundle: the same bytes for the same code, others for other code, and Flower can read it."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from protocol import bundle
from protocol.bundle import RUN_KEY, bundle_digest, code_digest, make_bundle
from protocol.messages import PROTOCOL_VERSION


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree like the installed one."""
    for name in ("protocol/a.py", "collab/kinds/b.py", "clients/c.py", "server/d.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n", encoding="utf-8")
    return tmp_path


def test_the_same_code_gives_the_same_bytes(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No clock, path, order or owner of the files is in it."""
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(root, copy)
    for path in sorted(copy.rglob("*.py"), reverse=True):
        text = path.read_bytes()
        path.unlink()
        path.write_bytes(text)
        path.chmod(0o600)
    assert make_bundle(root) == make_bundle(copy) == make_bundle(root)
    assert make_bundle() == make_bundle()


def test_other_code_gives_other_bytes(root: Path) -> None:
    """A changed, new, moved or missing file of what a site runs shows; what it does not run does not."""
    seen = {code_digest(root)}

    def is_new() -> bool:
        digest = code_digest(root)
        known = digest in seen
        seen.add(digest)
        return not known

    (root / "server/d.py").write_text("changed", encoding="utf-8")
    (root / "collab/notes.txt").write_text("no code", encoding="utf-8")
    assert not is_new()
    (root / "collab/kinds/b.py").write_text("# collab/kinds/b.py \n", encoding="utf-8")
    assert is_new()
    (root / "clients/e.py").touch()
    assert is_new()
    (root / "clients/e.py").rename(root / "clients/f.py")
    assert is_new()
    (root / "protocol/a.py").unlink()
    assert is_new()


def test_what_is_where_matters(root: Path) -> None:
    """Bytes that move from one file to the next, or from a name to its content, give another digest."""
    (root / "clients/c.py").write_bytes(b"x")
    (root / "clients/d.py").write_bytes(b"y")
    before = code_digest(root)
    (root / "clients/c.py").write_bytes(b"xclients/d.pyy")
    (root / "clients/d.py").unlink()
    assert code_digest(root) != before


def test_the_label(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which code, version and protocol; nothing in it is code."""
    monkeypatch.setattr(bundle, "package_version", lambda: "1.2.3")
    with zipfile.ZipFile(io.BytesIO(make_bundle(root))) as archive:
        assert archive.namelist() == ["consilium.json", "pyproject.toml"]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        label = json.loads(archive.read("consilium.json"))
    assert label == {"code": code_digest(root), "protocol": PROTOCOL_VERSION, "version": "1.2.3"}
    monkeypatch.setattr(bundle, "package_version", lambda: "1.2.4")
    assert make_bundle(root) != make_bundle(root.parent)


@pytest.mark.parametrize("version", ["0.1.0", "1.2.3", "0+uninstalled"])
def test_flower_reads_it(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Flower finds an app with both components and the one key of its config, and names it as we do."""
    from flwr.cli.config_utils import get_fab_metadata
    from flwr.common.config import fuse_dicts, get_fab_config

    monkeypatch.setattr(bundle, "package_version", lambda: version)
    made = make_bundle()
    config = get_fab_config(made)
    app = config["tool"]["flwr"]["app"]
    assert set(app["components"]) == {"serverapp", "clientapp"}
    assert app["config"] == {RUN_KEY: ""}
    assert get_fab_metadata(made)[0] == "consilium/consilium"
    assert fuse_dicts(app["config"], {RUN_KEY: "r1"}) == {RUN_KEY: "r1"}
    assert len(made) < 4096


def test_flower_names_it_alike() -> None:
    """The digest is the one that Flower makes of the same bytes."""
    import hashlib

    made = make_bundle()
    assert bundle_digest(made) == hashlib.sha256(made).hexdigest()


def test_an_uninstalled_tree_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an installed package it says so."""
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(bundle, "version", missing)
    assert bundle.package_version() == "0+uninstalled"
