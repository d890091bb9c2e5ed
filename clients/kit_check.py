"""A site's kit, looked through before anything is started: what is wrong is said at the terminal."""

from __future__ import annotations

from clients.kit import SiteKit, open_roster_book
from protocol.errors import ConfigError
from protocol.keys import (
    load_certificate,
    load_node_key,
    load_signing_key,
    load_tls_key,
    public_bytes,
    spki_digest,
)
from protocol.roster import node_key_text

# When the files that a new kit brings were last changed.
Stamp = tuple[int, ...]


def stamp_of(kit: SiteKit) -> Stamp:
    """Return the stamp of a kit; 0 stands for a file that is not there."""
    files = (kit.certificate, kit.key, kit.node_key, kit.signing_key, kit.folder / "roster.json")
    found = []
    for file in files:
        try:
            found.append(file.stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return tuple(found)


def check_kit(kit: SiteKit) -> None:
    """Check that keys are private, and that they, the certificate, the name and the roster fit together.

    Raises:
        UserError: a file is missing, no key, or can be read by others.
        ConfigError: they are of different sites, or the roster does not name this one (any more).
        RosterError: the roster is not the authority's.
    """
    name, roster = kit.config.name, open_roster_book(kit).current
    signing, node, tls = (
        load_signing_key(kit.signing_key),
        load_node_key(kit.node_key),
        load_tls_key(kit.key),
    )
    certificate = load_certificate(kit.certificate)
    entry = next((site for site in roster.sites if site.tls_key == spki_digest(certificate)), None)
    if entry is None:
        raise ConfigError(
            f"{kit.folder}: the roster of epoch {roster.epoch} does not name this kit's keys: it was "
            "replaced or revoked; ask who runs the authority for a new one"
        )
    if entry.name != name:
        raise ConfigError(f"{kit.site_toml}: name = '{name}', but this is the kit of '{entry.name}'")
    if (
        certificate.public_key() != tls.public_key()
        or entry.signing_key != public_bytes(signing).hex()
        or entry.node_key != node_key_text(node.public_key())
    ):
        raise ConfigError(f"{kit.folder}: its keys are of different kits; copy the whole kit again")
