"""A Grid that answers as it is told, in the order it is told, and couriers over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from collab.terms import SiteProfile
from protocol.messages import Evaluation, LocalModel
from protocol.records import pack, wire_bytes
from server.courier import Letter
from server.simulated_courier import SimulatedCourier

NODES = {"east": 11, "north": 12, "west": 13}
SITES = {node: site for site, node in NODES.items()}
SLOW = SiteProfile(examples_per_s=10, bandwidth_mbit=0.008, latency_s=0.5)  # 1,000 bytes a second
ASKED = pack(LocalModel(site="x", subtask="a", model=None))

Answer = RecordDict | Error


class FakeGrid:
    """Nodes that answer through ``answer(node, message)``; ``order`` ranks which reply is there first.

    A reply becomes available once all of lower rank have been pulled, as if sites differed in speed.
    """

    def __init__(
        self, answer: Callable[[int, Message], Answer], order: Mapping[int, int] | None = None
    ) -> None:
        self._answer = answer
        self._order = order or {}
        self._replies: dict[str, tuple[int, Message]] = {}
        self.pushed: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have each message answered; return their ids."""
        ids = []
        for message in messages:
            number = len(self.pushed)
            message.metadata.__dict__["_message_id"] = f"m{number}"
            answer = self._answer(message.metadata.dst_node_id, message)
            self._replies[f"m{number}"] = self._order.get(number, number), _reply(answer, message)
            self.pushed.append(message)
            ids.append(f"m{number}")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return those replies whose turn has come."""
        found = []
        for message_id in message_ids:
            rank, reply = self._replies[message_id]
            if rank == min(rank for rank, _ in self._replies.values()):
                del self._replies[message_id]
                found.append(reply)
        return found

    @property
    def grid(self) -> Grid:
        """This, as what it stands for."""
        return cast("Grid", cast("Any", self))


def _reply(answer: Answer, message: Message) -> Message:
    return Message(answer, reply_to=message)


def evaluation(site: str = "north", processed: int = 0) -> RecordDict:
    """An answer that says how many examples it took."""
    return pack(
        Evaluation(run="r", round=1, subtask="a", site=site, num_examples=1, examples_processed=processed)
    )


def answer(node: int, message: Message) -> Answer:
    """Every site answers with its name, after 20 examples of work."""
    return evaluation(SITES[node], 20)


def letter(site: str, **rest: Any) -> Letter:
    """A letter to a site, about nothing."""
    return Letter(site, "query.x", rest.pop("content", ASKED), **{"about": site, **rest})


def courier(
    grid: FakeGrid | None = None, seed: int = 3, profiles: Mapping[str, SiteProfile] | None = None
) -> SimulatedCourier:
    """A courier to three equal sites, but for the profiles given."""
    equal = dict.fromkeys(NODES, SLOW)
    return SimulatedCourier((grid or FakeGrid(answer)).grid, NODES, equal | dict(profiles or {}), seed)


def drain(sent: SimulatedCourier) -> list[tuple[str, float]]:
    """What each arrival is about, and when it comes."""
    found = []
    while (arrival := sent.next(1e9)) is not None:
        found.append((arrival.letter.about, arrival.at_s))
    return found


def seconds(site: str = "north") -> float:
    """What a letter and its answer take: both ways at 1,000 bytes/s, twice 0.5 s, 2 s of work."""
    return (wire_bytes(ASKED) + wire_bytes(evaluation(site, 20))) / 1000 + 2 * 0.5 + 20 / 10
