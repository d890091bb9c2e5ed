"""Letters to sites and their answers, on a clock: the only code that speaks to Flower's Grid.

``SimulatedCourier`` gives every answer the moment at which the site's profile says that it would
have come, so time-to-target is a result and not noise. ``WallCourier`` takes answers as they come.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from collab.rng import generator
from collab.terms import SiteProfile
from protocol.bounds import Frozen
from protocol.codec import Limits
from protocol.errors import ProtocolError, RunError
from protocol.messages import Contribution, Refusal
from protocol.records import HEAD, MAX_BODY_BYTES, unpack, unpack_message, wire_bytes
from server.gate import NO_ARRAYS, Demand, check, check_sender, guarded
from server.pulling import Reply, pull
from server.units import plain

M = TypeVar("M", bound=Frozen)

_POLL_S = 0.02  # a grid that asks over a line says itself how often
# A refusal is a code and 500 characters, each of which JSON may write in 12 bytes.
_REFUSAL_BYTES = 8192
# How long a simulated site may really take before the simulation itself counts as broken.
_REAL_LIMIT_S = 3600.0


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

    ``failure`` is an error with a code of its own, where the answer could not even be taken.
    """

    letter: Letter
    at_s: float
    content: RecordDict | None
    error: str = ""
    failure: ProtocolError | None = None

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


class _Base:
    """What both couriers share: the way from a site's name to its node, and the accounts."""

    def __init__(self, grid: Grid, nodes: Mapping[str, int]) -> None:
        self._grid = grid
        self._nodes = dict(nodes)
        self._numbers = itertools.count()
        self._sent: dict[str, tuple[int, Letter, float]] = {}
        self.accounts: defaultdict[str, Account] = defaultdict(Account)

    def admit(self, site: str, node: int) -> None:
        """Reach a site that came at this node."""
        self._nodes[site] = node

    def dismiss(self, site: str) -> None:
        """Send a site that left nothing more."""
        self._nodes.pop(site, None)

    def _push(self, letters: Iterable[Letter], now_s: float) -> None:
        chosen = [letter for letter in letters if letter.site in self._nodes]
        messages = [
            Message(x.content, self._nodes[x.site], x.message_type, group_id=str(x.round or 0))
            for x in chosen
        ]
        for letter, message_id in zip(chosen, self._grid.push_messages(messages), strict=True):
            self._sent[message_id] = (next(self._numbers), letter, now_s)
            if letter.counted:
                self.accounts[letter.site].bytes_down += wire_bytes(letter.content)

    def _pull(self) -> list[tuple[int, Letter, float, Reply]]:
        """Return what has come in, one message at a time so that one bad reply spoils no other."""
        found: list[tuple[int, Letter, float, Reply]] = []
        for message_id in list(self._sent):
            # A node may answer twice: both go on, and whoever asked tells them apart.
            if replies := pull(self._grid, message_id):
                sent = self._sent.pop(message_id)
                found.extend((*sent, reply) for reply in replies)
        return found

    def _account(self, letter: Letter, reply: Reply, seconds: float) -> None:
        if letter.counted:
            account = self.accounts[letter.site]
            account.bytes_up += reply.size
            account.seconds += seconds


class WallCourier(_Base):
    """Real time: answers are taken as they come."""

    def __init__(self, grid: Grid, nodes: Mapping[str, int]) -> None:
        super().__init__(grid, nodes)
        self._start = time.monotonic()
        self._ready: list[Arrival] = []

    @property
    def now_s(self) -> float:
        """Seconds since this courier was made."""
        return time.monotonic() - self._start

    def send(self, letters: Sequence[Letter]) -> None:
        """Push the letters to Flower."""
        self._push(letters, self.now_s)

    def next(self, until_s: float) -> Arrival | None:
        """Poll until an answer is there or the time has come."""
        while True:
            for _, letter, sent_s, reply in self._pull():
                now_s = self.now_s
                self._account(letter, reply, now_s - sent_s)
                self._ready.append(_arrival(letter, now_s, reply))
            if self._ready:
                return self._ready.pop(0)
            if self.now_s >= until_s:
                return None
            time.sleep(_POLL_S)

    def spend(self, seconds: float) -> None:
        """Do nothing: real work takes its real time."""


@dataclass(order=True)
class _Due:
    at_s: float
    site: str
    number: int
    arrival: Arrival = field(compare=False)


class SimulatedCourier(_Base):
    """Simulated time from site profiles: work / examples_per_s, bytes / bandwidth, latency, drop-out.

    A site vanishes from a round with its profile's chance, derived from (seed, round, site).
    """

    def __init__(
        self, grid: Grid, nodes: Mapping[str, int], profiles: Mapping[str, SiteProfile], seed: int
    ) -> None:
        super().__init__(grid, nodes)
        self._profiles, self._seed = profiles, seed
        self._due: list[_Due] = []
        self._busy_until_s: defaultdict[str, float] = defaultdict(float)
        self._now_s = 0.0

    @property
    def now_s(self) -> float:
        """Simulated seconds since the run began."""
        return self._now_s

    def send(self, letters: Sequence[Letter]) -> None:
        """Push the letters to the sites that do not vanish in their round."""
        self._push([x for x in letters if not self._vanishes(x)], self._now_s)

    def next(self, until_s: float) -> Arrival | None:
        """Return the answer that would come first, ties by site; move the clock there."""
        self._collect()
        if self._due and self._due[0].at_s <= until_s:
            due = heapq.heappop(self._due)
            self._now_s = max(self._now_s, due.at_s)
            return due.arrival
        self._now_s = max(self._now_s, until_s)
        return None

    def spend(self, seconds: float) -> None:
        """Move the clock by the server's own work."""
        self._now_s += seconds

    def _collect(self) -> None:
        """Wait, really, for all that was sent; then say when each answer would have come."""
        limit, found = time.monotonic() + _REAL_LIMIT_S, []
        while self._sent:
            found += (came := self._pull())
            if time.monotonic() > limit:
                raise RunError(f"{len(self._sent)} simulated sites gave no answer in {_REAL_LIMIT_S:.0f} s")
            if not came:
                time.sleep(_POLL_S)
        # In the order of sending, whatever order an engine answered in: a site does one thing at a time.
        answered: set[int] = set()
        for number, letter, sent_s, reply in sorted(found, key=lambda f: f[0]):
            if number in answered:
                continue  # a second answer to one letter has no time of its own on this clock
            answered.add(number)
            seconds = self._seconds(letter, reply)
            self._account(letter, reply, seconds)
            at_s = max(sent_s, self._busy_until_s[letter.site]) + seconds
            self._busy_until_s[letter.site] = at_s
            heapq.heappush(self._due, _Due(at_s, letter.site, number, _arrival(letter, at_s, reply)))

    def _seconds(self, letter: Letter, reply: Reply) -> float:
        if not letter.counted:
            return 0.0
        profile = self._profiles[letter.site]
        size = wire_bytes(letter.content) + reply.size
        transfer_s = size * 8 / (profile.bandwidth_mbit * 1e6) + 2 * profile.latency_s
        return transfer_s + reply.work / profile.examples_per_s

    def _vanishes(self, letter: Letter) -> bool:
        chance = self._profiles[letter.site].dropout
        if not chance or not letter.round:
            return False
        return bool(generator(self._seed, letter.round, letter.site, "dropout").random() < chance)


def _arrival(letter: Letter, at_s: float, reply: Reply) -> Arrival:
    return Arrival(letter, at_s, reply.content, str(reply.failure or ""), reply.failure)
