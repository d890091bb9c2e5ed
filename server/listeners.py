"""Two uvicorn listeners over one application: the public one with mutual TLS 1.3, the other on loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.door import PEER, Application, Receive, Scope, Send

# A SuperNode calls at least each 30 s (its heartbeat); one that has said nothing for longer is let go.
_KEEP_ALIVE_S = 75
_MOST_CONNECTIONS = 1000
# A connection on which no request, or only the beginning of one, has come for so long is let go.
HEADER_S = 15.0
# A SuperNode keeps two or three connections; what has a certificate and stands in no roster shares a few.
PER_SITE, STRANGERS = 16, 8

Who = Callable[[bytes | None], str]


class Seats:
    """How many connections each caller has. One site must not take those of all.

    Args:
        who: names the site of a certificate; "" for one of no site in the roster.
    """

    def __init__(self, who: Who) -> None:
        self._who = who
        self._taken: Counter[str] = Counter()

    def take(self, certificate: bytes | None) -> str | None:
        """Return whose connection this is, None if there is no room for it."""
        name = self._who(certificate)
        if self._taken[name] >= (PER_SITE if name else STRANGERS):
            return None
        self._taken[name] += 1
        return name

    def leave(self, name: str) -> None:
        """Give a connection back."""
        self._taken[name] -= 1


class PeerProtocol(H11Protocol):
    """Puts the caller's certificate into the ASGI scope, and lets nobody keep a connection without a use.

    uvicorn does neither: it starts its timer for idle connections only once a request was answered.
    """

    seats: Seats | None = None
    _name: str | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the certificate once for all requests of the connection."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        inner: Application = self.app

        async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {**scope.get("extensions", {}), PEER: certificate}
            await inner(scope, receive, send)

        self.app = with_peer
        if self.seats is not None:
            self._name = self.seats.take(certificate)
            if self._name is None:
                transport.close()
                return
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the seat back."""
        super().connection_lost(exc)
        self._stop_waiting()
        if self.seats is not None and self._name is not None:
            self.seats.leave(self._name)
            self._name = None

    def data_received(self, data: bytes) -> None:
        """Take what came; a request has to be there in whole some time after its beginning."""
        if self.transport.is_closing():  # what comes with the end of the handshake comes after a refused seat
            return
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._await_request()
        else:
            self._stop_waiting()

    def _await_request(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEADER_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """Leaves signals to the process, which has two servers to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def public_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Return a server's TLS 1.3 context that demands a certificate of the authority from every caller."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
    context.num_tickets = 0  # a resumed session would not check the certificate again
    return context


def listen(app: Application, context: ssl.SSLContext | None = None, who: Who | None = None) -> uvicorn.Server:
    """Return a server of ``app``; ``context`` None speaks plainly, for loopback.

    Args:
        app: the ASGI application.
        context: of TLS.
        who: names the site of a certificate, to bound each one's connections; None: they are not bounded.
    """
    seats = None if who is None else Seats(who)
    config = uvicorn.Config(
        app,
        http=type("Protocol", (PeerProtocol,), {"seats": seats}),
        ws="none",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        limit_concurrency=_MOST_CONNECTIONS,
        backlog=128,
    )
    config.load()
    if context is not None:
        config.ssl = context  # what uvicorn makes of files would not demand TLS 1.3
    return _Server(config)


async def serve(servers: dict[str, tuple[uvicorn.Server, socket]], stop: asyncio.Event) -> None:
    """Serve on the given sockets until ``stop``; raises what a listener raised."""
    tasks: set[asyncio.Task[Any]] = {
        asyncio.create_task(server.serve(sockets=[sock]), name=name)
        for name, (server, sock) in servers.items()
    }
    waits = asyncio.create_task(stop.wait())
    await asyncio.wait({*tasks, waits}, return_when=asyncio.FIRST_COMPLETED)
    for server, _ in servers.values():
        server.should_exit = True
    waits.cancel()
    await asyncio.gather(*tasks)
