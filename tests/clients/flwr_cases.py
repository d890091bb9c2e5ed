"""A SuperNode's state with one message in it, and a fleet that answers as it is told. Not a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse, PushMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.nodestate import NodeStateFactory

from clients.flwr_adapter import identity
from protocol.bundle import bundle_digest, make_bundle

RUN_ID, NODE_ID = 1, 7
BUNDLE = make_bundle()


class Node:
    """The state of a SuperNode, which is given messages as from a server."""

    def __init__(self) -> None:
        self.factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
        self.state: Any = self.factory.state()
        self.store = self.factory.objectstore_factory.store()
        self.state.set_node_id(NODE_ID)
        self.sent: list[tuple[str, dict[str, bytes]]] = []

    def receive(self, content: RecordDict, kind: str = "query.work_start", **how: Any) -> str:
        """Take a message in, by Flower's own code; return its id."""
        got, message_id = self.try_to_receive(content, kind, **how)
        assert got == RUN_ID
        return message_id

    def try_to_receive(
        self,
        content: RecordDict,
        kind: str = "query.work_start",
        *,
        take_in: Callable[..., int | None] = start_client_internal._pull_and_store_message,
        pulled: Callable[[], None] = lambda: None,
        confirmed: Callable[[], None] = lambda: None,
    ) -> tuple[int | None, str]:
        """Take a message in; each piece that is pulled calls something, and so does the receipt."""
        with identity():
            message = Message(content, dst_node_id=NODE_ID, message_type=kind)
            message.metadata.__dict__["_run_id"] = RUN_ID
            message.metadata.__dict__["_message_id"] = message.object_id
            with no_object_id_recompute():
                tree, objects = get_object_tree(message), get_all_nested_objects(message)
                contents = {key: one.deflate() for key, one in objects.items()}
            bare = remove_content_from_message(message)
        run = Run.create_empty(RUN_ID)
        run.fab_hash = bundle_digest(BUNDLE)

        def pull(_: int, key: str) -> bytes:
            pulled()
            return contents[key]

        got = take_in(
            state=self.state,
            object_store=self.store,
            node_config={},
            receive=lambda: (bare, tree),
            get_run=lambda _: run,
            get_fab=lambda digest, _: Fab(digest, BUNDLE, {}),
            pull_object=pull,
            confirm_message_received=lambda *_: confirmed(),
            trusted_entities=None,
        )
        return got, bare.metadata.message_id

    def push(self) -> None:
        """Wait for the answer and send it, by Flower's own code; ``sent`` holds it then."""
        pieces: dict[str, bytes] = {}

        def send(message: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
            self.sent.append((message.metadata.reply_to_message_id, pieces))
            return {one.object_id for one in start_client_internal.iterate_object_tree(tree)}, "session"

        start_client_internal._push_messages(
            state=self.state,
            object_store=self.store,
            send=send,
            push_object=lambda _run, _session, key, content: pieces.update({key: content}),
        )

    def reply(self) -> None:
        """Have an answer to whatever was received, as an executor would give it."""
        asked = next(entry.message for entry in self.state.msg_store.values())
        with identity():
            answer = Message(RecordDict(), reply_to=asked)
        start_client_internal._insert_message(answer, self.state, self.store)


class Fleet:
    """A server's Fleet API: each call is answered with the next of the statuses that its path is given."""

    def __init__(self, **statuses: Sequence[int]) -> None:
        self.statuses = {path.replace("_", "-"): list(codes) for path, codes in statuses.items()}
        self.calls: list[str] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer a call."""
        path = request.url.path.removeprefix("/v1/fleet/")
        self.calls.append(path)
        code = self.statuses[path].pop(0) if self.statuses.get(path) else 200
        if code != 200:
            return httpx.Response(code, text="no", request=request)
        body = {
            "activate-node": ActivateNodeResponse(node_id=NODE_ID),
            "send-node-heartbeat": SendNodeHeartbeatResponse(success=True),
            "pull-messages": PullMessagesResponse(),
            "push-messages": PushMessagesResponse(session_id="s"),
        }.get(path)
        content = body.SerializeToString() if body is not None else b""
        return httpx.Response(
            200, content=content, headers={"content-type": PROTOBUF_MEDIA_TYPE}, request=request
        )

    def client(self, base: type[FleetHttpClient] = FleetHttpClient) -> type[FleetHttpClient]:
        """Return Flower's client with this fleet at the other end of the line."""
        fleet = self

        class Client(base):  # type: ignore[valid-type,misc]
            @classmethod
            def from_server_address(cls, *given: Any, interceptors: Any = (), **others: Any) -> Self:
                made = cls("https://fleet", interceptors=interceptors)
                made._client.close()
                made._client = httpx.Client(transport=httpx.MockTransport(fleet.handle))
                return made

        return Client


@contextmanager
def connection() -> Iterator[tuple[Any, ...]]:
    """Flower's connection of a SuperNode to the fleet that stands in its module."""
    key = ec.generate_private_key(ec.SECP384R1())
    with http_request_response(
        "fleet:1", insecure=False, authentication_keys=(key, key.public_key())
    ) as callbacks:
        yield callbacks
