"""Keys of a kit: only from files of their owner's alone, only of the kind that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from protocol import files, keys
from protocol.errors import UserError
from server.certificates import new_authority, site_certificate
from tests.protocol.key_cases import as_nobody, pem, put

NOW = 1_800_000_000.0
DAY = 86_400
SIGNING = ed25519.Ed25519PrivateKey.generate()
P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())


def certificate(days: int = 90, now: float = NOW) -> x509.Certificate:
    """A site's certificate."""
    return site_certificate(new_authority("clinic", NOW), P256.public_key(), "clinic", "north", now, days)


def test_keys_are_loaded(tmp_path: Path) -> None:
    """Each kind comes back from its file."""
    loaded = keys.load_signing_key(put(tmp_path / "s", pem(SIGNING)))
    assert keys.public_bytes(loaded) == keys.public_bytes(SIGNING.public_key())
    assert keys.load_node_key(put(tmp_path / "n", pem(P384))).public_key() == P384.public_key()
    assert keys.load_tls_key(put(tmp_path / "t", pem(P256), 0o400)).public_key() == P256.public_key()


def test_another_kind_is_refused(tmp_path: Path) -> None:
    """A key of another kind is not used, whatever the file is called."""
    big = rsa.generate_private_key(65537, 2048)
    for key in (P384, P256, big):
        with pytest.raises(UserError, match="Ed25519"):
            keys.load_signing_key(put(tmp_path / "k", pem(key)))
    for other in (SIGNING, P256, big):
        with pytest.raises(UserError, match="secp384r1"):
            keys.load_node_key(put(tmp_path / "k", pem(other)))
    with pytest.raises(UserError, match="secp256r1"):
        keys.load_tls_key(put(tmp_path / "k", pem(P384)))


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o666, 0o644])
def test_a_shared_key_is_refused(tmp_path: Path, mode: int) -> None:
    """A key that others can read or write is no secret; the message says what to do."""
    with pytest.raises(UserError, match="chmod 600"):
        keys.load_signing_key(put(tmp_path / "k", pem(SIGNING), mode))


def test_only_small_files_are_read(tmp_path: Path) -> None:
    """Links, folders, pipes' like, missing, huge, encrypted and foreign files are refused in one line."""
    path = put(tmp_path / "k", pem(SIGNING))
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UserError, match="symbolic link"):
        keys.load_signing_key(tmp_path / "link")
    with pytest.raises(UserError, match="regular file"):
        keys.load_signing_key(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        keys.load_signing_key(tmp_path / "none")
    with pytest.raises(UserError, match="more than 65536 bytes"):
        keys.load_signing_key(put(path, b" " * (keys.MAX_PEM_BYTES + 1)))
    with pytest.raises(UserError, match="is encrypted"):
        keys.load_signing_key(put(path, pem(SIGNING, b"a passphrase")))
    for data in (b"", b"\0", pem(SIGNING)[:-40]):
        with pytest.raises(UserError, match="not a private key"):
            keys.load_signing_key(put(path, data))


def test_an_unreadable_key_is_said(tmp_path: Path) -> None:
    """A process that may not read the key says which file."""
    tmp_path.chmod(0o755)
    path = put(tmp_path / "k", pem(SIGNING))
    said = as_nobody(lambda: keys.load_signing_key(path))
    assert said == f"UserError: {path}: cannot be read (Permission denied)"


def test_the_authoritys_key_needs_its_passphrase(tmp_path: Path) -> None:
    """It comes back with its passphrase, not with another, and its file shows neither."""
    path = put(tmp_path / "k", keys.lock_authority_key(P384, b"correct horse battery"))
    assert b"ENCRYPTED" in path.read_bytes()
    assert keys.load_authority_key(path, b"correct horse battery").public_key() == P384.public_key()
    with pytest.raises(UserError, match="passphrase is wrong"):
        keys.load_authority_key(path, b"correct horse batterz")
    with pytest.raises(UserError, match="not the key of an authority"):
        keys.load_authority_key(put(path, pem(P384, b"correct horse battery")), b"correct horse battery")


def test_certificates_are_named(tmp_path: Path) -> None:
    """A fingerprint is 16 groups of four, and the key's digest outlives a renewal."""
    one, other = certificate(), certificate(30)
    print_ = keys.fingerprint(one)
    assert [len(group) for group in print_.split(" ")] == [4] * 16
    assert print_ != keys.fingerprint(other)
    assert keys.spki_digest(one) == keys.spki_digest(other) == keys.spki_digest(P256.public_key())
    data = one.public_bytes(keys.serialization.Encoding.PEM)
    assert keys.load_certificate(put(tmp_path / "c", data, 0o644)) == one
    for bad in (b"", data + data, b"\0", pem(P256)):
        with pytest.raises(UserError):
            keys.load_certificate(put(tmp_path / "c", bad))


@pytest.mark.parametrize(
    ("days", "says"),
    [
        (90, None),
        (21.1, None),
        (21, "the certificate expires in 21 days"),
        (7, "soon: the certificate expires in 7 days"),
        (1, "urgent: the certificate expires in 1 day,"),
        (0.01, "urgent: the certificate expires in 1 day,"),
        (0, "the certificate expired on"),
        (-5, "the certificate expired on"),
        (90.5, "does not hold yet"),
    ],
)
def test_an_end_is_announced(days: float, says: str | None) -> None:
    """Three weeks, one week and one day before, and afterwards."""
    one = certificate(90)
    now = NOW + (90 - days) * DAY
    assert keys.days_left(one, now) == pytest.approx(days)
    said = keys.expiry_warning(one, now)
    assert (said is None) if says is None else (said is not None and says in said)


def test_a_new_file_is_new(tmp_path: Path) -> None:
    """A secret is never written into a file or a link that is there already."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (put(tmp_path / "there", b""), tmp_path / "link"):
        with pytest.raises(OSError, match="exists"):
            files.write_new(path, b"secret")
    assert not (tmp_path / "elsewhere").exists()
