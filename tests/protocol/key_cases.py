"""An authority, sites and rosters with keys made for the test, and a child that is not root. Not a test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from protocol.roster import Roster, SiteEntry, node_key_text

NOBODY = 65534


def site(name: str, **changes: Any) -> SiteEntry:
    """A site with keys of its own."""
    seed = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    node = node_key_text(ec.generate_private_key(ec.SECP384R1()).public_key())
    return SiteEntry.model_validate(
        {"name": name, "tls_key": seed[::-1], "node_key": node, "signing_key": seed, **changes}
    )


def roster(epoch: int = 1, **changes: Any) -> Roster:
    """A roster of the federation clinic."""
    made = {
        "federation": "clinic",
        "epoch": epoch,
        "issued_at": 1_800_000_000,
        "expires_at": 1_807_000_000,
        "server_signing_key": "a" * 64,
        "hosts": ("fl.example.org", "10.0.0.5"),
        "port": 8443,
        "sites": (site("north"), site("south")),
    }
    return Roster.model_validate(made | changes)


def pem(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey, passphrase: bytes = b""
) -> bytes:
    """A private key's file."""
    secret = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)


def put(path: Path, data: bytes, mode: int = 0o600) -> Path:
    """Write a file with this mode."""
    path.write_bytes(data)
    path.chmod(mode)
    return path


def as_nobody(action: Callable[[], object]) -> str:
    """What an action raises in a child process without rights, as ``Type: message``, "" for nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        said = ""
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            action()
        except BaseException as error:  # noqa: BLE001
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
