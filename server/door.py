"""The public door: who may call what from outside, decided on every request before its body is read.

A certificate of the authority names a site; the roster in force says which key the site has and which
Flower node is its own. All three must fit together each time, and the certificate must be valid now: a
connection that is kept open would otherwise outlive it.

Flower's SuperNode throws a result away when it is told 403 and ends itself on 401, so both are only for
what must never succeed. Whatever may pass by itself is answered with 503.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from cryptography import x509

from protocol.errors import RosterError
from protocol.keys import spki_digest
from protocol.roster import Roster, SiteEntry
from server.flwr_adapter.link import FLEET_PATHS, NODE_KEY_HEADER
from server.units import plain

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PEER = "consilium.peer"
INFO = "/v1/consilium/info"
PUSH_OBJECT = "/v1/fleet/push-object"
PUSH_MESSAGES = "/v1/fleet/push-messages"
MAX_OBJECT_BYTES = 6 * 2**20
MAX_BODY_BYTES = 2 * 2**20
MAX_PROBE_BYTES = 2**20
# How many requests of one site are worked on at once: a SuperNode makes two, its heartbeat, and info.
MOST_AT_ONCE = 8
_BODY_S = 60.0
_DIGITS = 12  # of a number that is read
_PASSING = (429, 500)
_REFILL_S = 600.0


class Rosters(Protocol):
    """Where the roster in force is found."""

    @property
    def current(self) -> Roster:
        """The roster in force; raises ``RosterError`` while there is none."""
        ...


class Refused(Exception):  # noqa: N818  an answer, not an error
    """What the caller is told instead: a status; for the server's own log, why, and who it was if known."""

    def __init__(self, status: int, why: str, who: str = "") -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.who = who


@dataclass
class Door:
    """The ASGI application of the public listener, in front of Flower's.

    Args:
        app: answers what is let in.
        rosters: the roster in force.
        clock: seconds since 1970.
        info: what ``GET /v1/consilium/info`` answers beside the time.
        told: is told of each refusal: the site, or what is known of who it was, the path, why, the status.
        pushes: raises ``Refused`` for a body of push-messages that speaks for another node.
        allowance: how many bytes a site may push at once, and again within each ten minutes.
    """

    app: Application
    rosters: Rosters
    clock: Callable[[], float]
    info: Callable[[], dict[str, Any]]
    told: Callable[[str, str, str, int], None] = lambda *_: None
    pushes: Callable[[bytes], None] = lambda _: None
    allowance: float = 2**33
    _at_once: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _pushed: dict[str, tuple[float, float]] = field(default_factory=dict)

    def who(self, certificate: bytes | None) -> str:
        """Return the site of a certificate; "" where it is of none, or nobody can tell now."""
        try:
            return identify(certificate, self.rosters.current, self.clock()).name
        except (Refused, RosterError):
            return ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; anything but HTTP is closed."""
        if scope["type"] != "http":
            return
        who, path = "somebody", plain(str(scope["path"])[:100])  # it goes into a log
        try:
            entry = self._let_in(scope)
            who = entry.name
            await self._answer(entry, scope, receive, send)
        except Refused as refused:
            self.told(refused.who or who, path, refused.why, refused.status)
            await _say(send, refused.status, {"error": _WORDS[refused.status]})

    def _let_in(self, scope: Scope) -> SiteEntry:
        """Return who is calling, if that site may call this path at all."""
        _check_path(scope)
        try:
            roster = self.rosters.current
        except RosterError as error:
            raise Refused(503, str(error)) from None
        if roster.has_expired(self.clock()):
            raise Refused(503, "the roster has expired: run `consilium provision` again")
        entry = identify(scope.get("extensions", {}).get(PEER), roster, self.clock())
        if scope["path"] != INFO:
            given = [value for name, value in scope["headers"] if name.lower() == NODE_KEY_HEADER]
            if given != [_header(entry.node_key)]:
                raise Refused(403, "not the site's node key", entry.name)
        return entry

    async def _answer(self, entry: SiteEntry, scope: Scope, receive: Receive, send: Send) -> None:
        if self._at_once[entry.name] >= MOST_AT_ONCE:
            raise Refused(503, "too many requests at once")
        self._at_once[entry.name] += 1
        try:
            if scope["path"] == INFO:
                await _say(send, 200, self.info() | {"time": self.clock()}, _probe(scope))
                return
            body = await _body(scope, receive)
            if scope["path"] == PUSH_MESSAGES:
                self.pushes(body)
            if scope["path"] in (PUSH_MESSAGES, PUSH_OBJECT):
                self._count(entry.name, len(body))
            await self.app(scope, _replay(body, receive), _patient(send))
        finally:
            self._at_once[entry.name] -= 1

    def _count(self, site: str, size: int) -> None:
        """Refuse, for now, more than a site may push: what it pushed is forgotten with time."""
        now = time.monotonic()
        level, at = self._pushed.get(site, (0.0, now))
        level = max(0.0, level - (now - at) * self.allowance / _REFILL_S)
        if level + size > self.allowance:
            raise Refused(503, "it pushes more than it may", site)
        self._pushed[site] = (level + size, now)


_WORDS = {403: "not allowed", 404: "not here", 413: "too large", 503: "try again later"}


def identify(certificate: bytes | None, roster: Roster, now_s: float) -> SiteEntry:
    """Return whose certificate this is.

    Raises:
        Refused: it is none, not valid now, or of no site of the roster.
    """
    if certificate is None:
        raise Refused(403, "no certificate")
    peer = _read(certificate)
    if peer is None:
        raise Refused(403, "a certificate that names no site")
    entry = next((site for site in roster.sites if site.tls_key == peer.key), None)
    if not peer.not_before <= now_s < peer.not_after:
        raise Refused(403, "the certificate is not valid now", entry.name if entry else "")
    if entry is None:
        raise Refused(403, "a certificate whose key is not in the roster")
    if peer.name != f"consilium:{roster.federation}:site:{entry.name}":
        raise Refused(403, "the certificate names another site than the roster")
    return entry


@dataclass(frozen=True)
class _Peer:
    name: str
    key: str
    not_before: float
    not_after: float


@lru_cache(maxsize=1024)
def _read(certificate: bytes) -> _Peer | None:
    """Return what a certificate says; None where it names no site. Reading takes a while, so it is kept."""
    try:
        found = x509.load_der_x509_certificate(certificate)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        return None
    if len(uris) != 1:
        return None
    until, since = found.not_valid_after_utc.timestamp(), found.not_valid_before_utc.timestamp()
    return _Peer(uris[0], spki_digest(found), since, until)


def _check_path(scope: Scope) -> None:
    """Raise for all but the exact paths: no other spelling of them, no query but the probe's."""
    path, method = scope["path"], scope["method"]
    if scope["raw_path"] != path.encode("ascii", "replace"):
        raise Refused(404, "a path in another spelling")
    if path == INFO and method == "GET":
        return
    if path not in FLEET_PATHS or method != "POST" or scope["query_string"]:
        raise Refused(404, "a path that sites do not need")


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Read the body up to what its path may take."""
    cap = MAX_OBJECT_BYTES if scope["path"] == PUSH_OBJECT else MAX_BODY_BYTES
    said = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    if any(not value.isdigit() or len(value) > _DIGITS or int(value) > cap for value in said):
        raise Refused(413, "a body that is too large")
    found = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(503, "the caller hung up")
                found += message.get("body", b"")
                if len(found) > cap:
                    raise Refused(413, "a body that is too large")
                if not message.get("more_body", False):
                    return bytes(found)
    except TimeoutError:
        raise Refused(503, "a body that did not come") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that hands over the body that was read, then what else comes."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return again


def _patient(send: Send) -> Send:
    """Return a ``send`` that says 503 for an error of the server's own: what failed now may pass later."""

    async def patient(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] in _PASSING:
            message = {**message, "status": 503}
        await send(message)

    return patient


def _probe(scope: Scope) -> int:
    """Return how many bytes of padding are asked for, to measure the bandwidth."""
    query = scope["query_string"]
    if not query:
        return 0
    name, _, value = query.partition(b"=")
    if name != b"probe" or not value.isdigit() or len(value) > 7 or int(value) > MAX_PROBE_BYTES:
        raise Refused(404, "a query that is not probe=BYTES")
    return int(value)


@lru_cache(maxsize=1024)
def _header(node_key: str) -> bytes:
    return base64.b64encode(node_key.encode())


async def _say(send: Send, status: int, words: dict[str, Any], padding: int = 0) -> None:
    content = json.dumps(words).encode() + b" " * padding
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    # What is left of a refused body would be read as the next request: such a connection ends.
    headers += [(b"connection", b"close")] if status != 200 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
