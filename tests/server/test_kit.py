"""The server's kit before anything is started with it: its keys are private and fit its roster."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.errors import ConfigError, RosterError, UserError
from server.kit import ServerKit, check_kit, group_id, load_kit, make_folders
from tests.server.link_cases import make_kits


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two federations of the same name, made apart; the first of them twice."""
    folder = tmp_path_factory.mktemp("kits")
    for name in ("one", "two"):
        make_kits(folder / name, "north")
    return folder


@pytest.fixture
def kit(kits: Path, tmp_path: Path) -> ServerKit:
    """A copy of the server's kit."""
    shutil.copytree(kits / "one/server", tmp_path / "server")
    return load_kit(tmp_path / "server")


def test_a_kit_as_it_was_made(kit: ServerKit, kits: Path) -> None:
    """It is good, however often it is looked at, and also after it was made anew."""
    check_kit(kit)
    make_folders(kit)
    check_kit(kit)
    again = kits / "again"
    make_kits(again, "north")
    make_kits(again, "north", "south")
    check_kit(load_kit(again / "server"))


def _open_to_all(name: str) -> Callable[[ServerKit, Path], None]:
    return lambda kit, _: (kit.folder / name).chmod(0o644)


def _of_another(*names: str) -> Callable[[ServerKit, Path], None]:
    def copy(kit: ServerKit, other: Path) -> None:
        for name in names:
            shutil.copy2(other / name, kit.folder / name)

    return copy


def _gone(name: str) -> Callable[[ServerKit, Path], None]:
    return lambda kit, _: (kit.folder / name).unlink()


def _filled(name: str, text: bytes) -> Callable[[ServerKit, Path], None]:
    return lambda kit, _: (kit.folder / name).write_bytes(text) and None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        (_open_to_all("signing.key"), UserError, "signing.key"),
        (_open_to_all("tls.key"), UserError, "tls.key"),
        (_gone("signing.key"), UserError, "signing.key"),
        (_gone("tls.key"), UserError, "tls.key"),
        (_gone("tls.pem"), UserError, "tls.pem"),
        (_gone("roster.json"), RosterError, "roster"),
        (_gone("authority.pem"), UserError, "authority.pem"),
        (_filled("signing.key", b"no key"), UserError, "signing.key"),
        (_filled("roster.json", b"{}"), RosterError, "roster"),
        (_of_another("tls.key"), ConfigError, "do not fit"),
        (_of_another("tls.pem"), ConfigError, "do not fit"),
        (_of_another("signing.key"), ConfigError, "another signing key"),
        (_of_another("roster.json"), RosterError, "authority|signature"),
        (_of_another("roster.json", "authority.pem"), ConfigError, "another signing key"),
    ],
)
def test_what_is_wrong_with_it(
    kit: ServerKit, kits: Path, change: Callable[[ServerKit, Path], None], error: type[Exception], why: str
) -> None:
    """A key that others can read, or that is not the one the roster means, is said at once."""
    change(kit, kits / "two/server")
    with pytest.raises(error, match=why) as raised:
        check_kit(kit)
    assert "PRIVATE" not in str(raised.value)


def test_which_group() -> None:
    """None is none; one that this machine does not know is said."""
    assert group_id(None) is None
    assert group_id("root") == 0
    with pytest.raises(ConfigError, match="no such group"):
        group_id("nobody-has-this-group")
