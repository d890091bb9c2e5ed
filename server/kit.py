"""The server's kit, and where a running server keeps what it must not lose."""

from __future__ import annotations

import grp
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from collab.toml_file import parse_toml, read_text, validate
from protocol.bounds import Frozen, Name
from protocol.errors import ConfigError
from protocol.keys import load_authority, load_certificate, load_signing_key, load_tls_key, public_bytes
from protocol.kit_files import KitFiles
from protocol.roster import Hosts, Port
from protocol.roster_book import RosterBook

ENVIRONMENT = "CONSILIUM_KIT"
DEFAULT = Path("kits/server")


class ServerConfig(Frozen):
    """The file ``server.toml``.

    Attributes:
        name: the federation.
        hosts: under which names sites reach the server.
        port: the one public port.
        bind: the address to listen on; all of the machine's, unless told.
        runs: the folder of the runs, beside the kit's own unless absolute.
        group: the operators' group on this machine: who may submit, stop and look.
        max_reply_mib: the largest answer of a site that is taken.
        data: the folders, beside the kit's own unless absolute, of public sets and imported teachers; a run
            may read nothing else of this machine.
        journal: the URL of a PostgreSQL database for the runs' journals; without it each run has a file.
    """

    name: Name
    hosts: Hosts
    port: Port
    bind: str = "0.0.0.0"  # noqa: S104  a server that sites must reach; the door asks for certificates
    runs: str = "runs"
    group: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None
    max_reply_mib: float = Field(4096, gt=0, le=65_536)
    data: tuple[str, ...] = Field(("data",), max_length=32)
    journal: Annotated[str, Field(max_length=1000)] | None = None


@dataclass(frozen=True)
class ServerKit(KitFiles):
    """A folder that ``consilium provision`` made for the server."""

    config: ServerConfig

    @property
    def orders(self) -> Path:
        """The folder of the order book."""
        return self.state / "orders"

    @property
    def runs(self) -> Path:
        """The folder of the runs."""
        return self.folder / self.config.runs

    @property
    def contact(self) -> Path:
        """Where a running server says how it is reached on loopback, and with which secret."""
        return self.state / "contact.json"


def load_kit(folder: Path) -> ServerKit:
    """Return the kit in ``folder``.

    Raises:
        ConfigError: it is none, or a value in its server.toml is wrong.
    """
    path = folder / "server.toml"
    if not path.is_file():
        raise ConfigError(f"{folder}: is no server's kit (no server.toml); make one: consilium provision")
    return ServerKit(
        folder.resolve(), validate(ServerConfig, parse_toml(read_text(path), str(path)), str(path))
    )


def default_kit() -> Path:
    """Return the kit that commands speak to, unless told: $CONSILIUM_KIT, else kits/server."""
    return Path(os.environ.get(ENVIRONMENT, DEFAULT))


def open_roster_book(kit: ServerKit) -> RosterBook:
    """Return the roster in force, as the kit's authority signed it."""
    return RosterBook(kit.roster, load_authority(kit.authority), kit.config.name)


def make_folders(kit: ServerKit) -> None:
    """Make the folders of a running server; what is there stays."""
    for folder in (kit.state, kit.orders, kit.logs):
        folder.mkdir(mode=0o700, exist_ok=True)
    kit.runs.mkdir(mode=0o700, parents=True, exist_ok=True)


def group_id(name: str | None) -> int | None:
    """Return the number of the operators' group, None where none is named.

    Raises:
        ConfigError: this machine has no such group.
    """
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"group = '{name}': this machine has no such group") from None


def check_kit(kit: ServerKit) -> None:
    """Check that the keys are private, and that they and the roster fit together.

    Raises:
        UserError: a file is missing, no key, or can be read by others.
        ConfigError: the keys are not those that the roster names.
        RosterError: the roster is not the authority's.
    """
    roster = open_roster_book(kit).current
    signing, tls = load_signing_key(kit.signing_key), load_tls_key(kit.key)
    if load_certificate(kit.certificate).public_key() != tls.public_key():
        raise ConfigError(f"{kit.folder}: tls.key and tls.pem do not fit; copy the whole kit again")
    if roster.server_signing_key != public_bytes(signing).hex():
        raise ConfigError(
            f"{kit.folder}: the roster of epoch {roster.epoch} names another signing key: "
            "copy the whole kit again"
        )
