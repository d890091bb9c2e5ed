"""A Grid on which a node has one message at a time, as a real site has.

In Flower's simulation two messages of one node may be worked on at once, each with the state that the
node had before either: the one that ends last overwrites what the other kept, and nothing says so.
A real SuperNode takes its messages in turn.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict, deque
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.flwr_adapter import Run

_POLL_S = 0.05


class TurnsGrid(Grid):
    """Holds a message back until its node has answered the one before; each node's keep their order.

    It hands out ids of its own, as a message that is held back has none from Flower yet.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._numbers = itertools.count(1)
        self._held: defaultdict[int, deque[tuple[str, Message]]] = defaultdict(deque)
        self._asked: dict[str, tuple[str, int]] = {}  # by Flower's id: ours, and the node
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run of the grid below."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the grid below."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message the older way, which Flower asks of every Grid."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The node ids of the grid below."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages, each at its node, send those whose turn it is, and return an id for each."""
        ids = []
        for message in messages:
            ids.append(f"turn-{next(self._numbers)}")
            self._held[message.metadata.dst_node_id].append((ids[-1], message))
        self._take_turns()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come to these messages, each once."""
        self._take_turns()
        return [self._replies.pop(own) for own in message_ids if own in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies that come within `timeout` seconds; wait for all if None."""
        waiting, replies = set(self.push_messages(messages)), list[Message]()
        until = None if timeout is None else time.monotonic() + timeout
        while waiting and (until is None or time.monotonic() < until):
            found = list(self.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            replies += found
            if waiting and not found:
                time.sleep(_POLL_S)
        return replies

    def _take_turns(self) -> None:
        """Collect what has come back, then send each free node its next message."""
        for reply in self._grid.pull_messages(list(self._asked)) if self._asked else ():
            own, _ = self._asked.pop(reply.metadata.reply_to_message_id, ("", 0))
            if not own:
                continue  # a second answer to one message
            reply.metadata.__dict__["_reply_to_message_id"] = own
            self._replies[own] = reply
        busy = {node for _, node in self._asked.values()}
        for node in [node for node, queue in self._held.items() if queue and node not in busy]:
            own, message = self._held[node].popleft()
            for flower_id in self._grid.push_messages([message]):
                self._asked[flower_id] = (own, node)
