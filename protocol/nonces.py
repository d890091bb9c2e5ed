"""Which messages were accepted before: a nonce is good once, for as long as its message could be accepted."""

from __future__ import annotations

import heapq
import threading
from dataclasses import dataclass, field
from typing import Literal

Noted = Literal["new", "seen", "full", "forgotten"]


@dataclass
class _OfOne:
    """The nonces of one sender: each with the time at which it is forgotten, the earliest first."""

    seen: set[bytes] = field(default_factory=set)
    until: list[tuple[int, bytes]] = field(default_factory=list)
    forgotten_ms: int = -1


class Nonces:
    """The nonces of accepted messages, of each sender apart, so that none can use up another's room.

    Times are Unix times in ms. They are kept in memory: after a start, what came before is known again by
    its answer (``protocol.equivocation``), or by what it answers.

    Args:
        capacity: how many are remembered of one sender; with more, its messages are refused.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._senders: dict[str, _OfOne] = {}
        self._lock = threading.Lock()

    def look(self, sender: str, nonce: bytes, until_ms: int, now_ms: int) -> Noted:
        """Say whether ``note`` would remember this nonce, without doing it."""
        with self._lock:
            return self._state(self._senders.get(sender, _OfOne()), nonce, until_ms, now_ms)

    def note(self, sender: str, nonce: bytes, until_ms: int, now_ms: int) -> Noted:
        """Remember the nonce of an accepted message until ``until_ms``; call it for verified senders only.

        Returns:
            "new"; or, remembering nothing: "seen" before, "full", or "forgotten": nonces that were to be
            kept longer than this one are forgotten already, as happens when a clock is set back.
        """
        with self._lock:
            of_one = self._senders.setdefault(sender, _OfOne())
            state = self._state(of_one, nonce, until_ms, now_ms)
            if state == "new":
                of_one.seen.add(nonce)
                heapq.heappush(of_one.until, (until_ms, nonce))
            return state

    def _state(self, of_one: _OfOne, nonce: bytes, until_ms: int, now_ms: int) -> Noted:
        while of_one.until and of_one.until[0][0] < now_ms:
            of_one.forgotten_ms, gone = heapq.heappop(of_one.until)
            of_one.seen.discard(gone)
        if until_ms <= of_one.forgotten_ms:
            return "forgotten"
        if nonce in of_one.seen:
            return "seen"
        return "full" if len(of_one.seen) >= self._capacity else "new"
