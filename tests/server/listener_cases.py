"""A real public listener in this process, and sites that connect to it. Not a test."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.keys import spki_digest
from protocol.roster import Roster
from server import listeners
from server.certificates import Authority, new_authority, server_certificate
from server.door import INFO, Door, Receive, Scope, Send
from server.flwr_adapter.link import NODE_KEY_HEADER
from tests.protocol import key_cases
from tests.server.link_cases import FEDERATION, Line, client_tls, issued

STRANGERS = ("stranger", "other")


@dataclass
class Public:
    """A listener on loopback with a door behind it; the names of two sites are in its roster."""

    folder: Path
    authority: Authority
    roster: Roster
    contexts: dict[str, ssl.SSLContext]
    asked: int = 0
    port: int = 0

    @property
    def current(self) -> Roster:
        """The roster in force."""
        return self.roster

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Behind the door: it answers all."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def door(self) -> Door:
        """The door, which answers the information by itself."""
        return Door(self.app, self, time.time, self._info)

    def headers(self, site: str) -> dict[str, str]:
        """What names the node of a site."""
        entry = self.roster.site(site)
        assert entry is not None
        return {NODE_KEY_HEADER.decode(): base64.b64encode(entry.node_key.encode()).decode()}

    def _info(self) -> dict[str, int]:
        self.asked += 1
        return {}

    def line(self, site: str) -> Line:
        """A connection of a site, its handshake done and nothing asked."""
        return Line(self.port, self.contexts[site])


def ask(line: Line) -> int:
    """Ask for the information; return the status."""
    return line.ask("GET", INFO, {})[0]


def is_served(line: Line) -> bool:
    """Whether a line that was just made is answered; False where it is closed without a byte."""
    try:
        return ask(line) == 200
    except (ConnectionError, ssl.SSLError):
        return False


def closed_after(line: Line, within_s: float = 5.0) -> float:
    """Wait until the server closes the line; return how many seconds that took."""
    began = time.monotonic()
    line.socket.settimeout(within_s)
    try:
        said = line.socket.recv(65_536)
    except (ConnectionError, ssl.SSLError):
        said = b""
    assert said == b"", said
    return time.monotonic() - began


def at_once(public: Public, site: str, request: bytes) -> None:
    """Send a request in one piece with the end of the handshake; wait until the server has closed."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = public.contexts[site].wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", public.port), timeout=5) as plain:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(65_536))
        tls.write(request)
        plain.sendall(outgoing.read())
        plain.settimeout(0.5)
        try:
            while plain.recv(65_536):
                pass
        except (TimeoutError, ConnectionError):
            pass


def make_public(folder: Path) -> Public:
    """Keys, certificates and a roster of north and south."""
    now = time.time()
    authority = new_authority(FEDERATION, now)
    trusted = folder / "authority.pem"
    trusted.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("north", "south", *STRANGERS)}
    files = {name: issued(folder, authority, key, name, now) for name, key in keys.items()}
    sites = [
        key_cases.site(name, tls_key=spki_digest(keys[name].public_key())) for name in ("north", "south")
    ]
    roster = key_cases.roster(issued_at=int(now), expires_at=int(now) + 86_400, sites=sites)
    contexts = {name: client_tls(trusted, file) for name, file in files.items()}
    return Public(folder, authority, roster, contexts)


@contextmanager
def listening(public: Public) -> Iterator[Public]:
    """Serve in a thread of this process; it has ended when the block has."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = server_certificate(public.authority, key.public_key(), FEDERATION, ["127.0.0.1"], time.time(), 7)
    paths = public.folder / "server.pem", public.folder / "server.key"
    paths[0].write_bytes(made.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key_cases.pem(key))
    context = listeners.public_context(*paths, public.folder / "authority.pem")
    door = public.door()
    server = listeners.listen(door, context, door.who)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    public.port = sock.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield public
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        sock.close()
    assert not thread.is_alive()
