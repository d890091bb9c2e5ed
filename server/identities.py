"""Who a party is: its public keys, and the private ones where they have just been made.

A renewal needs no private key of a party, so the kits can be taken off the machine of the authority.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from protocol.errors import UserError
from protocol.keys import (
    load_certificate,
    load_node_key,
    load_signing_key,
    load_tls_key,
    public_bytes,
    spki_digest,
)
from protocol.roster import SERVER, Roster, node_key_text

TLS_KEY, NODE_KEY, SIGNING_KEY = "tls.key", "node.key", "signing.key"
State = Literal["new", "renewed", "rekeyed"]
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Identity:
    """A party and its keys.

    Attributes:
        name: a site's, or ``server``.
        state: how it comes to its keys.
        tls: the public key of its TLS certificate.
        node: its public key for Flower's node authentication in PEM, "" for the server.
        signing: its Ed25519 public key in hex.
        private: file names and PEM of private keys that were made now.
    """

    name: str
    state: State
    tls: ec.EllipticCurvePublicKey
    node: str
    signing: str
    private: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def new_identity(name: str, state: State) -> Identity:
    """Return a party with new keys, none of which it had before."""
    tls = ec.generate_private_key(ec.SECP256R1())
    signing = ed25519.Ed25519PrivateKey.generate()
    private = {TLS_KEY: _pem(tls), SIGNING_KEY: _pem(signing)}
    node = ""
    if name != SERVER:
        key = ec.generate_private_key(ec.SECP384R1())
        private[NODE_KEY], node = _pem(key), node_key_text(key.public_key())
    return Identity(name, state, tls.public_key(), node, public_bytes(signing).hex(), private)


def kept_identity(name: str, roster: Roster, issued: Path, kit: Path) -> Identity:
    """Return a party that keeps its keys.

    Args:
        name: a site's, or ``server``; it is in the roster.
        roster: the last one, which has its public keys.
        issued: its last TLS certificate.
        kit: its kit folder, where private keys that are still there must be those of the roster.

    Raises:
        UserError: the certificate is missing, or a key is another one.
    """
    certificate = load_certificate(issued)
    site = roster.site(name)
    node, signing = (site.node_key, site.signing_key) if site else ("", roster.server_signing_key)
    tls = certificate.public_key()
    wrong = f"is not what the roster of epoch {roster.epoch} says; put it back, or give --rekey {name}"
    if not isinstance(tls, ec.EllipticCurvePublicKey) or (site and spki_digest(certificate) != site.tls_key):
        raise UserError(f"{issued}: {wrong}")
    for file in _other_keys(kit, certificate, node, signing):
        raise UserError(f"{file}: {wrong}")
    return Identity(name, "renewed", tls, node, signing)


def _other_keys(kit: Path, certificate: x509.Certificate, node: str, signing: str) -> list[Path]:
    """Return the private keys in a kit that do not belong to these public ones."""
    found = []
    tls = spki_digest(certificate)
    if (path := kit / TLS_KEY).exists() and spki_digest(load_tls_key(path).public_key()) != tls:
        found.append(path)
    if (path := kit / NODE_KEY).exists() and node_key_text(load_node_key(path).public_key()) != node:
        found.append(path)
    if (path := kit / SIGNING_KEY).exists() and public_bytes(load_signing_key(path)).hex() != signing:
        found.append(path)
    return found


def _pem(key: PrivateKey) -> bytes:
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain)
