"""The roster: who takes part in a federation and by which keys, signed by its authority.

No party learns another's keys from the server: each holds the authority's certificate, compared by people,
and believes the roster of the highest epoch that the authority has signed.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from protocol.bounds import Count, Frozen, Name
from protocol.errors import RosterError

MAX_ROSTER_BYTES = 2**20
MAX_SITES = 1000
SERVER = "server"
RESERVED = frozenset({SERVER, "authority"})
_ROSTER_DOMAIN = b"consilium/roster/v1\0"
_DNS_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
UnixTime = Annotated[int, Field(ge=0, lt=2**40)]
Port = Annotated[int, Field(ge=1, le=65_535)]


def host_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that ``text`` writes, None for a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _host(text: str) -> str:
    address = host_address(text)
    if address is not None and ("%" in text or str(address) != text):
        raise ValueError("write the address in its short form, without a zone")
    if address is None and not _DNS_NAME.fullmatch(text):
        raise ValueError("is neither a DNS name in small letters nor an IP address")
    return text


def _node_key(text: str) -> str:
    try:
        key = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is not a public key in PEM") from None
    on_curve = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    if not on_curve or _pem(key) != text:
        raise ValueError("is not a P-384 key as Flower writes it")
    return text


Host = Annotated[str, StringConstraints(min_length=1, max_length=253), AfterValidator(_host)]
Hosts = Annotated[tuple[Host, ...], Field(min_length=1, max_length=32)]
NodeKey = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_node_key)]


def node_key_text(key: ec.EllipticCurvePublicKey) -> str:
    """Return a node's public key as Flower keeps it: SubjectPublicKeyInfo in PEM."""
    return _pem(key)


class SiteEntry(Frozen):
    """One site's keys.

    Attributes:
        name: of the site.
        tls_key: SHA-256 (hex) of the SubjectPublicKeyInfo of its TLS certificate.
        node_key: its P-384 public key for Flower's node authentication, in PEM.
        signing_key: its Ed25519 public key, in hex.
        max_examples: how many examples it may claim at most in one contribution; None: no cap.
    """

    name: Name
    tls_key: Hex32
    node_key: NodeKey
    signing_key: Hex32
    max_examples: Annotated[Count, Field(ge=1)] | None = None

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name.lower() in RESERVED:
            raise ValueError(f"'{name}' is no site's name")
        return name


class Roster(Frozen):
    """Who takes part. A higher ``epoch`` takes the place of a lower one; who is not in it is out.

    Attributes:
        federation: its name.
        epoch: 1, 2, ...
        issued_at: Unix time in seconds.
        expires_at: Unix time in seconds.
        server_signing_key: the server's Ed25519 public key, in hex.
        hosts: DNS names and IP addresses of the server.
        port: the one port that sites connect to.
        sites: in the order of the federation's file.
    """

    federation: Name
    epoch: int = Field(ge=1, lt=2**53)
    issued_at: UnixTime
    expires_at: UnixTime
    server_signing_key: Hex32
    hosts: Hosts
    port: Port
    sites: Annotated[tuple[SiteEntry, ...], Field(min_length=1, max_length=MAX_SITES)]

    @model_validator(mode="after")
    def _nothing_twice(self) -> Roster:
        if self.expires_at <= self.issued_at:
            raise ValueError("it expires before it is issued")
        # File systems that know no capital letters would give two such sites one folder.
        _unique("name", (site.name.lower() for site in self.sites))
        _unique("tls_key", (site.tls_key for site in self.sites))
        _unique("node_key", (site.node_key for site in self.sites))
        _unique("signing_key", [self.server_signing_key, *(site.signing_key for site in self.sites)])
        return self

    def site(self, name: str) -> SiteEntry | None:
        """Return the entry of a site, None if it has none."""
        return next((site for site in self.sites if site.name == name), None)

    def key_of(self, sender: str) -> bytes | None:
        """Return the Ed25519 public key of ``server`` or of a site, None for anybody else."""
        if sender == SERVER:
            return bytes.fromhex(self.server_signing_key)
        site = self.site(sender)
        return bytes.fromhex(site.signing_key) if site else None

    def has_expired(self, now: float) -> bool:
        """Whether it no longer holds at ``now`` (Unix time in seconds)."""
        return now > self.expires_at


class _Signed(Frozen):
    """The file: the roster's exact text, and a signature over it (DER, in hex)."""

    format: Literal["consilium-roster/1"]
    roster: Annotated[str, StringConstraints(max_length=MAX_ROSTER_BYTES)]
    signature: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){8,128}$")]


def sign_roster(roster: Roster, authority: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the file of ``roster``, signed with ECDSA and SHA-384.

    Raises:
        RosterError: it would be larger than anybody reads.
    """
    text = roster.model_dump_json()
    signature = authority.sign(_ROSTER_DOMAIN + text.encode(), ec.ECDSA(hashes.SHA384())).hex()
    signed = {"format": "consilium-roster/1", "roster": text, "signature": signature}
    data = json.dumps(signed, indent=1).encode() + b"\n"
    if len(data) > MAX_ROSTER_BYTES:
        raise RosterError(f"roster would have {len(data)} bytes, at most {MAX_ROSTER_BYTES} are read")
    return data


def open_roster(data: bytes, authority: ec.EllipticCurvePublicKey, federation: str | None = None) -> Roster:
    """Return the roster in a file. Whether it has expired is not asked here: see ``has_expired``.

    Args:
        data: the file.
        authority: its public key, from the certificate that people have compared.
        federation: whose roster it must be, if known.

    Raises:
        RosterError: it is too large, not signed by the authority, of another federation, or not well formed.
    """
    if len(data) > MAX_ROSTER_BYTES:
        raise RosterError(f"roster of {len(data)} bytes; at most {MAX_ROSTER_BYTES} are read")
    try:
        signed = _Signed.model_validate_json(data)
    except ValidationError:
        raise RosterError("roster is not a signed roster file") from None
    try:
        text = signed.roster.encode()
        authority.verify(bytes.fromhex(signed.signature), _ROSTER_DOMAIN + text, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, UnicodeEncodeError):
        raise RosterError(
            "roster is not signed by this authority: get it from whoever runs the authority"
        ) from None
    try:
        roster = Roster.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "roster"
        raise RosterError(f"roster: {where[:100]}: {first['msg']:.200}") from None
    if federation is not None and roster.federation != federation:
        raise RosterError(f"roster of federation '{roster.federation}', expected '{federation}'")
    return roster


def _pem(key: PublicKeyTypes) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(encoding, form).decode("ascii")


def _unique(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"two parties have the same {what}")
        seen.add(value)
