"""A site's kit, and where a running site keeps what it must not lose. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clients import site_file
from clients.site_file import SiteConfig
from protocol.errors import ConfigError, RosterError
from protocol.files import read_bounded
from protocol.keys import load_authority
from protocol.kit_files import KitFiles
from protocol.roster import MAX_ROSTER_BYTES
from protocol.roster_book import RosterBook


@dataclass(frozen=True)
class SiteKit(KitFiles):
    """A folder that ``consilium provision`` made for a site, with its ``site.toml`` filled in."""

    config: SiteConfig

    @property
    def site_toml(self) -> Path:
        """What the institution says of its site."""
        return self.folder / "site.toml"

    @property
    def node_key(self) -> Path:
        """The key of the site's Flower node."""
        return self.folder / "node.key"

    @property
    def address(self) -> str:
        """Where the server is, HOST:PORT."""
        server = self.config.server
        if server is None:
            raise ConfigError(f"{self.site_toml}: [server] is missing: give its host and port")
        return f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"


def load_kit(folder: Path) -> SiteKit:
    """Return the kit in ``folder``.

    Raises:
        ConfigError: it is none, or a value in its site.toml is wrong.
    """
    path = folder / "site.toml"
    if not path.is_file():
        raise ConfigError(f"{folder}: is no site's kit (no site.toml); it comes from `consilium provision`")
    return SiteKit(folder.resolve(), site_file.load(path))


def open_roster_book(kit: SiteKit) -> RosterBook:
    """Return the highest roster that this site saw: of its kit, or what the server handed on since.

    Raises:
        RosterError: neither is signed by the site's authority.
    """
    kit.state.mkdir(mode=0o700, exist_ok=True)
    book = RosterBook(kit.state / "roster.json", load_authority(kit.authority))
    given = read_bounded(kit.roster, MAX_ROSTER_BYTES)
    try:
        book.offer(given)
    except RosterError:
        book.current  # noqa: B018  raises where there is none; else the kit's is the older one
    return book
