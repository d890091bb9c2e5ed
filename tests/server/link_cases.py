"""A real link process on loopback, and callers with good and bad identities. Not a test.

A caller is a bare socket: what it gets is what the server sends, and nothing is repeated or smoothed over.
"""

from __future__ import annotations

import base64
import secrets
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Self
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from protocol import keys
from protocol.children import Child
from protocol.roster import node_key_text
from server.certificates import Authority, new_authority, site_certificate
from server.federation_file import FederationFile
from server.kit import load_kit, make_folders
from server.provision import provision

ROOT = Path(__file__).parents[2]
PASSPHRASE = b"correct horse battery"
FEDERATION = "clinic"
_WAIT_S = 10.0
_DAY_S = 86_400.0
TLS = "tls"  # in the place of a status: the line was refused, not a byte of HTTP came back

Identity = tuple[ssl.SSLContext, dict[str, str]]


@dataclass(frozen=True)
class Link:
    """A running link process and the kits of its federation."""

    kits: Path
    child: Child
    public: int
    inner: int
    secret: str
    control: str
    superexec: bytes


def make_kits(out: Path, *sites: str, rekey: tuple[str, ...] = (), at: float | None = None) -> None:
    """Provision the federation, again if it is there; the passphrase is stretched less."""
    made = FederationFile.model_validate(
        {"name": FEDERATION, "sites": list(sites), "server": {"hosts": ["127.0.0.1"], "port": 8443}}
    )
    with patch.object(keys, "_SCRYPT_N", 2**10):
        provision(made, out, lambda new: PASSPHRASE, rekey=rekey, now=time() if at is None else at)


@contextmanager
def running_link(kits: Path) -> Iterator[Link]:
    """Start the link process of the kits' server; it has ended when the block has."""
    kit = load_kit(kits / "server")
    make_folders(kit)
    secret, control, superexec = secrets.token_hex(32), secrets.token_hex(32), secrets.token_bytes(32)
    public, inner = _listening(), _listening()
    given = {
        "kit": str(kit.folder),
        "secret": secret,
        "control": control,
        "superexec": superexec.hex(),
        "public_fd": public.fileno(),
        "inner_fd": inner.fileno(),
    }
    fds = [public.fileno(), inner.fileno()]
    child = Child(
        "link", "server.link", given, kit.logs, fds=fds, environment={"PYTHONPATH": str(ROOT), "TZ": "UTC"}
    )
    ports = public.getsockname()[1], inner.getsockname()[1]
    public.close()
    inner.close()
    try:
        assert child.wait_for("ready", 60), (child.heard, (kit.logs / "link.log").read_text())
        yield Link(kits, child, *ports, secret, control, superexec)
    finally:
        child.end()


def _listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    return sock


def client_tls(
    authority: Path,
    certificate: Path | None = None,
    key: Path | None = None,
    most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """What a caller speaks TLS with, with a certificate or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    context.maximum_version = most
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def issued(folder: Path, by: Authority, key: ec.EllipticCurvePrivateKey, name: str, at: float) -> Path:
    """A certificate for a site of that name, good for a week from ``at``, and its key, in one file."""
    made = site_certificate(by, key.public_key(), FEDERATION, name, at, 7)
    path = folder / f"{secrets.token_hex(8)}.pem"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + pem)
    return path


def authority_of(kits: Path) -> Authority:
    """The authority itself, with its key."""
    with patch.object(keys, "_SCRYPT_N", 2**10):
        key = keys.load_authority_key(kits / "authority/authority.key", PASSPHRASE)
    return Authority(key, keys.load_certificate(kits / "authority/authority.pem"))


def node_header(kit: Path) -> dict[str, str]:
    """The header that names the node of a site's kit."""
    text = node_key_text(keys.load_node_key(kit / "node.key").public_key())
    return {"flwr-public-key": base64.b64encode(text.encode()).decode()}


class Line:
    """One connection, which may be kept open for many requests."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=_WAIT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket = context.wrap_socket(plain, server_hostname="127.0.0.1") if context else plain
        except BaseException:
            plain.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, bytes]:
        """Make a request; return the answer's status and body."""
        lines = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        received = self.socket.recv(65_536)
        if not received:
            raise ConnectionResetError("the line was closed without a byte")
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, rest = received.partition(b"\r\n\r\n")
        found = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = 0 if method == "HEAD" else int(found.get(b"content-length", b"0"))
        while len(rest) < length:
            rest += self._more()
        return int(head.split(b" ", 2)[1]), rest

    def _more(self) -> bytes:
        got = self.socket.recv(65_536)
        if not got:
            raise ConnectionAbortedError("the line was closed in the middle of an answer")
        return got


def ask(
    port: int,
    context: ssl.SSLContext | None,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes = b"",
) -> tuple[int | str, bytes]:
    """Make one request on a line of its own; the status is ``TLS`` where the line itself was refused."""
    try:
        with Line(port, context) as line:
            return line.ask(method, path, headers, body)
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError) as error:
        return TLS, str(error).encode()


def strangers(link: Link, folder: Path) -> dict[str, Identity]:
    """Identities that fail before a byte of HTTP is read."""
    now, north = time(), link.kits / "north"
    trusted, mine = north / "authority.pem", node_header(north)
    ours, key = authority_of(link.kits), keys.load_tls_key(north / "tls.key")
    twin = new_authority("clinic", now)
    shown = {
        "no certificate": None,
        "another authority of the same name": issued(folder, twin, key, "north", now),
        "expired": issued(folder, ours, key, "north", now - 30 * _DAY_S),
        "not yet valid": issued(folder, ours, key, "north", now + 2 * _DAY_S),
    }
    made = {why: (client_tls(trusted, file), mine) for why, file in shown.items()}
    server = link.kits / "server"
    made["the server's own"] = client_tls(trusted, server / "tls.pem", server / "tls.key"), mine
    return made


def known(link: Link, folder: Path) -> dict[str, Identity]:
    """Identities that pass TLS and must be refused by what the roster says."""
    north, south = link.kits / "north", link.kits / "south"
    trusted, fresh = north / "authority.pem", ec.generate_private_key(ec.SECP256R1())
    ours = authority_of(link.kits)
    mine = client_tls(trusted, north / "tls.pem", north / "tls.key")
    theirs = client_tls(trusted, south / "tls.pem", south / "tls.key")
    unknown = client_tls(trusted, issued(folder, ours, fresh, "north", time()))
    other = issued(folder, ours, keys.load_tls_key(south / "tls.key"), "north", time())
    return {
        "another site's certificate with this site's node key": (theirs, node_header(north)),
        "its own certificate with another site's node key": (mine, node_header(south)),
        "no node key": (mine, {}),
        "a key that is in no roster": (unknown, node_header(north)),
        "another site's key in its name": (client_tls(trusted, other), node_header(north)),
    }
