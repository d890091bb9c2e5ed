"""How long a SuperNode sleeps, and when it has waited for its site's answer for too long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

# The SuperNode sleeps 3 s when no message came, and 0.5 s between looks for an answer.
IDLE_S, REPLY_S = 3, 0.5
FAST_S, SLOW_S = 0.05, 0.5
_GROWTH = 1.1  # from 50 ms to 500 ms within some six seconds in which nothing comes
_LOOK_S = 0.02
# An agent holds a message for 20 s at most; to hand over the largest answer takes a minute or two.
LONGEST_S = 240.0

logger = logging.getLogger("consilium.node")


class Naps:
    """Takes the place of ``time`` in the SuperNode's loop: its waits are short where something happens.

    Args:
        give_up: is called when an answer has been awaited for too long. A SuperNode waits without end for
            the answer to a message that its executor has lost, and its heartbeats go on meanwhile.
        longest_s: how long that is.
    """

    def __init__(self, give_up: Callable[[], None], longest_s: float = LONGEST_S) -> None:
        self._give_up, self._longest_s = give_up, longest_s
        self._idle_s = FAST_S
        self._since: float | None = None

    def sleep(self, seconds: float) -> None:
        """Sleep less than asked: 50 ms to 500 ms while nothing comes, 20 ms while an answer is awaited."""
        if seconds >= IDLE_S:
            self.moved()
            time.sleep(self._idle_s)
            self._idle_s = min(self._idle_s * _GROWTH, SLOW_S)
            return
        self._idle_s = FAST_S
        self._since = self._since or time.monotonic()
        if time.monotonic() > self._since + self._longest_s:
            logger.error("no answer from the agent for %.0f s: the SuperNode ends", self._longest_s)
            self.moved()
            self._give_up()
        time.sleep(min(seconds, _LOOK_S))

    def moved(self) -> None:
        """Hear that the SuperNode has got on: what it waits for next is something else."""
        self._since = None

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
