"""Kits for the parties of a federation: keys, certificates and the signed roster, made anew or renewed.

The authority's folder stays offline; each other folder is what one party gets, and no more than it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from collab import plugins
from protocol.errors import ConfigError, RosterError, RunError, UserError
from protocol.files import read_bounded, read_private
from protocol.keys import (
    MAX_PEM_BYTES,
    fingerprint,
    load_authority_key,
    load_certificate,
    lock_authority_key,
    spki_digest,
)
from protocol.roster import MAX_ROSTER_BYTES, SERVER, Roster, SiteEntry, open_roster, sign_roster
from server import kits
from server.certificates import Authority, new_authority, server_certificate, site_certificate
from server.federation_file import FederationFile
from server.identities import (
    NODE_KEY,
    SIGNING_KEY,
    TLS_KEY,
    Identity,
    State,
    kept_identity,
    new_identity,
)
from server.staging import finish, locked, publish

AUTHORITY = "authority"
_KEY, _CERTIFICATE, _ROSTER = "authority.key", "authority.pem", "roster.json"
_LAST = f"{AUTHORITY}/{_ROSTER}"
_DAY_S = 86_400


@dataclass(frozen=True)
class Kit:
    """What became of one party.

    Attributes:
        name: a site's, or ``server``.
        folder: its kit.
        state: what was done.
        until: when its certificate ends, an ISO date; None where it is revoked.
    """

    name: str
    folder: Path
    state: State | Literal["revoked"]
    until: str | None


@dataclass(frozen=True)
class Provisioned:
    """What was written.

    Attributes:
        federation: its name.
        epoch: of the new roster.
        fingerprint: of the authority's certificate.
        authority: the folder to keep offline.
        kits: one for each party, the server first, those that are revoked last.
        notes: what a person should know or do.
    """

    federation: str
    epoch: int
    fingerprint: str
    authority: Path
    kits: tuple[Kit, ...]
    notes: tuple[str, ...]


def provision(
    federation: FederationFile,
    out: Path,
    passphrase: Callable[[bool], bytes],
    *,
    rekey: Sequence[str] = (),
    now: float,
) -> Provisioned:
    """Write the kits of a federation to ``out``; again on the same folder: renew them, with the next epoch.

    Args:
        federation: who takes part.
        out: the folder of all kits.
        passphrase: gives the passphrase of the authority's key; it is told whether that is a new one.
        rekey: parties that get new keys.
        now: Unix time in seconds.

    Raises:
        UserError: the folder is not what an earlier run left, or the passphrase is wrong.
        RunError: a file cannot be written; the next run finishes or undoes this one.
    """
    try:
        with locked(out):
            finish(out, _LAST, kits.FILLED_IN)
            return _provision(federation, out, passphrase, rekey, now)
    except OSError as error:
        raise RunError(
            f"{error.filename or out}: cannot be written ({error.strerror}); run it again"
        ) from None


def _provision(
    federation: FederationFile,
    out: Path,
    passphrase: Callable[[bool], bytes],
    rekey: Sequence[str],
    now: float,
) -> Provisioned:
    _refuse_links(out, [AUTHORITY, SERVER, *federation.sites])
    authority, key_file = _authority(federation, out, passphrase, now)
    last = None if key_file else _last_roster(out, authority)
    if last and last.federation != federation.name:
        raise ConfigError(f"{out}: holds federation '{last.federation}', not '{federation.name}'")
    identities = [_identity(name, last, out, rekey) for name in _names(federation, last, rekey)]
    roster = _roster(federation, identities, last, now)
    signed = sign_roster(roster, authority.key)
    certificates = {one.name: _certificate(authority, one, federation, now) for one in identities}
    files = dict(key_file)
    for one in identities:
        files |= _kit_files(federation, one, (authority.certificate, certificates[one.name]), signed, out)
    files[f"{AUTHORITY}/{_CERTIFICATE}"] = _pem(authority.certificate)
    files[_LAST] = signed
    publish(out, files, _LAST, kits.FILLED_IN)
    made = [_kit(one.name, out, one.state, certificates[one.name]) for one in identities]
    gone = [site.name for site in (last.sites if last else ()) if site.name not in federation.sites]
    return Provisioned(
        federation=federation.name,
        epoch=roster.epoch,
        fingerprint=fingerprint(authority.certificate),
        authority=out / AUTHORITY,
        kits=(*made, *(_kit(name, out, "revoked", None) for name in gone)),
        notes=_notes(gone, last, roster, out),
    )


def _authority(
    federation: FederationFile, out: Path, passphrase: Callable[[bool], bytes], now: float
) -> tuple[Authority, dict[str, bytes]]:
    """Return the authority in the folder; or a new one, and the file of its key."""
    folder = out / AUTHORITY
    if (folder / _KEY).exists():
        key = load_authority_key(folder / _KEY, passphrase(False))
        certificate = load_certificate(folder / _CERTIFICATE)
        if certificate.public_key() != key.public_key():
            raise UserError(f"{folder}: {_KEY} and {_CERTIFICATE} do not belong together")
        return Authority(key, certificate), {}
    if folder.exists() or any(out.glob(f"*/{_ROSTER}")):
        raise UserError(f"{folder / _KEY}: is missing; put the authority's folder back, or give a new folder")
    authority = new_authority(federation.name, now)
    return authority, {f"{AUTHORITY}/{_KEY}": lock_authority_key(authority.key, passphrase(True))}


def _last_roster(out: Path, authority: Authority) -> Roster:
    """Return the roster of the highest epoch in any folder: the authority's may be an old copy."""
    found = []
    for path in [out / _LAST, *sorted(set(out.glob(f"*/{_ROSTER}")) - {out / _LAST})]:
        try:
            found.append(open_roster(read_bounded(path, MAX_ROSTER_BYTES), authority.key.public_key()))
        except RosterError as error:
            raise UserError(f"{path}: {error}") from None
    return max(found, key=lambda roster: roster.epoch)


def _names(federation: FederationFile, last: Roster | None, rekey: Sequence[str]) -> list[str]:
    """Return all parties; raise ``ConfigError`` for one that has no keys yet and is to get new ones."""
    names = [SERVER, *federation.sites]
    had = [name for name in names if last and (name == SERVER or last.site(name))]
    for name in rekey:
        if name not in had:
            raise ConfigError(f"--rekey {name}: {plugins.unknown('party', name, had)}")
    return names


def _identity(name: str, last: Roster | None, out: Path, rekey: Sequence[str]) -> Identity:
    if last is None or (name != SERVER and last.site(name) is None):
        return new_identity(name, "new")
    if name in rekey:
        return new_identity(name, "rekeyed")
    return kept_identity(name, last, out / _issued(name), out / name)


def _roster(
    federation: FederationFile, identities: Sequence[Identity], last: Roster | None, now: float
) -> Roster:
    server, *sites = identities
    return Roster(
        federation=federation.name,
        epoch=last.epoch + 1 if last else 1,
        issued_at=int(now),
        expires_at=int(now) + federation.days * _DAY_S,
        server_signing_key=server.signing,
        hosts=federation.server.hosts,
        port=federation.server.port,
        sites=tuple(
            SiteEntry(
                name=site.name,
                tls_key=spki_digest(site.tls),
                node_key=site.node,
                signing_key=site.signing,
                max_examples=federation.sites[site.name].max_examples,
            )
            for site in sites
        ),
    )


def _certificate(
    authority: Authority, one: Identity, federation: FederationFile, now: float
) -> x509.Certificate:
    name, days = federation.name, federation.days
    if one.name == SERVER:
        return server_certificate(authority, one.tls, name, federation.server.hosts, now, days)
    return site_certificate(authority, one.tls, name, one.name, now, days)


def _kit_files(
    federation: FederationFile,
    one: Identity,
    certificates: tuple[x509.Certificate, x509.Certificate],
    roster: bytes,
    out: Path,
) -> dict[str, bytes]:
    """Return what is to be written for one party; ``certificates`` are the authority's and its own."""
    authority, own = certificates
    files = {**one.private, _CERTIFICATE: _pem(authority), "tls.pem": _pem(own), _ROSTER: roster}
    if one.name == SERVER:
        files[kits.SERVER_TOML] = kits.server_toml(federation)
    else:
        files[kits.SITE_TOML] = kits.site_toml(federation, one.name)
        files["fingerprint.txt"] = kits.fingerprint_text(federation.name, fingerprint(authority))
    files[kits.SUMS] = kits.sums(_private_files(out / one.name) | files)
    return {f"{one.name}/{name}": data for name, data in files.items()} | {_issued(one.name): _pem(own)}


def _private_files(kit: Path) -> dict[str, bytes]:
    """Return the private keys that lie in a kit already."""
    paths = [kit / name for name in (TLS_KEY, NODE_KEY, SIGNING_KEY)]
    return {path.name: read_private(path, MAX_PEM_BYTES) for path in paths if path.exists()}


def _notes(gone: Sequence[str], last: Roster | None, roster: Roster, out: Path) -> tuple[str, ...]:
    notes = [f"{name} is revoked: {out / name} is left as it is, no party accepts its keys" for name in gone]
    if last and (last.hosts, last.port) != (roster.hosts, roster.port):
        notes.append(
            "the server's hosts or port have changed: see to [server] in each site.toml, and to server.toml"
        )
    return tuple(notes)


def _kit(
    name: str, out: Path, state: State | Literal["revoked"], certificate: x509.Certificate | None
) -> Kit:
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d}" if certificate else None
    return Kit(name, out / name, state, until)


def _refuse_links(out: Path, names: Sequence[str]) -> None:
    for path in (out / name for name in names):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise UserError(f"{path}: is not a folder of its own; move it away")


def _issued(name: str) -> str:
    return f"{AUTHORITY}/certificates/{name}.pem"


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
