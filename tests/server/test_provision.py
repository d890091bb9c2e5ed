"""Kits: what each party gets, what renewal keeps, and that a run that is cut off does no harm."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from time import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from clients.site import SiteConfig
from collab.settings import parse_toml, read_text
from protocol import keys
from protocol.errors import ConfigError, RunError, UserError
from protocol.roster import Roster, node_key_text, open_roster
from server import passphrase as passphrases
from server import staging
from server.federation_file import FederationFile, read_federation
from server.provision import Provisioned, provision
from tests.command import Command, assert_one_line, command
from tests.protocol.key_cases import put

PASSPHRASE = b"correct horse battery"
NOW = 1_800_000_000.0
__all__ = ["command"]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The passphrase is stretched less, and the umask is as careless as it can be."""
    monkeypatch.setattr(keys, "_SCRYPT_N", 2**10)
    before = os.umask(0)
    yield
    os.umask(before)


def federation(*sites: str, **changes: object) -> FederationFile:
    """A federation of these sites."""
    server = {"hosts": ["fl.example.org", "10.0.0.5"], "port": 8443}
    made = {"name": "clinic", "sites": list(sites or ("north", "south")), "server": server}
    return FederationFile.model_validate(made | changes)


def kits(
    out: Path, *sites: str, rekey: tuple[str, ...] = (), now: float = NOW, **changes: object
) -> Provisioned:
    """Provision into ``out``."""
    return provision(federation(*sites, **changes), out, lambda new: PASSPHRASE, rekey=rekey, now=now)


def roster_of(out: Path, folder: str) -> Roster:
    """The roster in a folder, verified by the authority's certificate there."""
    public = keys.load_certificate(out / folder / "authority.pem").public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return open_roster((out / folder / "roster.json").read_bytes(), public, "clinic")


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_each_party_gets(tmp_path: Path) -> None:
    """A kit holds its party's keys and nobody else's; all of it is its owner's alone, whatever the umask."""
    out = tmp_path / "kits"
    made = kits(out)
    common = {"authority.pem", "tls.key", "tls.pem", "signing.key", "roster.json", "SHA256SUMS"}
    assert set(contents(out / "server")) == common | {"server.toml"}
    for name in ("north", "south"):
        assert set(contents(out / name)) == common | {"node.key", "site.toml", "fingerprint.txt"}
        assert made.fingerprint in (out / name / "fingerprint.txt").read_text()
    assert {path.name for path in out.iterdir()} == {"authority", "server", "north", "south"}
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [out, *out.rglob("*")]}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items()), modes
    private = [data for name, data in contents(out).items() if name.endswith(".key")]
    assert len(set(private)) == len(private) == 9
    assert sum(b"ENCRYPTED" in data for data in private) == 1
    assert [kit.state for kit in made.kits] == ["new"] * 3


def test_the_roster_names_the_keys(tmp_path: Path) -> None:
    """Every party's keys are those of the roster, which is the same in every folder."""
    kits(tmp_path)
    roster = roster_of(tmp_path, "authority")
    assert (roster.epoch, roster.issued_at, roster.expires_at) == (1, NOW, NOW + 90 * 86_400)
    for name in ("server", "north", "south"):
        kit = tmp_path / name
        assert roster_of(tmp_path, name) == roster
        assert keys.public_bytes(keys.load_signing_key(kit / "signing.key")) == roster.key_of(name)
        certificate = keys.load_certificate(kit / "tls.pem")
        assert keys.load_tls_key(kit / "tls.key").public_key() == certificate.public_key()
        if site := roster.site(name):
            assert site.node_key == node_key_text(keys.load_node_key(kit / "node.key").public_key())
            assert site.tls_key == keys.spki_digest(certificate)


def test_certificates_say_what_for(tmp_path: Path) -> None:
    """A site's is good for a client of that name, the server's for its hosts; the authority signs both."""
    kits(tmp_path, days=30)
    authority = keys.load_certificate(tmp_path / "authority/authority.pem")
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (limits.critical, limits.value.ca, limits.value.path_length) == (True, True, 0)
    leaves = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "north": ExtendedKeyUsageOID.CLIENT_AUTH}
    for name, purpose in leaves.items():
        leaf = keys.load_certificate(tmp_path / name / "tls.pem")
        leaf.verify_directly_issued_by(authority)
        assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert keys.days_left(leaf, NOW) == 30
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.UniformResourceIdentifier)
        assert found == ([] if name == "server" else ["consilium:clinic:site:north"])
        hosts = (
            names.get_values_for_type(x509.DNSName),
            list(map(str, names.get_values_for_type(x509.IPAddress))),
        )
        assert hosts == ((["fl.example.org"], ["10.0.0.5"]) if name == "server" else ([], []))


def test_openssl_believes_the_kits(tmp_path: Path) -> None:
    """A TLS 1.3 handshake by mutual certificates holds in memory; without the client's it does not."""
    kits(tmp_path, now=time())

    def handshake(site: str | None) -> bool:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        client = ssl.create_default_context(cafile=tmp_path / "north/authority.pem")
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        server.verify_flags |= ssl.VERIFY_X509_STRICT
        server.load_cert_chain(tmp_path / "server/tls.pem", tmp_path / "server/tls.key")
        server.load_verify_locations(tmp_path / "server/authority.pem")
        server.verify_mode = ssl.CERT_REQUIRED
        if site:
            client.load_cert_chain(tmp_path / site / "tls.pem", tmp_path / site / "tls.key")
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [
            client.wrap_bio(down, up, server_hostname="10.0.0.5"),
            server.wrap_bio(up, down, server_side=True),
        ]
        done = [False, False]
        for _ in range(6):
            for i, end in enumerate(ends):
                try:
                    end.do_handshake()
                    done[i] = True
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError:
                    return False
        return all(done)

    assert handshake("north")
    assert not handshake(None)
    assert not handshake("server")  # its certificate is not good for a client


def test_checksums_hold(tmp_path: Path) -> None:
    """The list covers all that a person does not fill in, also after a renewal and with keys taken away."""

    def check(name: str) -> set[str]:
        files = contents(tmp_path / name)
        lines = [line.split("  ") for line in files["SHA256SUMS"].decode().splitlines()]
        assert all(hashlib.sha256(files[file]).hexdigest() == digest for digest, file in lines)
        return set(files) - {file for _, file in lines}

    kits(tmp_path)
    assert check("north") == {"SHA256SUMS", "site.toml"}
    (tmp_path / "north/tls.key").unlink()
    kits(tmp_path, rekey=("south",))
    assert [check(name) for name in ("north", "south")] == [{"SHA256SUMS", "site.toml"}] * 2
    assert check("server") == {"SHA256SUMS", "server.toml"}


def test_what_a_site_fills_in(tmp_path: Path) -> None:
    """The file is TOML that a site's own schema reads once data is added, commented examples too."""
    kits(tmp_path)
    text = (tmp_path / "north/site.toml").read_text()
    tables = parse_toml(text, "site.toml")
    assert tables == {"name": "north", "server": {"host": "fl.example.org", "port": 8443}}
    head, _, examples = text.partition("# [data.SUBTASK]")
    lines = [
        line.removeprefix("# ") for line in f"# [data.SUBTASK]{examples}".splitlines() if line[2:3] != "W"
    ]
    filled = parse_toml(
        head + "\n".join(line for line in lines if "=" in line or line.startswith("[")), "site.toml"
    )
    filled.pop("server")
    assert SiteConfig.model_validate(filled).egress.models is False
    server = parse_toml((tmp_path / "server/server.toml").read_text(), "server.toml")
    assert server == {"name": "clinic", "hosts": ["fl.example.org", "10.0.0.5"], "port": 8443}


def test_a_renewal_keeps_what_is_kept(tmp_path: Path) -> None:
    """Keys and filled-in files stay, certificates and rosters are new, the epoch goes on."""
    kits(tmp_path)
    (tmp_path / "north/site.toml").write_text('name = "north"  # filled in')
    before = contents(tmp_path)
    made = kits(tmp_path, now=NOW + 86_400)
    after = contents(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert set(before) == set(after)
    assert {Path(name).name for name in changed} == {
        *("tls.pem", "roster.json", "SHA256SUMS", "server.pem", "north.pem", "south.pem")
    }
    assert made.epoch == roster_of(tmp_path, "north").epoch == 2
    assert {kit.state for kit in made.kits} == {"renewed"}
    assert made.kits[0].until == "2027-04-16"


def test_sites_come_go_and_get_new_keys(tmp_path: Path) -> None:
    """A new site gets a kit, one that is not named is out, one that is rekeyed has no key that it had."""
    kits(tmp_path)
    before, old = contents(tmp_path), roster_of(tmp_path, "authority")
    made = kits(tmp_path, "south", "west", rekey=("south",))
    after, new = contents(tmp_path), roster_of(tmp_path, "authority")
    assert {kit.name: kit.state for kit in made.kits} == {
        "server": "renewed",
        "south": "rekeyed",
        "west": "new",
        "north": "revoked",
    }
    assert any("north is revoked" in note for note in made.notes)
    assert new.key_of("north") is None
    assert new.key_of("south") != old.key_of("south")
    north = [name for name in before if name.startswith("north/")]
    assert all(before[name] == after[name] for name in north)
    assert all(before[f"south/{key}.key"] != after[f"south/{key}.key"] for key in ("tls", "node", "signing"))
    kits(tmp_path, "north", "south")
    back = contents(tmp_path)
    assert all(before[f"north/{key}.key"] != back[f"north/{key}.key"] for key in ("tls", "node", "signing"))
    assert kits(tmp_path, rekey=("server",)).epoch == 4
    assert contents(tmp_path)["server/signing.key"] != before["server/signing.key"]


def test_a_renewal_needs_no_private_key(tmp_path: Path) -> None:
    """Kits that were taken away are made again without the keys, which their parties have."""
    kits(tmp_path)
    old = roster_of(tmp_path, "authority")
    for name in ("server", "north", "south"):
        shutil.rmtree(tmp_path / name)
    kits(tmp_path)
    new = roster_of(tmp_path, "north")
    assert new.sites == old.sites
    assert not list(tmp_path.glob("[!a]*/*.key"))


def test_another_key_in_a_kit_is_noticed(tmp_path: Path) -> None:
    """A private key that is not the roster's stops the run, and nothing is changed."""
    kits(tmp_path)
    for key in ("tls.key", "node.key", "signing.key"):
        own = (tmp_path / "north" / key).read_bytes()
        put(tmp_path / "north" / key, (tmp_path / "south" / key).read_bytes())
        before = contents(tmp_path)
        with pytest.raises(UserError, match=f"{key}.*--rekey north"):
            kits(tmp_path)
        assert contents(tmp_path) == before
        put(tmp_path / "north" / key, own)
    shutil.copy(tmp_path / "south/tls.pem", tmp_path / "authority/certificates/north.pem")
    with pytest.raises(UserError, match="--rekey north"):
        kits(tmp_path)
    assert kits(tmp_path, rekey=("north",)).epoch == 2


def test_an_authority_is_not_replaced(tmp_path: Path) -> None:
    """A missing or foreign authority, another federation, a link or a wrong passphrase stop the run."""
    out = tmp_path / "kits"
    kits(out)
    with pytest.raises(UserError, match="passphrase is wrong"):
        provision(federation(), out, lambda new: b"another passphrase", now=NOW)
    with pytest.raises(ConfigError, match="holds federation 'clinic'"):
        kits(out, name="trial")
    with pytest.raises(ConfigError, match="did you mean 'north'"):
        kits(out, rekey=("nort",))
    with pytest.raises(UserError, match="authority's certificate ends"):
        kits(out, now=NOW + 3600 * 86_400)
    (out / "authority").rename(tmp_path / "offline")
    with pytest.raises(UserError, match="put the authority's folder back"):
        kits(out)
    kits(tmp_path / "other")
    shutil.copytree(tmp_path / "other/authority", out / "authority")
    with pytest.raises(UserError, match="not signed by this authority"):
        kits(out)
    shutil.rmtree(out / "north")
    (out / "north").symlink_to(tmp_path)
    with pytest.raises(UserError, match="folder of its own"):
        kits(out)


def test_an_old_copy_of_the_authority_goes_on(tmp_path: Path) -> None:
    """With the authority's folder of an earlier run put back, no epoch is used twice."""
    kits(tmp_path)
    shutil.copytree(tmp_path / "authority", tmp_path.parent / f"{tmp_path.name}-copy")
    kits(tmp_path)
    shutil.rmtree(tmp_path / "authority")
    (tmp_path.parent / f"{tmp_path.name}-copy").rename(tmp_path / "authority")
    assert kits(tmp_path).epoch == 3


@pytest.mark.parametrize("call", ["write_new", "make_folder", "sync_folder", "replace"])
def test_a_run_that_is_cut_off_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Wherever it stops, no kit is newer than what the next run knows, and the next run gives whole kits."""
    kits(tmp_path)
    for stop in (0, 1, 5, 17):
        target = Path if call == "replace" else staging
        real, left = getattr(target, call), [stop]

        def failing(*args: object, real: object = real, left: list[int] = left) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return real(*args)  # type: ignore[operator]

        before = roster_of(tmp_path, "authority").epoch
        with monkeypatch.context() as patched:
            patched.setattr(target, call, failing)
            try:
                kits(tmp_path, rekey=("north",))
            except RunError as error:
                assert "No space left" in str(error)  # noqa: PT017
        made = kits(tmp_path)
        assert made.epoch > before
        rosters = [roster_of(tmp_path, name) for name in ("authority", "server", "north", "south")]
        assert all(roster == rosters[0] for roster in rosters)
        signing = keys.load_signing_key(tmp_path / "north/signing.key")
        assert keys.public_bytes(signing) == rosters[0].key_of("north")
        assert {path.name for path in tmp_path.iterdir()} == {"authority", "server", "north", "south"}


def test_one_at_a_time(tmp_path: Path) -> None:
    """A second run on the same folder is told to wait."""
    with staging.locked(tmp_path), pytest.raises(UserError, match="another process"):
        kits(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('sites = ["north"]', "key 'name' is required"),
        ('name = "c"\nsites = []', "sites"),
        ('name = "c"\nsites = ["server"]', "cannot be a site's name"),
        ('name = "c"\nsites = ["Authority"]', "cannot be a site's name"),
        ('name = "c"\nsites = ["a", "a"]', "twice"),
        ('name = "c"\nsites = ["a", "A"]', "capital letters"),
        ('name = "c"\nsites = [1]', "write their names"),
        ('name = "c"\nsites = ["../a"]', "sites"),
        ('name = "c"\ndays = 398\nsites = ["a"]', "days"),
        ('name = "c"\n[sites.a]\nmax_example = 3', "max_examples"),
    ],
)
def test_the_federations_file_is_checked(tmp_path: Path, text: str, says: str) -> None:
    """What cannot be meant is refused in one line that names the key."""
    server = "\n[server]\nhosts = ['a.org']\nport = 1\n"
    path = put(tmp_path / "federation.toml", (text + server).encode())
    with pytest.raises(ConfigError, match=says):
        read_federation(path)


def test_sites_may_be_tables(tmp_path: Path) -> None:
    """A table caps what its site may claim; the roster says so."""
    head = 'name = "clinic"\n[server]\nhosts = ["::1"]\nport = 1\n'
    text = head + "[sites.north]\nmax_examples = 500\n[sites.south]\n"
    path = put(tmp_path / "federation.toml", text.encode())
    provision(read_federation(path), tmp_path / "kits", lambda new: PASSPHRASE, now=NOW)
    caps = [site.max_examples for site in roster_of(tmp_path / "kits", "north").sites]
    assert caps == [500, None]


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the table or JSON, and errors in one line; no secret is in what it prints."""
    run: Command = command(monkeypatch, capsys)
    text = 'name = "clinic"\nsites = ["north"]\n[server]\nhosts = ["a.org"]\nport = 1\n'
    source = put(tmp_path / "federation.toml", text.encode())
    secret = put(tmp_path / "passphrase", PASSPHRASE + b"\n")
    options = ["provision", source, "--out", tmp_path / "kits", "--passphrase-file", secret]
    shown = run(*options)
    assert shown.code == 0, shown.err
    assert "new" in shown.out
    assert "next: " in shown.out
    made = json.loads(run(*options, "--json", "--rekey", "north").out)
    assert (made["epoch"], [kit["state"] for kit in made["kits"]]) == (2, ["renewed", "rekeyed"])
    assert PASSPHRASE.decode() not in shown.out + json.dumps(made)
    assert "chmod 600" in assert_one_line(run(*options[:-1], put(tmp_path / "p", PASSPHRASE, 0o644)), 2)
    assert "at least 12" in assert_one_line(run(*options[:-1], put(tmp_path / "q", b"short")), 2)
    assert "--passphrase-file" in assert_one_line(run(*options[:-2]), 2)


def test_a_passphrase_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one is typed twice and must be long enough, an old one once."""
    typed: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: typed.pop(0))
    typed[:] = ["correct horse battery"] * 2
    assert passphrases.ask(new=True) == PASSPHRASE
    assert typed == []
    typed[:] = ["correct horse battery"]
    assert passphrases.ask(new=False) == PASSPHRASE
    for given, says in (
        (["correct horse battery", "correct horse"], "differ"),
        (["short"] * 2, "at least 12"),
    ):
        typed[:] = given
        with pytest.raises(UserError, match=says):
            passphrases.ask(new=True)


def test_no_repr_shows_a_key(tmp_path: Path) -> None:
    """What is passed around while keys are made does not print them."""
    from server.certificates import new_authority
    from server.identities import new_identity

    one = new_identity("north", "new")
    assert b"PRIVATE" in one.private["tls.key"]
    assert "PRIVATE" not in repr(one)
    assert "key=" not in repr(new_authority("clinic", NOW))
    assert read_text(put(tmp_path / "x", b"x")) == "x"
