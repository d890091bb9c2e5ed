"""A kit is looked through before it is used: private, of one site, and in the roster."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from clients.kit import SiteKit, load_kit
from clients.kit_check import check_kit, stamp_of
from protocol.errors import ConfigError, ConsiliumError, RosterError, UserError
from tests.clients.agent_cases import kits

__all__ = ["kits"]

PRIVATE = ["tls.key", "node.key", "signing.key"]


@pytest.fixture
def kit(kits: Path, tmp_path: Path) -> SiteKit:
    """The kit of the site north."""
    shutil.copytree(kits / "1" / "north", tmp_path / "north")
    return load_kit(tmp_path / "north")


def _take(kits: Path, kit: SiteKit, *names: str, epoch: str = "1", site: str = "south") -> None:
    """Put files of another kit into this one."""
    for name in names:
        shutil.copy(kits / epoch / site / name, kit.folder / name)


def test_a_good_kit_passes(kits: Path, kit: SiteKit) -> None:
    """As it came, and once it has been renewed."""
    check_kit(kit)
    names = [path.name for path in (kits / "2" / "north").iterdir() if path.is_file()]
    _take(kits, kit, *names, epoch="2", site="north")
    check_kit(kit)


@pytest.mark.parametrize("name", PRIVATE)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_key_that_others_can_read_is_refused(kit: SiteKit, name: str, mode: int) -> None:
    """Whoever runs the site: the mode counts, and the message says what to do."""
    (kit.folder / name).chmod(mode)
    with pytest.raises(UserError, match=f"{name}.*chmod 600"):
        check_kit(kit)


@pytest.mark.parametrize("name", [*PRIVATE, "tls.pem", "authority.pem", "roster.json"])
def test_a_file_that_is_missing_or_nonsense_is_named(kit: SiteKit, name: str) -> None:
    """By its path."""
    path = kit.folder / name
    path.write_bytes(b"nonsense")
    with pytest.raises((UserError, RosterError)) as caught:
        check_kit(kit)
    assert name in str(caught.value) or isinstance(caught.value, RosterError)
    path.unlink()
    with pytest.raises(UserError, match=name):
        check_kit(kit)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_key_of_somebody_else_cannot_be_read(kit: SiteKit) -> None:
    """A site that runs as another user than the kit's owner hears which file it cannot read."""
    for folder in (kit.folder, *kit.folder.parents):
        if folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(folder.stat().st_mode | 0o055)
    kit.state.mkdir(exist_ok=True)
    os.chown(kit.state, 65534, 65534)
    child = os.fork()
    if child == 0:  # pragma: no cover
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            check_kit(kit)
        except UserError as error:
            code = 0 if str(error).endswith(": cannot be read (Permission denied)") else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    "names", [["tls.key"], ["node.key"], ["signing.key"], ["node.key", "signing.key"]], ids=" ".join
)
def test_keys_of_two_kits_do_not_fit_together(kits: Path, kit: SiteKit, names: list[str]) -> None:
    """One or two of them are another site's."""
    _take(kits, kit, *names)
    with pytest.raises(ConfigError, match="its keys are of different kits; copy the whole kit again"):
        check_kit(kit)


def test_the_name_is_that_of_the_kit(kits: Path, kit: SiteKit) -> None:
    """Where site.toml is another site's, both names are said."""
    _take(kits, kit, "site.toml")
    with pytest.raises(ConfigError, match="name = 'south', but this is the kit of 'north'"):
        check_kit(load_kit(kit.folder))


def test_a_certificate_that_no_roster_names_is_refused(
    kits: Path, kit: SiteKit, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It was replaced or revoked: ask for a new kit."""
    _take(kits, kit, "tls.pem", site="server")
    with pytest.raises(ConfigError, match="does not name this kit's keys: it was replaced or revoked"):
        check_kit(kit)


def test_a_roster_of_another_authority_is_refused(kit: SiteKit) -> None:
    """Whatever it says."""
    roster = kit.folder / "roster.json"
    roster.write_text(roster.read_text().replace("clinic", "cliniq"))
    with pytest.raises(RosterError):
        check_kit(kit)


def test_every_error_is_the_users() -> None:
    """So that it is said at the terminal in a line."""
    assert issubclass(UserError, ConsiliumError)
    assert issubclass(RosterError, ConsiliumError)


def test_the_stamp_is_of_what_a_new_kit_brings(kit: SiteKit) -> None:
    """It changes with each of the files, also where one goes."""
    seen = {stamp_of(kit)}
    for number, name in enumerate([*PRIVATE, "tls.pem", "roster.json"], 2):
        os.utime(kit.folder / name, (number, number))
        seen.add(stamp_of(kit))
    kit.certificate.unlink()
    seen.add(stamp_of(kit))
    assert len(seen) == 7
