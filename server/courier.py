"""Letters to sites and their answers, on a clock: what everybody who asks sites something needs of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from protocol.bounds import Frozen
from protocol.codec import Limits
from protocol.errors import ProtocolError
from protocol.messages import Contribution, Refusal
from protocol.records import HEAD, MAX_BODY_BYTES, unpack, unpack_message
from server.gate import NO_ARRAYS, Demand, check, check_sender, guarded
from server.pulling import Reply
from server.units import plain

M = TypeVar("M", bound=Frozen)

# A refusal is a code and 500 characters, each of which JSON may write in 12 bytes.
_REFUSAL_BYTES = 8192


@dataclass(frozen=True)
class Letter:
    """One message to one site. ``round`` 0 is preparation, None the end: nobody vanishes then.

    ``counted`` is False for what a baseline needs: it costs the collaboration nothing.
    """

    site: str
    message_type: str
    content: RecordDict
    about: str
    round: int | None = 0
    counted: bool = True

    @property
    def subtask(self) -> str:
        """The subtask that it is about: ``about`` is its name, or an assignment id that holds it."""
        parts = self.about.split("/")
        return parts[2] if len(parts) > 2 else self.about


@dataclass(frozen=True)
class Arrival:
    """An answer and when it came; ``error`` says what went wrong where there is no content.

    ``failure`` is an error with a code of its own, where the answer could not even be taken; ``refs`` is
    where the record keeps its arrays.
    """

    letter: Letter
    at_s: float
    content: RecordDict | None
    error: str = ""
    failure: ProtocolError | None = None
    refs: tuple[str, ...] = ()

    def open(self, expected: type[M], limits: Limits = NO_ARRAYS) -> tuple[M, dict[str, NDArray[Any]]]:
        """Return the message and arrays of the answer, read within ``limits``.

        Raises:
            ProtocolError: the site refused, failed, or sent something else.
        """
        with guarded():
            message, arrays = _open(self._found(), expected, limits)
            check_sender(message, self.letter.site)
        return message, arrays

    def admit(self, demand: Demand) -> tuple[Contribution, dict[str, NDArray[Any]]]:
        """Return the contribution and its arrays, checked against what was demanded; raises as ``open``."""
        with guarded():
            said, arrays = _open(self._found(), Contribution, demand.limits, demand.body_bytes)
            check(said, arrays, demand)
        return said, arrays

    def glance(self, expected: type[M]) -> M:
        """Return the message alone, where the arrays are not used any more; raises as ``open``."""
        with guarded():
            return unpack_message(self._found(), expected)

    def _found(self) -> RecordDict:
        if self.content is None:
            raise self.failure or ProtocolError(self.error or "the site failed")
        return self.content


def open_reply(reply: Reply, expected: type[M]) -> tuple[M, dict[str, NDArray[Any]]]:
    """Return the message and arrays of a reply that needed no clock; raises as ``Arrival.open``."""
    if reply.content is None:
        raise reply.failure or ProtocolError("the site failed")
    with guarded():
        return _open(reply.content, expected)


def _open(
    content: RecordDict,
    expected: type[M],
    limits: Limits = NO_ARRAYS,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> tuple[M, dict[str, NDArray[Any]]]:
    head = content.get(HEAD)
    if isinstance(head, ConfigRecord) and head.get("type") == Refusal.__name__:
        refusal, _ = unpack(content, Refusal, NO_ARRAYS, _REFUSAL_BYTES)
        raise ProtocolError(f"{refusal.code}: {plain(refusal.detail)}")
    return unpack(content, expected, limits, max_body_bytes)


@dataclass
class Account:
    """What a site cost so far: bytes on the wire, seconds of work and transfer."""

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


class Courier(Protocol):
    """Sends letters and hands over what comes back, in order of time."""

    accounts: defaultdict[str, Account]

    @property
    def now_s(self) -> float:
        """Seconds since the run began, on this courier's clock."""
        ...

    def send(self, letters: Sequence[Letter]) -> None:
        """Send letters now."""
        ...

    def next(self, until_s: float) -> Arrival | None:
        """Return the next answer up to ``until_s``; None when that time has come."""
        ...

    def spend(self, seconds: float) -> None:
        """Let the server's own work take its simulated time."""
        ...

    def admit(self, site: str, node: int) -> None:
        """Reach a site that came at this node."""
        ...

    def dismiss(self, site: str) -> None:
        """Send a site that left nothing more."""
        ...


@dataclass(frozen=True)
class Patience:
    """How long to wait for answers: ``within_s`` at most, ``grace_s`` once a ``quorum`` has answered."""

    within_s: float
    quorum: float = 1.0
    grace_s: float = 0.0


def gather(
    courier: Courier, letters: Sequence[Letter], patience: Patience
) -> tuple[list[Arrival], list[Arrival]]:
    """Send ``letters`` and wait for their answers; return them by site, and whatever else came meanwhile."""
    courier.send(letters)
    until_s = courier.now_s + patience.within_s
    enough = math.ceil(patience.quorum * len(letters) - 1e-9)
    waiting, found, others = set(map(id, letters)), [], []
    while waiting and (arrival := courier.next(until_s)) is not None:
        if id(arrival.letter) in waiting:
            waiting.remove(id(arrival.letter))
            found.append(arrival)
            if len(found) == enough:
                until_s = min(until_s, courier.now_s + patience.grace_s)
        else:
            others.append(arrival)
    return sorted(found, key=lambda a: (a.letter.about, a.letter.site)), others
