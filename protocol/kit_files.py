"""The files that every party's kit has, whoever it is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KitFiles:
    """A folder that ``consilium provision`` made for one party."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The authority's certificate: the one that its party trusts."""
        return self.folder / "authority.pem"

    @property
    def certificate(self) -> Path:
        """The party's TLS certificate."""
        return self.folder / "tls.pem"

    @property
    def key(self) -> Path:
        """Its key."""
        return self.folder / "tls.key"

    @property
    def signing_key(self) -> Path:
        """The key that signs what the party says."""
        return self.folder / "signing.key"

    @property
    def roster(self) -> Path:
        """The roster that came with the kit, signed by the authority."""
        return self.folder / "roster.json"

    @property
    def state(self) -> Path:
        """The folder of what the running party keeps."""
        return self.folder / "state"

    @property
    def logs(self) -> Path:
        """The folder of its processes' logs."""
        return self.state / "logs"
