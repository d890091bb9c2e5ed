"""The courier of a deployment: real time, in which answers are taken as they come."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.serverapp import Grid

from server.courier import Arrival, Letter
from server.post import Post, arrival_of
from server.provenance import Remembering
from server.pulling import Reply
from server.record import Record

_POLL_S = 0.02  # a grid that asks over a line says itself how often


class WallCourier(Post):
    """Real time: answers are taken as they come.

    Its clock shows the last time that is on the record. While no process works on the run it stands still.
    """

    def __init__(self, grid: Grid, nodes: Mapping[str, int], record: Record | None = None) -> None:
        self._now_s = 0.0
        self._live_s, self._live_at = 0.0, time.monotonic()
        self._ready: list[Arrival] = []
        self._versions: dict[str, bytes] = {}
        super().__init__(grid, nodes, record)

    @property
    def now_s(self) -> float:
        """Seconds since the run began, without those in which no process worked on it."""
        return self._now_s

    def send(self, letters: Sequence[Letter]) -> None:
        """Push the letters to Flower."""
        self._now_s = self.push(letters, self._clock() if self.record.is_live else self._now_s)

    def next(self, until_s: float) -> Arrival | None:
        """Poll until an answer is there or the time has come."""
        while not self._ready:
            if self.record.next_kind == "passed":
                self._now_s = float((self.record.replayed("passed") or {})["at_s"])
                return None
            said = self.record.replayed("received")
            if said is not None:
                self._take(self.again(said), said["replies"], float(said["at_s"]))
            elif found := self.pull():
                now_s = self._clock()
                self._take(found, self.keep(found, {"at_s": now_s}), now_s)
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
        opened = self.close(found)
        for (number, reply), as_kept in zip(found, kept, strict=True):
            one = opened[number]
            self.account(one.letter, reply, now_s - one.sent_s)
            if reply.version:
                self._versions[one.letter.site] = bytes.fromhex(reply.version)
            self._ready.append(arrival_of(one.letter, now_s, reply, as_kept))

    def _clock(self) -> float:
        return self._live_s + time.monotonic() - self._live_at

    def go_live(self) -> None:
        """Go on from the last time on the record; send what no answer came to."""
        self._live_s, self._live_at = self._now_s, time.monotonic()
        if isinstance(self.grid, Remembering):
            self.grid.go_on(self.nodes, self._versions)
        super().go_live()
