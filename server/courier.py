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
from server.record import DivergedError, Record
from server.replies import from_json, keepable, refs_of, to_json
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


class SimulatedSites(Protocol):
    """The memories of sites that live in this process, and end with it."""

    def changes(self) -> dict[int, dict[str, bytes | None]]:
        """Return what changed since it was last asked, by node and key; None for what is gone."""
        ...

    def restore(self, memories: Mapping[int, Mapping[str, bytes]]) -> None:
        """Give every node back what it had; a node that is not named had nothing."""
        ...


@dataclass(frozen=True)
class _Open:
    """A letter that was sent and not answered, when that was, and the first one that was sent with it."""

    letter: Letter
    sent_s: float
    batch: int


class _Base:
    """What both couriers share: nodes, accounts, and that all that is sent and received is on the record.

    A letter is on the record before it is sent, an answer before it is used. Of a run that is resumed the
    record hands both out again; what it has no answer to is sent again once the run is live.
    """

    def __init__(self, grid: Grid, nodes: Mapping[str, int], record: Record | None = None) -> None:
        self._grid = grid
        self._nodes = dict(nodes)
        self._numbers = itertools.count()
        self._open: dict[int, _Open] = {}
        self._sent: dict[str, int] = {}
        self.record = record or Record()
        self.accounts: defaultdict[str, Account] = defaultdict(Account)
        self.record.when_live(self._go_live)

    def admit(self, site: str, node: int) -> None:
        """Reach a site that came at this node."""
        self._nodes[site] = node

    def dismiss(self, site: str) -> None:
        """Send a site that left nothing more."""
        self._nodes.pop(site, None)

    def _go_live(self) -> None:
        """Send what an earlier process had sent, and no answer came to."""
        there = [n for n in sorted(self._open) if self._open[n].letter.site in self._nodes]
        for _, batch in itertools.groupby(there, lambda n: self._open[n].batch):
            self._post(list(batch))  # as they were: colluding sites see what was sent at once

    def _push(self, letters: Iterable[Letter], now_s: float) -> float:
        """Send letters to sites that are there; return when that was, on the record."""
        chosen = {next(self._numbers): x for x in letters if x.site in self._nodes}
        if not chosen:
            return now_s
        said = self.record.replayed("sent")
        if said is None:
            named = [[n, x.site, x.message_type, x.about] for n, x in chosen.items()]
            said = self.record.note("sent", "", {"at_s": now_s, "letters": named})
            self.record.commit()
        for (number, letter), known in zip(chosen.items(), said["letters"], strict=False):
            if known != [number, letter.site, letter.message_type, letter.about]:
                raise DivergedError(f"the journal has a letter {known}, and now it is to {letter.site}")
            self._open[number] = _Open(letter, said["at_s"], min(chosen))
            if letter.counted:
                self.accounts[letter.site].bytes_down += wire_bytes(letter.content)
        if self.record.is_live:
            self._post(list(chosen))
        return float(said["at_s"])

    def _post(self, numbers: Sequence[int]) -> None:
        """Hand letters to the grid."""
        letters = [self._open[n].letter for n in numbers]
        messages = [
            Message(x.content, self._nodes[x.site], x.message_type, group_id=str(x.round or 0))
            for x in letters
        ]
        if messages:
            self._sent.update(zip(self._grid.push_messages(messages), numbers, strict=True))

    def _pull(self) -> list[tuple[int, Reply]]:
        """Return what has come in, one message at a time so that one bad reply spoils no other."""
        found: list[tuple[int, Reply]] = []
        for message_id in list(self._sent):
            # A node may answer twice: both go on, and whoever asked tells them apart.
            if replies := pull(self._grid, message_id):
                number = self._sent.pop(message_id)
                found.extend((number, keepable(reply)) for reply in replies)
        return found

    def _keep(self, found: Sequence[tuple[int, Reply]], more: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Put what came on the record; return its replies as that has them."""
        if not self.record.keeps:
            return [{} for _ in found]
        replies = [
            {"n": n, "about": self._open[n].letter.about, "site": self._open[n].letter.site}
            | to_json(reply, self.record.content)
            for n, reply in found
        ]
        said = self.record.note("received", "", {"replies": replies, **more})
        self.record.commit()
        kept: list[dict[str, Any]] = said["replies"]
        return kept

    def _again(self, said: Mapping[str, Any]) -> list[tuple[int, Reply]]:
        """Return what had come, from the record."""
        return [(one["n"], from_json(one, self.record.content)) for one in said["replies"]]

    def _close(self, found: Iterable[tuple[int, Reply]]) -> dict[int, _Open]:
        """Take what was answered from what is open; return it."""
        return {n: self._open.pop(n) for n in {n for n, _ in found}}

    def _account(self, letter: Letter, reply: Reply, seconds: float) -> None:
        if letter.counted:
            account = self.accounts[letter.site]
            account.bytes_up += reply.size
            account.seconds += seconds


class WallCourier(_Base):
    """Real time: answers are taken as they come.

    Its clock shows the last time that is on the record. While no process works on the run it stands still.
    """

    def __init__(self, grid: Grid, nodes: Mapping[str, int], record: Record | None = None) -> None:
        self._now_s = 0.0
        self._live_s, self._live_at = 0.0, time.monotonic()
        self._ready: list[Arrival] = []
        super().__init__(grid, nodes, record)

    @property
    def now_s(self) -> float:
        """Seconds since the run began, without those in which no process worked on it."""
        return self._now_s

    def send(self, letters: Sequence[Letter]) -> None:
        """Push the letters to Flower."""
        self._now_s = self._push(letters, self._clock() if self.record.is_live else self._now_s)

    def next(self, until_s: float) -> Arrival | None:
        """Poll until an answer is there or the time has come."""
        while not self._ready:
            if self.record.next_kind == "passed":
                self._now_s = float((self.record.replayed("passed") or {})["at_s"])
                return None
            said = self.record.replayed("received")
            if said is not None:
                self._take(self._again(said), said["replies"], float(said["at_s"]))
            elif found := self._pull():
                now_s = self._clock()
                self._take(found, self._keep(found, {"at_s": now_s}), now_s)
            elif (now_s := self._clock()) >= until_s:
                self._now_s = float(self.record.note("passed", "", {"at_s": now_s})["at_s"])
                return None
            else:
                time.sleep(_POLL_S)
        arrival = self._ready.pop(0)
        self._now_s = arrival.at_s
        return arrival

    def spend(self, seconds: float) -> None:
        """Do nothing: real work takes its real time."""

    def _take(
        self, found: Sequence[tuple[int, Reply]], kept: Sequence[Mapping[str, Any]], now_s: float
    ) -> None:
        opened = self._close(found)
        for (number, reply), as_kept in zip(found, kept, strict=True):
            one = opened[number]
            self._account(one.letter, reply, now_s - one.sent_s)
            self._ready.append(_arrival(one.letter, now_s, reply, as_kept))

    def _clock(self) -> float:
        return self._live_s + time.monotonic() - self._live_at

    def _go_live(self) -> None:
        self._live_s, self._live_at = self._now_s, time.monotonic()
        super()._go_live()


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
        self,
        grid: Grid,
        nodes: Mapping[str, int],
        profiles: Mapping[str, SiteProfile],
        seed: int,
        record: Record | None = None,
        sites: SimulatedSites | None = None,
    ) -> None:
        self._profiles, self._seed = profiles, seed
        self._due: list[_Due] = []
        self._busy_until_s: defaultdict[str, float] = defaultdict(float)
        self._now_s = 0.0
        self._sites = sites
        self._memories: dict[int, dict[str, str]] = {}
        super().__init__(grid, nodes, record)

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

    def _go_live(self) -> None:
        if self._sites is not None and self._memories:
            read = self.record.content.read
            self._sites.restore(
                {node: {key: read(ref) for key, ref in kept.items()} for node, kept in self._memories.items()}
            )
        super()._go_live()

    def _collect(self) -> None:
        """Wait, really, for all that was sent; then say when each answer would have come."""
        if not self._open:
            return
        said = self.record.replayed("received")
        if said is not None:
            found, kept = self._again(said), said["replies"]
            self._remember(said["memories"], replayed=True)
        else:
            found = self._await_all()
            memories = self._sites.changes() if self._sites is not None and self.record.keeps else {}
            put = self.record.content.put
            refs = {
                str(node): {key: None if data is None else put(data) for key, data in changed.items()}
                for node, changed in memories.items()
            }
            self._remember(refs)
            kept = self._keep(found, {"memories": refs})
        self._schedule(found, kept)

    def _await_all(self) -> list[tuple[int, Reply]]:
        limit, found = time.monotonic() + _REAL_LIMIT_S, list[tuple[int, Reply]]()
        while self._sent:
            found += (came := self._pull())
            if time.monotonic() > limit:
                raise RunError(f"{len(self._sent)} simulated sites gave no answer in {_REAL_LIMIT_S:.0f} s")
            if self._sent and not came:
                time.sleep(_POLL_S)
        # In the order of sending, whatever order an engine answered in: a site does one thing at a time.
        return sorted(found, key=lambda f: f[0])

    def _schedule(self, found: Sequence[tuple[int, Reply]], kept: Sequence[Mapping[str, Any]]) -> None:
        opened, answered = self._close(found), set[int]()
        for (number, reply), as_kept in zip(found, kept, strict=True):
            if number in answered:
                continue  # a second answer to one letter has no time of its own on this clock
            answered.add(number)
            letter, sent_s = opened[number].letter, opened[number].sent_s
            seconds = self._seconds(letter, reply)
            self._account(letter, reply, seconds)
            at_s = max(sent_s, self._busy_until_s[letter.site]) + seconds
            self._busy_until_s[letter.site] = at_s
            arrival = _arrival(letter, at_s, reply, as_kept)
            heapq.heappush(self._due, _Due(at_s, letter.site, number, arrival))

    def _remember(self, changed: Mapping[str, Mapping[str, str | None]], *, replayed: bool = False) -> None:
        """Note where the sites' memories lie by now; what they no longer hold has one use less."""
        for node, refs in changed.items():
            kept = self._memories.setdefault(int(node), {})
            for key, ref in refs.items():
                if (old := kept.pop(key, None)) is not None:
                    self.record.content.drop(old)
                if ref is not None:
                    kept[key] = ref
                    if replayed:
                        self.record.content.use(ref)

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


def _arrival(letter: Letter, at_s: float, reply: Reply, kept: Mapping[str, Any]) -> Arrival:
    return Arrival(letter, at_s, reply.content, str(reply.failure or ""), reply.failure, tuple(refs_of(kept)))
