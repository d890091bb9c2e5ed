"""Flower's grid as the ServerApp's process uses it: replies one at a time, piece by piece."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import httpx
from flwr.app import Array, Error, Message
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.runtime_pb2 import GetNodesRequest, PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.run import Run
from flwr.superlink.grid import HttpGrid

from server.flwr_adapter.runtime import Task

logger = logging.getLogger("consilium.run")

_MOST_OBJECTS = 100_000
# A reply of which nothing more comes for so long is given up; Flower closes the sender's session after 180 s.
_STALE_S = 180.0
# How much of one reply is taken at one look, so that nobody's large answer keeps the others waiting.
_AT_ONCE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Node:
    """A site's node that is online: who it is, and since when without interruption."""

    node_id: int
    public_key: bytes
    since: str


@dataclass
class _Coming:
    """A reply whose pieces are still on their way."""

    asked: str
    message_id: str
    missing: list[str]
    left: int
    moved_at: float
    contents: dict[str, bytes] = field(default_factory=dict)


class GuardedGrid(HttpGrid):
    """Flower's grid, with replies taken one at a time: a bad one is an error of its own and harms no other.

    Flower pulls a batch and raises at the first reply that it cannot put together; by then the others are
    gone from its database. It waits for pieces that are not up yet, and lets a reply name one piece many
    times over. Here nothing waits for a site, and what is put together may have ``most_bytes`` at most.
    Where the link does not answer, nothing has come and nothing was sent: the caller looks again.
    """

    def __init__(self, address: str, task: Task, most_bytes: int) -> None:
        super().__init__(address, insecure=True, token=task.token)
        self.set_run(Run.create_empty(task.flower_run))
        self._most_bytes = most_bytes
        self._coming: defaultdict[str, list[_Coming]] = defaultdict(list)
        self._online: list[Node] = []

    def online(self) -> list[Node]:
        """Return the nodes that are online, as far as is known."""
        try:
            nodes = self._runtime_client.GetNodes(GetNodesRequest()).nodes
            self._online = [Node(n.node_id, bytes(n.public_key), str(n.last_activated_at)) for n in nodes]
        except httpx.HTTPError as error:
            logger.warning("the link does not say who is online: %s", type(error).__name__)
        return self._online

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; return their ids, [] if they could not be sent."""
        try:
            return list(super().push_messages(list(messages)))
        except httpx.HTTPError as error:
            logger.warning("the link does not take a message: %s", type(error).__name__)
            return []

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have come to these messages, each once; what was bad is an error reply."""
        found: list[Message] = []
        for message_id in message_ids:
            coming = self._coming.pop(message_id, []) + self._announced(message_id)
            for one in coming:
                reply = self._taken(one)
                if reply is None:
                    self._coming[message_id].append(one)
                else:
                    found.append(reply)
        return found

    def _announced(self, message_id: str) -> list[_Coming]:
        """Return the replies that are announced to a message; Flower names each once, then forgets it."""
        try:
            answer = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=[message_id]))
        except httpx.HTTPError as error:
            logger.warning("the link does not say what has come: %s", type(error).__name__)
            return []
        at = time.monotonic()
        return [
            _Coming(message_id, tree.object_id, _pieces(tree), self._most_bytes, at)
            for tree in answer.message_object_trees
        ]

    def _taken(self, coming: _Coming) -> Message | None:
        """Return a reply that is there in whole, or an error in its place; None while pieces are missing."""
        try:
            self._fetch(coming)
            if coming.missing and time.monotonic() < coming.moved_at + _STALE_S:
                return None
            message = _message(coming.message_id, coming.contents, self._most_bytes)
        except httpx.HTTPError as error:
            if time.monotonic() < coming.moved_at + _STALE_S:
                return None  # the link is away for a moment
            return self._refused(coming, error)
        except Exception as error:  # noqa: BLE001  whatever a site put into it; the others must go on
            return self._refused(coming, error)
        self._confirm(coming.message_id)
        return message

    def _refused(self, coming: _Coming, error: Exception) -> Message:
        self._confirm(coming.message_id)
        why = f"it cannot be put together: {type(error).__name__}"
        return self._error(coming.asked, ErrorCode.MESSAGE_UNAVAILABLE, why)

    def _fetch(self, coming: _Coming) -> None:
        """Take the pieces that are up, in order, until one is not."""
        if not coming.missing and not coming.contents:
            raise ValueError("it has no pieces, or too many")
        taken = 0
        while coming.missing and taken < _AT_ONCE_BYTES:
            request = PullObjectRequest(node=self.node, run_id=self.run.run_id, object_id=coming.missing[0])
            answer = self._runtime_client.PullObject(request)
            if not answer.object_found:
                raise LookupError("a piece is gone")
            if not answer.object_available:
                return
            content = bytes(answer.object_content)
            coming.left -= len(content)
            if coming.left < 0:
                raise ValueError("more bytes than it may have")
            coming.contents[coming.missing.pop(0)] = content
            coming.moved_at = time.monotonic()
            taken += len(content)

    def _confirm(self, message_id: str) -> None:
        """Have Flower delete the pieces of a reply, also of one that is not used."""
        request = ConfirmMessageReceivedRequest(
            node=self.node, run_id=self.run.run_id, message_object_id=message_id
        )
        try:
            self._runtime_client.ConfirmMessageReceived(request)
        except httpx.HTTPError as error:
            logger.warning("the link keeps a reply that was taken: %s", type(error).__name__)

    def _error(self, asked: str, code: int, reason: str) -> Message:
        here = self.node.node_id
        metadata = Metadata(
            run_id=self.run.run_id,
            message_id="",
            src_node_id=here,
            dst_node_id=here,
            message_type=SYSTEM_MESSAGE_TYPE,
            group_id="",
            ttl=0,
            reply_to_message_id=asked,
            created_at=now().timestamp(),
        )
        return make_message(metadata=metadata, error=Error(code=code, reason=reason))


def _message(message_id: str, contents: dict[str, bytes], most_bytes: int) -> Message:
    if put_together(contents) > most_bytes:
        raise ValueError("it would unfold to more than it may have")
    message = inflatable_utils.inflate_object_from_contents(message_id, contents)
    if not isinstance(message, Message):
        raise TypeError("it is no message")
    message.metadata.__dict__["_message_id"] = message_id
    return message


def _pieces(tree: ObjectTree) -> list[str]:
    """Return the ids of all objects of a message, each once."""
    found: dict[str, None] = {}
    for number, node in enumerate(iterate_object_tree(tree)):
        found[node.object_id] = None
        if number > _MOST_OBJECTS:
            return []  # nothing of it is taken
    return list(found)


def put_together(contents: dict[str, bytes]) -> int:
    """Return how many bytes the arrays among Flower's objects have, each piece as often as it is named."""
    total = 0
    for content in contents.values():
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind == "Array":
            named = json.loads(get_object_body(content, Array))["arraychunk_ids"]  # read as Flower will
            if not isinstance(named, list) or len(named) > _MOST_OBJECTS:
                raise ValueError("an array of too many pieces")
            total += sum(len(contents[children[index]]) for index in named)
    return total
