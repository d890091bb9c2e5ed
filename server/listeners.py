"""Two uvicorn listeners over one application: the public one with mutual TLS 1.3, the other on loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.door import PEER, Application, Receive, Scope, Send

# A SuperNode calls at least each 30 s (its heartbeat); a connection that says nothing for longer is let go.
_KEEP_ALIVE_S = 75
_MOST_CONNECTIONS = 1000


class PeerProtocol(H11Protocol):
    """Puts the caller's certificate into the ASGI scope, which uvicorn does not."""

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


def listen(app: Application, context: ssl.SSLContext | None = None) -> uvicorn.Server:
    """Return a server of ``app``; ``context`` None speaks plainly, for loopback."""
    config = uvicorn.Config(
        app,
        http=PeerProtocol,
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
