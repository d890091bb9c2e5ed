"""One message's work, as the agent and its bench speak of it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Literal

from flwr.app import RecordDict

State = Literal["waiting", "working", "done", "failed", "cancelled"]


@dataclass
class Work:
    """One message's work, by the name ``asked``. ``done`` is set when it has ended in any way.

    ``previous`` is the version of the site's memory that it starts from. ``lease`` is that of the server's
    process that asked for it last, ``serves`` that of the newest one of its run; ``stale`` work is of a
    process that has been replaced by one that asks for something else, or of a run that the server has left.
    ``code`` says in a refusal what kind of failure ``why`` is.
    """

    run: str
    kind: str
    task: str
    asked: bytes
    parts: tuple[bytes, ...] = field(repr=False)
    lease: int = 1
    previous: bytes = b""
    serves: int = 0
    state: State = "waiting"
    share: float | None = None
    begun: float = 0.0
    why: str = ""
    code: str = "worker"
    deaths: int = 0
    unwanted_at: float = 0.0
    stale: bool = False
    ended: float = 0.0
    answer: tuple[bytes, ...] = field(default=(), repr=False)
    refusal: RecordDict | None = field(default=None, repr=False)
    changed: dict[str, bytes | None] = field(default_factory=dict, repr=False)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def unwanted(self) -> bool:
        """Whether it is to stop."""
        return self.unwanted_at > 0

    def worked_s(self) -> float:
        """For how many seconds it has been worked on."""
        return time.monotonic() - self.begun if self.begun else 0.0

    def eta_s(self) -> float | None:
        """How many seconds it still takes at the pace until now; None while that cannot be said."""
        if not self.share or self.state != "working":
            return None
        return self.worked_s() * (1 - self.share) / self.share
