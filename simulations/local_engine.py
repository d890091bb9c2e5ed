"""The ``local`` engine: a Grid that calls the ClientApp in this process, one site after the other."""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from clients import memory_records
from server.flwr_adapter import task_identity
from server.grids import OwnRunGrid

logger = logging.getLogger(__name__)

# Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION
_CLIENT_APP_RAISED = 2

# What becomes of a batch of (message, answer) on its way back: all replies, in order.
Tamper = Callable[[Sequence[tuple[Message, Message]]], Sequence[Message]]


class LocalGrid(OwnRunGrid):
    """Nodes 1 to N of this process. A message is answered when it is pushed; states stay with their node.

    Byzantine sites work together, so ``tamper`` sees all messages that were pushed at once.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, bool | float | int | str],
        tamper: Tamper | None = None,
    ) -> None:
        self._app = client_app
        self._tamper = tamper
        self._run = Run.create_empty(run_id=secrets.randbits(62) + 1)
        self._contexts = {
            node: Context(
                run_id=self._run.run_id,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for node in range(1, num_nodes + 1)
        }
        self._before: dict[int, dict[str, object]] = {node: {} for node in self._contexts}
        self._numbers = itertools.count(1)
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids, 1 to N."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have each message answered now; return their ids."""
        batch = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"local-{next(self._numbers)}"
            batch.append((message, self._answer(message)))
        ids = [message.metadata.message_id for message, _ in batch]
        replies = [reply for _, reply in batch] if self._tamper is None else self._tamper(batch)
        self._replies.update(zip(ids, replies, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, each once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 - a reply is there at once
    ) -> Iterable[Message]:
        """Push messages and return their replies."""
        return self.pull_messages(list(self.push_messages(messages)))

    def changes(self) -> dict[int, dict[str, bytes | None]]:
        """Return what changed in the nodes' memories since this was last asked."""
        found = {}
        for node, context in self._contexts.items():
            if changed := dict(memory_records.changes(self._before[node], context.state)):
                found[node] = changed
                self._before[node] = dict(context.state)
        return found

    def restore(self, memories: Mapping[int, Mapping[str, bytes]]) -> None:
        """Give the nodes back what they remembered in a process before this one."""
        for node, kept in memories.items():
            state = self._contexts[node].state
            state.clear()
            state.update({key: memory_records.thaw(data) for key, data in kept.items()})
            self._before[node] = dict(state)

    def _answer(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            logger.warning("a site failed", exc_info=error)
            return Message(Error(code=_CLIENT_APP_RAISED, reason=type(error).__name__), reply_to=message)


def run_locally(
    serve: Callable[[Grid], None],
    client_app: ClientApp,
    *,
    num_nodes: int,
    run_config: Mapping[str, bool | float | int | str],
    tamper: Tamper | None = None,
) -> None:
    """Call ``serve`` with a grid of ``num_nodes`` sites in this process."""
    grid = LocalGrid(client_app, num_nodes, run_config, tamper)
    with task_identity(grid.run.run_id):
        serve(grid)
