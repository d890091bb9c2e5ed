"""Two parties with keys and a clock that the test sets. Not a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.seal import Seal, Signer, Verifier

PARTS = (b"1", b"Assignment", b'{"round":3}', b"\x01\x00", b"arrays", b"")
ABOUT = {"run": "r1", "task": "r1/3/tumour/north/1", "kind": "train.weights"}


@dataclass
class World:
    """A server and the sites north and south, whose keys are derived from their names."""

    now: float = 1_800_000_000.0
    epoch: int = 3
    known: set[str] = field(default_factory=lambda: {"server", "north", "south"})

    def key(self, name: str) -> Ed25519PrivateKey:
        """The party's key."""
        return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"-"))

    def key_of(self, name: str) -> bytes | None:
        """The party's public key, if it is in the roster."""
        return self.key(name).public_key().public_bytes_raw() if name in self.known else None

    def signer(self, name: str = "server", federation: str = "clinic") -> Signer:
        """What the party signs with."""
        return Signer(federation, name, self.key(name), lambda: self.epoch, lambda: self.now)

    def verifier(self, name: str = "north", federation: str = "clinic", **more: Any) -> Verifier:
        """What the party verifies with."""
        return Verifier(federation, name, self.key_of, lambda: self.epoch, lambda: self.now, **more)

    def sealed(self, parts: Sequence[bytes] = PARTS, **changes: Any) -> Seal:
        """A message of the server to north."""
        return self.signer().seal(parts, **{**ABOUT, "recipient": "north", **changes})
