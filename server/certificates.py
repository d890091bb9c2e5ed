"""The federation's certificates: one authority, kept offline, and short-lived ones for server and sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import UserError
from protocol.roster import SERVER, host_address

AUTHORITY_DAYS = 3650
_BEFORE = timedelta(hours=1)  # a clock that is slow believes a new certificate too


@dataclass(frozen=True)
class Authority:
    """Who signs certificates and rosters."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate


def new_authority(federation: str, now: float) -> Authority:
    """Return a new authority: a P-384 key and its own certificate, for ten years.

    Args:
        federation: its name.
        now: Unix time in seconds.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key()
    name = _subject(federation, "authority", federation)
    builder = _builder(name, name, public, now, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Authority(key, builder.sign(key, hashes.SHA384()))


def server_certificate(
    authority: Authority,
    public: ec.EllipticCurvePublicKey,
    federation: str,
    hosts: Sequence[str],
    now: float,
    days: int,
) -> x509.Certificate:
    """Return the server's TLS certificate, good for these DNS names and IP addresses only."""
    addresses = [(host, host_address(host)) for host in hosts]
    names: list[x509.GeneralName] = [
        x509.DNSName(host) if address is None else x509.IPAddress(address) for host, address in addresses
    ]
    subject = _subject(federation, "server", SERVER)
    return _leaf(authority, public, subject, names, (now, days), ExtendedKeyUsageOID.SERVER_AUTH)


def site_certificate(
    authority: Authority,
    public: ec.EllipticCurvePublicKey,
    federation: str,
    site: str,
    now: float,
    days: int,
) -> x509.Certificate:
    """Return a site's TLS certificate, by which it is known as a client."""
    names = [x509.UniformResourceIdentifier(f"consilium:{federation}:site:{site}")]
    subject = _subject(federation, "site", site)
    return _leaf(authority, public, subject, names, (now, days), ExtendedKeyUsageOID.CLIENT_AUTH)


def _leaf(
    authority: Authority,
    public: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    names: Sequence[x509.GeneralName],
    term: tuple[float, int],
    purpose: x509.ObjectIdentifier,
) -> x509.Certificate:
    """Return a certificate for ``term`` = (now, days), which must end before the authority's own."""
    issuer = authority.certificate
    now, days = term
    if issuer.not_valid_after_utc < _at(now) + timedelta(days=days):
        until = f"{issuer.not_valid_after_utc:%Y-%m-%d}"
        raise UserError(f"the authority's certificate ends on {until}: give fewer days, or start anew")
    builder = _builder(subject, issuer.subject, public, now, days)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(issuer_key, critical=False)
    return builder.sign(authority.key, hashes.SHA384())


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: float, days: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(_at(now) - _BEFORE).not_valid_after(_at(now) + timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _subject(federation: str, role: str, name: str) -> x509.Name:
    # The role keeps a site that is called as the federation from having the authority's own name.
    parts = [(NameOID.ORGANIZATION_NAME, federation), (NameOID.ORGANIZATIONAL_UNIT_NAME, role)]
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in [*parts, (NameOID.COMMON_NAME, name)]])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _at(now: float) -> datetime:
    return datetime.fromtimestamp(int(now), UTC)
