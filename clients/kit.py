"""A site's kit, and where a running site keeps what it must not lose. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from clients import site_file
from clients.site_file import SiteConfig
from protocol.errors import ConfigError, RosterError, UserError
from protocol.files import read_bounded
from protocol.keys import load_certificate
from protocol.roster import MAX_ROSTER_BYTES
from protocol.roster_book import RosterBook


@dataclass(frozen=True)
class SiteKit:
    """A folder that ``consilium provision`` made for a site, with its ``site.toml`` filled in."""

    folder: Path
    config: SiteConfig

    @property
    def site_toml(self) -> Path:
        """What the institution says of its site."""
        return self.folder / "site.toml"

    @property
    def authority(self) -> Path:
        """The authority's certificate: the one that the site trusts."""
        return self.folder / "authority.pem"

    @property
    def certificate(self) -> Path:
        """The site's TLS certificate."""
        return self.folder / "tls.pem"

    @property
    def key(self) -> Path:
        """Its key."""
        return self.folder / "tls.key"

    @property
    def node_key(self) -> Path:
        """The key of the site's Flower node."""
        return self.folder / "node.key"

    @property
    def signing_key(self) -> Path:
        """The key that signs what the site says."""
        return self.folder / "signing.key"

    @property
    def state(self) -> Path:
        """The folder of what a running site keeps."""
        return self.folder / "state"

    @property
    def logs(self) -> Path:
        """The folder of the processes' logs."""
        return self.state / "logs"

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
    key = load_certificate(kit.authority).public_key()
    if not isinstance(key, EllipticCurvePublicKey):
        raise UserError(f"{kit.authority}: is no authority's certificate")
    book = RosterBook(kit.state / "roster.json", key)
    given = read_bounded(kit.folder / "roster.json", MAX_ROSTER_BYTES)
    try:
        book.offer(given)
    except RosterError:
        book.current  # noqa: B018  raises where there is none; else the kit's is the older one
    return book
