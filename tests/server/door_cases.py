"""The door with requests made by hand: two sites with certificates, and a clock that the test sets."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.errors import RosterError
from protocol.keys import spki_digest
from protocol.roster import Roster
from server.certificates import Authority, new_authority, site_certificate
from server.door import INFO, PEER, Door, Receive, Refused, Scope, Send
from server.flwr_adapter.link import NODE_KEY_HEADER
from tests.protocol import key_cases

NOW = 1_800_000_000.0
DAYS = 7
PULL = "/v1/fleet/pull-messages"


@dataclass
class Answered:
    """What a caller got."""

    status: int
    body: bytes
    headers: dict[bytes, bytes]

    @property
    def words(self) -> dict[str, Any]:
        """The body as a table."""
        return dict(json.loads(self.body))


class World:
    """Two sites, their certificates, and a door in front of an application that answers ``status``."""

    def __init__(self) -> None:
        self.now = NOW
        self.authority = new_authority("clinic", NOW)
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("north", "south", "other")}
        self.roster = key_cases.roster(
            expires_at=int(NOW) + DAYS * 86_400,
            sites=[
                key_cases.site(name, tls_key=spki_digest(self.keys[name].public_key()))
                for name in ("north", "south")
            ],
        )
        self.is_there = True
        self.status = 200
        self.refusals: list[tuple[str, str, str, int]] = []
        self.reached: list[tuple[str, bytes]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.door = Door(
            self._app,
            self,
            lambda: self.now,
            lambda: {"epoch": self.roster.epoch},
            lambda *said: self.refusals.append(said),
            self._pushes,
        )

    @property
    def current(self) -> Roster:
        """The roster in force."""
        if not self.is_there:
            raise RosterError("no roster yet")
        return self.roster

    def certificate(self, key: str, name: str = "", *, at: float = NOW, by: Authority | None = None) -> bytes:
        """A certificate in DER for the key of ``key`` in the name of ``name``, from ``at`` on."""
        public = self.keys[key].public_key()
        made = site_certificate(by or self.authority, public, "clinic", name or key, at, DAYS)
        return made.public_bytes(Encoding.DER)

    def node_key(self, name: str) -> bytes:
        """The header by which the site's node is known."""
        entry = self.roster.site(name)
        assert entry is not None
        return base64.b64encode(entry.node_key.encode())

    def scope(self, **changes: Any) -> dict[str, Any]:
        """A good request of north; ``changes`` replace what the server says of it."""
        path = changes.pop("path", PULL)
        certificate = changes.pop("certificate", self.certificate("north"))
        headers = changes.pop("headers", None)
        made = {
            "type": "http",
            "method": "GET" if path == INFO else "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(NODE_KEY_HEADER, self.node_key("north"))] if headers is None else headers,
            "extensions": {PEER: certificate},
        }
        return {**made, **changes}

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        await self.hold.wait()
        self.reached.append((scope["path"], message["body"]))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"flwr"})

    def _pushes(self, body: bytes) -> None:
        if body == b"of another":
            raise Refused(403, "a reply in another node's name")


@dataclass
class Caller:
    """Sends a body in pieces and keeps what it is told."""

    pieces: Iterable[bytes | None] = (b"body",)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = list(self.pieces)
        self.read = 0

    async def receive(self) -> dict[str, Any]:
        """The next piece; None hangs up, and after the last there is silence."""
        if not self._left:
            await asyncio.sleep(60)
        piece = self._left.pop(0)
        if piece is None:
            return {"type": "http.disconnect"}
        self.read += 1
        return {"type": "http.request", "body": piece, "more_body": bool(self._left)}

    async def send(self, message: Any) -> None:
        """Keep what comes."""
        self.sent.append(message)

    @property
    def answered(self) -> Answered:
        """What came."""
        start, *bodies = self.sent
        body = b"".join(message.get("body", b"") for message in bodies)
        return Answered(start["status"], body, dict(start["headers"]))


def knock(world: World, *, pieces: Sequence[bytes | None] = (b"body",), **changes: Any) -> Answered:
    """Make one request of the door and return what it answers."""
    caller = Caller(pieces)
    asyncio.run(world.door(world.scope(**changes), caller.receive, caller.send))
    return caller.answered
