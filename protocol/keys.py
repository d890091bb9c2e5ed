"""Keys and certificates of a kit: loaded from PEM files that only their owner can read, and named.

A private key never stands in a message, a log or a repr.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from protocol.errors import UserError
from protocol.files import read_bounded, read_private

MAX_PEM_BYTES = 64 * 1024
_DAY_S = 86_400
_STRETCHED = b"consilium-scrypt-1"  # the label stands for the cost below
_SCRYPT_N = 2**17
_WARN_DAYS: Final = (1, 7, 21)


def load_signing_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """Return the Ed25519 key that seals messages (``signing.key``).

    Raises:
        UserError: the file is missing, too long, a link, readable or writable by others, or no such key.
    """
    key = _load(path)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UserError(f"{path}: is not an Ed25519 key")
    return key


def load_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the P-384 key of Flower's node authentication (``node.key``); raises as ``load_signing_key``."""
    return _on_curve(_load(path), ec.SECP384R1, path)


def load_tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key of a TLS certificate (``tls.key``); raises as ``load_signing_key``."""
    return _on_curve(_load(path), ec.SECP256R1, path)


def load_authority_key(path: Path, passphrase: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the authority's P-384 key; raises as ``load_signing_key``, also for a wrong passphrase."""
    first, _, pem = read_private(path, MAX_PEM_BYTES).partition(b"\n")
    label, _, salt = first.partition(b" ")
    if label != _STRETCHED or not re.fullmatch(rb"[0-9a-f]{64}", salt):
        raise UserError(f"{path}: is not the key of an authority that was made here")
    return _on_curve(_parse(pem, _stretch(passphrase, salt), path), ec.SECP384R1, path)


def lock_authority_key(key: ec.EllipticCurvePrivateKey, passphrase: bytes) -> bytes:
    """Return the file of the authority's key: a line with a salt, and PKCS #8 in PEM under the passphrase.

    The passphrase is stretched with scrypt (RFC 7914; 128 MiB, half a second): PKCS #8 as OpenSSL writes it
    does 2,048 rounds of PBKDF2, which a graphics card tries by the million.
    """
    salt = secrets.token_hex(32).encode()
    secret = serialization.BestAvailableEncryption(_stretch(passphrase, salt))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    return _STRETCHED + b" " + salt + b"\n" + pem


def load_certificate(path: Path) -> x509.Certificate:
    """Return the one certificate in a PEM file.

    Raises:
        UserError: the file is missing, too long, or not one certificate.
    """
    data = read_bounded(path, MAX_PEM_BYTES)
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise UserError(f"{path}: is not a certificate in PEM") from None
    if len(found) != 1:
        raise UserError(f"{path}: holds {len(found)} certificates, expected one")
    return found[0]


def load_authority(path: Path) -> ec.EllipticCurvePublicKey:
    """Return the public key in the authority's certificate; raises as ``load_certificate``."""
    key = load_certificate(path).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UserError(f"{path}: is no authority's certificate")
    return key


def public_bytes(key: ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey) -> bytes:
    """Return the 32 bytes of an Ed25519 public key."""
    public = key.public_key() if isinstance(key, ed25519.Ed25519PrivateKey) else key
    return public.public_bytes_raw()


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate as people compare it: 16 groups of four hexadecimal digits."""
    text = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest().upper()
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


def spki_digest(holder: x509.Certificate | PublicKeyTypes) -> str:
    """Return the SHA-256 (hex) of a key's SubjectPublicKeyInfo; a certificate's is the same when renewed."""
    key = holder.public_key() if isinstance(holder, x509.Certificate) else holder
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(encoding, form)).hexdigest()


def days_left(certificate: x509.Certificate, now: float) -> float:
    """Return for how many days a certificate still holds, negative once it has expired.

    Args:
        certificate: any.
        now: Unix time in seconds.
    """
    return (certificate.not_valid_after_utc.timestamp() - now) / _DAY_S


def expiry_warning(certificate: x509.Certificate, now: float) -> str | None:
    """Return one line on a certificate that has expired, soon will, or does not hold yet; else None.

    Args:
        certificate: any.
        now: Unix time in seconds.
    """
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    renew = "run `consilium provision` again and install the new kit"
    if now < certificate.not_valid_before_utc.timestamp():
        return "the certificate does not hold yet: check this machine's clock"
    days = days_left(certificate, now)
    if days <= 0:
        return f"the certificate expired on {until}: {renew}"
    limit = next((limit for limit in _WARN_DAYS if days <= limit), None)
    if limit is None:
        return None
    left = math.ceil(days)
    how = {1: "urgent: ", 7: "soon: "}.get(limit, "")
    return f"{how}the certificate expires in {left} day{'s' * (left > 1)}, on {until}: {renew}"


def _load(path: Path) -> object:
    return _parse(read_private(path, MAX_PEM_BYTES), None, path)


def _parse(pem: bytes, secret: bytes | None, path: Path) -> object:
    try:
        return serialization.load_pem_private_key(pem, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        else_ = "is encrypted" if secret is None else "the passphrase is wrong"
        raise UserError(f"{path}: is not a private key in PEM, or {else_}") from None


def _stretch(passphrase: bytes, salt: bytes) -> bytes:
    stretched = hashlib.scrypt(passphrase, salt=salt, n=_SCRYPT_N, r=8, p=1, maxmem=2**28, dklen=32)
    return stretched.hex().encode()


def _on_curve(key: object, curve: type[ec.EllipticCurve], path: Path) -> ec.EllipticCurvePrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, curve):
        raise UserError(f"{path}: is not a key on the curve {curve.name}")
    return key
