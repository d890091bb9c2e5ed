"""One errand at a site, and what the errands need of what lies below them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import Message

from protocol.errors import RunError
from server.provenance import Provenance


class Link(Protocol):
    """What lies below: Flower's grid, and who is behind its nodes."""

    def online(self) -> Mapping[str, tuple[int, str]]:
        """Return, for each site that is online, its node and since when without interruption."""
        ...

    def members(self) -> Collection[str]:
        """Return the sites of the roster in force."""
        ...

    def push(self, message: Message) -> str | None:
        """Send one message; return its id, None if it could not be sent."""
        ...

    def pull(self, message_id: str) -> list[Message]:
        """Return what came in answer to a message."""
        ...


class StoppedError(RunError):
    """Somebody asked for the run to stop."""

    code = "stopped"


@dataclass
class SiteWork:
    """What a site is doing for the run, for people to see. Times are seconds since 1970."""

    state: str = "idle"
    since: float = 0.0
    kind: str = ""
    task: str = ""
    share: float | None = None
    eta_s: float | None = None
    detail: str = ""


@dataclass
class Errand:
    """One message for a site and how far it is. Times are of a monotonic clock.

    ``sent`` holds Flower's ids of what may still be answered; ``stamp`` since when the site's node was online
    when it was asked last; ``again_at`` when it is to be asked (again), None while an answer is awaited;
    ``withdrawn``: nobody wants the answer any more, and the site is told so; ``previous``: the version of the
    site's memory that it starts from; ``provenance``: that of its answer, once a site gave one.
    """

    number: str
    message: Message
    site: str
    kind: str
    task: str
    asked: bytes = b""
    begun: float = 0.0
    sent: dict[str, float] = field(default_factory=dict)
    stamp: str = ""
    again_at: float | None = 0.0
    give_up_at: float = 0.0
    sent_at: float = 0.0
    receipted: bool = False
    withdrawn: bool = False
    previous: bytes = b""
    provenance: Provenance | None = None
    lost: int = 0
    wrong: int = 0

    @property
    def subtask(self) -> str:
        """The subtask of an assignment id."""
        return self._parts[2] if len(self._parts) > 2 else ""

    @property
    def round(self) -> int:
        """The round of an assignment id; 0 for what is of none."""
        return int(self._parts[1]) if len(self._parts) > 2 and self._parts[1].isdigit() else 0

    @property
    def is_of_a_round(self) -> bool:
        """Whether it is training that a round waits for."""
        return self.kind.startswith("train.") and self.kind not in ("train.finish", "train.alone")

    @property
    def _parts(self) -> list[str]:
        return self.task.split("/")
