"""What a site asks the server before it works, and now and then: versions, the time, the roster."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import httpx
from pydantic import Field, ValidationError

from clients.kit import SiteKit
from clients.tls import client_context
from protocol.bounds import Frozen, Name
from protocol.errors import ProtocolError
from protocol.roster import MAX_ROSTER_BYTES
from protocol.roster_book import RosterBook

INFO = "/v1/consilium/info"
_MAX_ANSWER = 2 * MAX_ROSTER_BYTES
_TIMEOUT_S = 15.0
PROBE_BYTES = 2**20

Word = Annotated[str, Field(max_length=200)]


class Info(Frozen):
    """What the server says of itself."""

    federation: Name
    version: Word
    protocol: int
    flower: Word
    bundle: Word
    epoch: int
    roster: Annotated[str, Field(max_length=MAX_ROSTER_BYTES)]
    time: float


@dataclass(frozen=True)
class Found:
    """The server's words, how far its clock is ahead of ours (s), and how fast the line was (Mbit/s)."""

    info: Info
    ahead_s: float
    mbit: float | None


def ask(kit: SiteKit, probe: int = 0) -> Found:
    """Ask the server.

    Args:
        kit: the site's.
        probe: how many bytes of padding to ask for, to measure the line.

    Raises:
        httpx.HTTPError: it does not answer, or refuses this site.
        ProtocolError: its answer is none.
    """
    context = client_context(kit.authority, kit.certificate, kit.key)
    server = kit.config.server
    proxy = server.proxy if server is not None else None
    with httpx.Client(verify=context, timeout=_TIMEOUT_S, proxy=proxy) as line:
        line.get(f"https://{kit.address}{INFO}").raise_for_status()  # opens the line: its time does not count
        sent = time.time()
        content = bytearray()
        query = f"?probe={probe}" if probe else ""
        with line.stream("GET", f"https://{kit.address}{INFO}{query}") as answer:
            answer.raise_for_status()
            for piece in answer.iter_raw():
                content += piece
                if len(content) > _MAX_ANSWER + probe:
                    raise ProtocolError("the server's answer is too long")
        came = time.time()
    try:
        info = Info.model_validate_json(bytes(content))
    except ValidationError:
        raise ProtocolError(f"{kit.address}: is no Consilium server, or one of another release") from None
    mbit = 8e-6 * len(content) / max(came - sent, 1e-6) if probe else None
    return Found(info, info.time - (sent + came) / 2, mbit)


def fetch_roster(kit: SiteKit, book: RosterBook) -> bool:
    """Take the server's roster, if the authority signed it and it is newer; return whether it was.

    Raises:
        httpx.HTTPError, ProtocolError: as ``ask``.
        RosterError: it is not the authority's, or an older one than this site saw.
    """
    return book.offer(ask(kit).info.roster.encode())
