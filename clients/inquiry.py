"""What a site asks the server before it works, and now and then: versions, the time, the roster.

And in a few words, for a person at the terminal, why they cannot work together.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import httpx
from pydantic import Field, ValidationError

from clients.kit import SiteKit
from clients.tls import client_context
from protocol.bounds import Frozen, Name
from protocol.errors import ConsiliumError, ProtocolError
from protocol.roster import MAX_ROSTER_BYTES
from protocol.roster_book import RosterBook

INFO = "/v1/consilium/info"
_MAX_ANSWER = 2 * MAX_ROSTER_BYTES
_TIMEOUT_S = 15.0
PROBE_BYTES = 2**20
_AHEAD_S = 4.0  # Flower refuses a clock that is 5 s ahead of the server's
REFUSALS = {
    401: "401: its node key or its clock",
    403: "403: its certificate or the roster; ask for a new kit",
    404: "404: it asked for what sites may not",
    413: "413: a message that was too large",
}

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


def wrong_clock(found: Found) -> str | None:
    """Return what is wrong where the two clocks are too far apart for Flower; None where they are not."""
    if abs(found.ahead_s) <= _AHEAD_S:
        return None
    how = "behind" if found.ahead_s > 0 else "ahead of"
    return f"this clock is {abs(found.ahead_s):.0f} s {how} the server's: set both by NTP"


def why(error: BaseException) -> str:
    """Return in a few words why the server did not answer."""
    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        if code >= 500:
            return f"it cannot answer now ({code})"
        return "it refuses this site: " + REFUSALS.get(code, str(code))
    if isinstance(error, httpx.TimeoutException):
        return "it took too long"
    if isinstance(error, ConsiliumError):
        return str(error)
    text = str(error)
    if "certificate" in text.lower() or "ssl" in text.lower():
        return f"the certificates do not fit together ({text[:120]})"
    return text[:120] or type(error).__name__
