"""What the SuperLink keeps of replies, for the grid that takes them: good, bad and late. Not a test."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto import message_pb2, node_pb2, runtime_pb2
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_head_values_from_object_content,
)

from server.flwr_adapter.runtime import Task

MOST = 100_000
TASK = Task("token-that-nobody-sees", 3, 77, 1, "r1")
Content = Callable[[bytes], bytes]


def _same(content: bytes) -> bytes:
    return content


class FakeRuntime:
    """What the SuperLink keeps: replies by the message that they answer, and their objects."""

    def __init__(self) -> None:
        self.replies: dict[str, list[tuple[str, message_pb2.ObjectTree]]] = {}
        self.objects: dict[str, bytes] = {}
        self.confirmed: list[str] = []
        self.missing: set[str] = set()
        self.late: dict[str, int] = {}
        self.asked: list[str] = []
        self.fails: dict[str, BaseException] = {}  # by the name of Flower's call
        self.stuck: dict[str, BaseException] = {}  # by the object or message that is asked for
        self._lock = threading.Lock()

    def PullMessages(self, request: Any) -> Any:  # noqa: N802
        """Flower's call."""
        self._may_fail("PullMessages")
        (asked,) = request.message_ids
        if asked in self.stuck:
            raise self.stuck[asked]
        found = self.replies.pop(asked, [])
        metadata = message_pb2.Metadata(reply_to_message_id=asked)
        return runtime_pb2.PullAppMessagesResponse(
            messages_list=[message_pb2.Message(metadata=metadata) for _ in found],
            message_object_trees=[tree for _, tree in found],
        )

    def PullObject(self, request: Any) -> Any:  # noqa: N802
        """Flower's call."""
        with self._lock:
            self._may_fail("PullObject")
            if request.object_id in self.stuck:
                raise self.stuck[request.object_id]
            self.asked.append(request.object_id)
            self.late[request.object_id] = self.late.get(request.object_id, 0) - 1
            return message_pb2.PullObjectResponse(
                object_found=request.object_id not in self.missing,
                object_available=self.late[request.object_id] < 0,
                object_content=self.objects[request.object_id],
            )

    def ConfirmMessageReceived(self, request: Any) -> Any:  # noqa: N802
        """Flower's call."""
        self._may_fail("ConfirmMessageReceived")
        self.confirmed.append(request.message_object_id)
        return message_pb2.ConfirmMessageReceivedResponse()

    def GetNodes(self, request: Any) -> Any:  # noqa: N802
        """Flower's call."""
        self._may_fail("GetNodes")
        node = node_pb2.NodeInfo(node_id=5, public_key=b"key", last_activated_at="2026-01-01")
        return runtime_pb2.GetNodesResponse(nodes=[node])

    def PushMessages(self, request: Any) -> Any:  # noqa: N802
        """Flower's call."""
        self._may_fail("PushMessages")
        return runtime_pb2.PushAppMessagesResponse(message_ids=["sent"])

    def PushObject(self, request: Any) -> Any:  # noqa: N802
        """Flower's call."""
        return message_pb2.PushObjectResponse(stored=True)

    def _may_fail(self, call: str) -> None:
        if call in self.fails:
            raise self.fails[call]

    def put(self, asked: str, record: RecordDict, **change: Content) -> str:
        """Keep a reply; ``change`` rewrites the objects of a kind, and all that name them after that."""
        message = Message(record, dst_node_id=1, message_type="query.x")
        ids: dict[str, str] = {}
        for old, found in get_all_nested_objects(message).items():  # children first
            content = bytes(found.deflate())
            for before, after in ids.items():
                content = content.replace(before.encode(), after.encode())
            kind = get_object_head_values_from_object_content(content)[0]
            content = change.get(kind, _same)(content)
            ids[old] = hashlib.sha256(content).hexdigest()
            self.objects[ids[old]] = content
        root = ids[message.object_id]
        self.replies.setdefault(asked, []).append((root, self.tree(root)))
        return root

    def tree(self, object_id: str) -> message_pb2.ObjectTree:
        """The tree of an object, as its heads say."""
        _, children, _ = get_object_head_values_from_object_content(self.objects[object_id])
        return message_pb2.ObjectTree(object_id=object_id, children=[self.tree(c) for c in children])


def record(number: int = 1, array_bytes: int = 1000) -> RecordDict:
    """A reply with one array."""
    data = np.full(array_bytes, number, np.uint8).tobytes()
    array = Array(dtype="uint8", shape=(array_bytes,), stype="x", data=data)
    return RecordDict({"head": ConfigRecord({"number": number}), "arrays": ArrayRecord({"blob": array})})


def body(change: Callable[[Any], Any] | bytes) -> Content:
    """Rewrite an object's body, its head included."""

    def rewrite(content: bytes) -> bytes:
        head, _, old = content.partition(HEAD_BODY_DIVIDER)
        new = change if isinstance(change, bytes) else json.dumps(change(json.loads(old))).encode()
        kind, children, _ = head.decode().split(" ")
        return f"{kind} {children} {len(new)}".encode() + HEAD_BODY_DIVIDER + new

    return rewrite


def number(message: Message) -> Any:
    """The number in a reply."""
    return message.content.config_records["head"]["number"]


def status_error(code: int) -> httpx.HTTPStatusError:
    """What a call raises for an answer with this status."""
    request = httpx.Request("POST", "http://x")
    return httpx.HTTPStatusError(str(code), request=request, response=httpx.Response(code, request=request))
