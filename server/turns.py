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

from flwr.app import Message
from flwr.serverapp import Grid

from protocol.errors import ConsiliumError
from server.flwr_adapter import is_link_failure
from server.grids import GridAround

_POLL_S = 0.05


class TurnsGrid(GridAround):
    """Holds a message back until its node has answered the one before; each node's keep their order.

    It hands out ids of its own, as a message that is held back has none from Flower yet.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._numbers = itertools.count(1)
        self._held: defaultdict[int, deque[tuple[str, Message]]] = defaultdict(deque)
        self._asked: dict[str, tuple[str, int]] = {}  # by Flower's id: ours, and the node
        self._replies: dict[str, Message] = {}
        self._failures: dict[str, Exception] = {}  # what pulling a reply raised, for whoever asks for it

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages, each at its node, send those whose turn it is, and return an id for each."""
        ids = []
        for message in messages:
            ids.append(f"turn-{next(self._numbers)}")
            self._held[message.metadata.dst_node_id].append((ids[-1], message))
        self._take_turns()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come to these messages, each once; raises what pulling one of them raised."""
        self._take_turns()
        wanted = list(message_ids)
        for own in wanted:
            if own in self._failures:
                raise self._failures.pop(own)
        return [self._replies.pop(own) for own in wanted if own in self._replies]

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
        for flower_id, (own, _) in list(self._asked.items()):
            try:
                found = list(self._grid.pull_messages([flower_id]))
            except Exception as error:
                if isinstance(error, ConsiliumError) or is_link_failure(error):
                    raise
                del self._asked[flower_id]
                self._failures[own] = error
                continue
            if found:  # a second answer to one message is left out
                del self._asked[flower_id]
                found[0].metadata.__dict__["_reply_to_message_id"] = own
                self._replies[own] = found[0]
        busy = {node for _, node in self._asked.values()}
        for node in [node for node, queue in self._held.items() if queue and node not in busy]:
            own, message = self._held[node].popleft()
            for flower_id in self._grid.push_messages([message]):
                self._asked[flower_id] = (own, node)
