"""Which releases of Flower are worked with."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from protocol import versions
from protocol.errors import UserError
from protocol.versions import SUPPORTED, check_flower


def test_the_installed_release_is_supported() -> None:
    """What the tests run with is what a server or a site starts with."""
    assert check_flower() == version("flwr")


@pytest.mark.parametrize("found", ["1.41.0", "1.42.7", "1.42.0.dev1"])
def test_releases_that_were_tried(found: str) -> None:
    """Any repair of a supported release is taken."""
    assert check_flower(found) == found


@pytest.mark.parametrize("found", ["1.40.9", "1.43.0", "2.41.0", "1.4", "1.410.0", "11.41.0"])
def test_others_are_refused(found: str) -> None:
    """Any other release is named, with what to install."""
    with pytest.raises(UserError, match=r"flwr .* is installed.*1\.41 and 1\.42.*pip install") as error:
        check_flower(found)
    assert found in str(error.value)


def test_the_installed_release_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a version given it is the installed package's."""
    monkeypatch.setattr(versions, "version", lambda name: {"flwr": "1.39.0"}[name])
    with pytest.raises(UserError, match=r"1\.39\.0"):
        check_flower()


def test_what_is_supported_is_what_is_declared() -> None:
    """The package asks for the same releases."""
    from importlib.metadata import requires

    wanted = [line for line in requires("consilium") or [] if line.startswith("flwr<") or "flwr>" in line]
    bounds = wanted[0].split(";")[0]
    assert f">={SUPPORTED[0]}" in bounds
    major, minor = SUPPORTED[-1].split(".")
    assert f"<{major}.{int(minor) + 1}" in bounds
