"""What a server reads for a run lies in the folders that its kit names, whatever the run's file says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from collab.collaboration import Collaboration
from collab.data.locate import DATA_VARIABLE
from collab.settings import parse
from collab.teacher import TeacherFile
from protocol.errors import ConfigError
from server.data_folders import check_paths
from server.kit import ServerConfig, ServerKit, make_folders
from tests.protocol.key_cases import as_nobody
from tests.small import WEIGHTS, tables


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.fixture
def kit(tmp_path: Path) -> ServerKit:
    """A kit that names its own folder ``data`` and another."""
    elsewhere = tmp_path / "elsewhere"
    for folder in (tmp_path / "kit", tmp_path / "kit/data", elsewhere):
        folder.mkdir()
    config = ServerConfig(name="clinic", hosts=("a.org",), port=8443, data=("data", str(elsewhere)))
    made = ServerKit(tmp_path / "kit", config)
    make_folders(made)
    for path in ("kit/data/rows.csv", "elsewhere/rows.csv", "secret.csv", "kit/signing.key"):
        (tmp_path / path).write_text("a,b,y\n1,2,3\n")
    return made


def asking(kit: ServerKit, path: str | Path, **more: Any) -> Collaboration:
    """A collaboration with that path in it, as the server reads it."""
    made = tables({"rows": dict(WEIGHTS)})
    made["data"] = {"rows": {"format": "csv", "path": str(path), "target": "y", **more}}
    made.pop("sites")
    return parse(made, "test", kit.orders)


def refused(kit: ServerKit, collaboration: Collaboration) -> str:
    """It is refused; why."""
    with pytest.raises(ConfigError) as raised:
        check_paths(collaboration, kit)
    return str(raised.value)


@pytest.mark.parametrize("path", ["kit/data/rows.csv", "elsewhere/rows.csv", "kit/../elsewhere/rows.csv"])
def test_the_folders_that_are_named(kit: ServerKit, tmp_path: Path, path: str) -> None:
    """What lies in them is read, however it is written."""
    check_paths(asking(kit, tmp_path / path), kit)


@pytest.mark.parametrize(
    "path",
    [
        "secret.csv",
        "kit/signing.key",
        "kit/data/../signing.key",
        "elsewhere/../secret.csv",
        "kit/data/../../secret.csv",
        "kit/state",
    ],
)
def test_all_else(kit: ServerKit, tmp_path: Path, path: str) -> None:
    """No other file or folder of the machine is read: the line says what to do."""
    said = refused(kit, asking(kit, tmp_path / path))
    assert "data.rows" in said
    assert "server.toml" in said


def test_names_that_only_begin_alike(kit: ServerKit, tmp_path: Path) -> None:
    """A folder whose name begins as one of them is another."""
    (tmp_path / "kit/data-of-others").mkdir()
    (tmp_path / "kit/data-of-others/rows.csv").touch()
    refused(kit, asking(kit, tmp_path / "kit/data-of-others/rows.csv"))


def test_relative_paths(kit: ServerKit, tmp_path: Path) -> None:
    """They start where the order lies, and lead out of it no further than others."""
    (kit.orders / "r1.toml").touch()
    refused(kit, asking(kit, "r1.toml"))
    refused(kit, asking(kit, "../../signing.key"))
    check_paths(asking(kit, "../../data/rows.csv"), kit)
    check_paths(asking(kit, "nowhere.csv"), kit)  # whoever opens it says so


def test_links_are_followed(kit: ServerKit, tmp_path: Path) -> None:
    """A link counts as what it leads to, in both directions, a folder's too."""
    (tmp_path / "kit/data/link.csv").symlink_to(tmp_path / "secret.csv")
    (tmp_path / "kit/data/out").symlink_to(tmp_path)
    (tmp_path / "in.csv").symlink_to(tmp_path / "kit/data/rows.csv")
    refused(kit, asking(kit, tmp_path / "kit/data/link.csv"))
    refused(kit, asking(kit, tmp_path / "kit/data/out/secret.csv"))
    check_paths(asking(kit, tmp_path / "in.csv"), kit)


def test_a_folder_that_is_a_link(kit: ServerKit, tmp_path: Path) -> None:
    """The operator may have the folder itself lie elsewhere."""
    real = tmp_path / "disk"
    (tmp_path / "kit/data").rename(real)
    (tmp_path / "kit/data").symlink_to(real)
    check_paths(asking(kit, tmp_path / "kit/data/rows.csv"), kit)


def test_the_variable(kit: ServerKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of CONSILIUM_DATA is one of them: relative paths are looked for there as well."""
    more = tmp_path / "more"
    more.mkdir()
    (more / "sets.csv").touch()
    refused(kit, asking(kit, more / "sets.csv"))
    monkeypatch.setenv(DATA_VARIABLE, str(more))
    check_paths(asking(kit, more / "sets.csv"), kit)
    check_paths(asking(kit, "sets.csv"), kit)
    refused(kit, asking(kit, "../secret.csv"))


def test_every_path_of_a_block(kit: ServerKit, tmp_path: Path) -> None:
    """Test files are as good as train files."""
    inside, outside = tmp_path / "kit/data/rows.csv", tmp_path / "secret.csv"
    for tested, is_good in ((inside, True), (outside, False)):
        made = asking(kit, inside, split={"test_path": str(tested)})
        if is_good:
            check_paths(made, kit)
        else:
            assert "secret.csv" in refused(kit, made)


def test_a_teacher(kit: ServerKit, tmp_path: Path) -> None:
    """An imported teacher's file is looked at too, and named by its key."""
    made = asking(kit, tmp_path / "kit/data/rows.csv")
    terms = made.subtasks["rows"]

    def taught(path: Path) -> Collaboration:
        teacher = TeacherFile(path=str(path), model="linear")
        return made.model_copy(update={"subtasks": {"rows": terms.model_copy(update={"teacher": teacher})}})

    (tmp_path / "elsewhere/t.safetensors").touch()
    (tmp_path / "t.safetensors").touch()
    check_paths(taught(tmp_path / "elsewhere/t.safetensors"), kit)
    assert "subtasks.rows.teacher" in refused(kit, taught(tmp_path / "t.safetensors"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_what_may_not_be_looked_at(kit: ServerKit, tmp_path: Path) -> None:
    """A path into a folder that the server's user may not enter is refused in words."""
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed/rows.csv").touch()
    made = asking(kit, tmp_path / "closed/rows.csv")
    folders = [tmp_path, *tmp_path.parents]
    modes = {folder: folder.stat().st_mode & 0o7777 for folder in folders if "pytest" in str(folder)}
    try:
        for folder in modes:
            folder.chmod(0o711)
        said = as_nobody(lambda: check_paths(made, kit))
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)
    assert said.startswith("ConfigError: ")
    assert "cannot be looked at (Permission denied)" in said
