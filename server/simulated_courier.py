"""The courier of a simulation: every answer comes when the site's profile says that it would have come.

So time-to-target is a result and not noise.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.serverapp import Grid

from collab.rng import generator
from collab.terms import SiteProfile
from protocol.errors import RunError
from protocol.records import wire_bytes
from server.courier import Arrival, Letter
from server.post import Post, arrival_of
from server.pulling import Reply
from server.record import Record

_POLL_S = 0.02
# How long a simulated site may really take before the simulation itself counts as broken.
_REAL_LIMIT_S = 3600.0


class SimulatedSites(Protocol):
    """The memories of sites that live in this process, and end with it."""

    def changes(self) -> dict[int, dict[str, bytes | None]]:
        """Return what changed since it was last asked, by node and key; None for what is gone."""
        ...

    def restore(self, memories: Mapping[int, Mapping[str, bytes]]) -> None:
        """Give every node back what it had; a node that is not named had nothing."""
        ...


@dataclass(order=True)
class _Due:
    at_s: float
    site: str
    number: int
    arrival: Arrival = field(compare=False)


class SimulatedCourier(Post):
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
        self.push([x for x in letters if not self._vanishes(x)], self._now_s)

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

    def go_live(self) -> None:
        """Give the sites their memories back, then send what no answer came to."""
        if self._sites is not None and self._memories:
            read = self.record.content.read
            self._sites.restore(
                {node: {key: read(ref) for key, ref in kept.items()} for node, kept in self._memories.items()}
            )
        super().go_live()

    def _collect(self) -> None:
        """Wait, really, for all that was sent; then say when each answer would have come."""
        if not self.open:
            return
        said = self.record.replayed("received")
        if said is not None:
            found, kept = self.again(said), said["replies"]
            self._remember(said["memories"], replayed=True)
        else:
            found = self._await_all()
            refs = self._changes()
            self._remember(refs)
            kept = self.keep(found, {"memories": refs})
        self._schedule(found, kept)

    def _changes(self) -> dict[str, dict[str, str | None]]:
        """Keep what changed in the sites' memories; return where that lies."""
        if self._sites is None or not self.record.keeps:
            return {}
        put = self.record.content.put
        return {
            str(node): {key: None if data is None else put(data) for key, data in changed.items()}
            for node, changed in self._sites.changes().items()
        }

    def _await_all(self) -> list[tuple[int, Reply]]:
        limit, found = time.monotonic() + _REAL_LIMIT_S, list[tuple[int, Reply]]()
        while self.posted:
            found += (came := self.pull())
            if time.monotonic() > limit:
                raise RunError(f"{len(self.posted)} simulated sites gave no answer in {_REAL_LIMIT_S:.0f} s")
            if self.posted and not came:
                time.sleep(_POLL_S)
        # In the order of sending, whatever order an engine answered in: a site does one thing at a time.
        return sorted(found, key=lambda f: f[0])

    def _schedule(self, found: Sequence[tuple[int, Reply]], kept: Sequence[Mapping[str, Any]]) -> None:
        opened, answered = self.close(found), set[int]()
        for (number, reply), as_kept in zip(found, kept, strict=True):
            if number in answered:
                continue  # a second answer to one letter has no time of its own on this clock
            answered.add(number)
            letter, sent_s = opened[number].letter, opened[number].sent_s
            seconds = self._seconds(letter, reply)
            self.account(letter, reply, seconds)
            at_s = max(sent_s, self._busy_until_s[letter.site]) + seconds
            self._busy_until_s[letter.site] = at_s
            arrival = arrival_of(letter, at_s, reply, as_kept)
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
