"""What a site uses of Flower's internals, in one file.

Two parts: the launcher of Flower's SuperNode, with the site's certificate and without its long waits, and
what the agent uses in the place of Flower's executor, which would import what the server sent.
`tests/clients/test_flwr_contract.py` names every internal used here, so an upgrade shows what changed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from socket import socket
from types import ModuleType
from typing import Any, ParamSpec, Self, TypeVar

import httpx
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ISOLATION_MODE_PROCESS, ErrorCode, SubStatus
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.object_store import ObjectStore, ObjectStoreFactory
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.main import create_app
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.nodestate import NodeState, NodeStateFactory
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from clients.naps import FAST_S, SLOW_S, Naps
from clients.tls import client_context
from protocol.children import Words

P = ParamSpec("P")
T = TypeVar("T")
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_HEARTBEAT = "/flwr.proto.Fleet/SendNodeHeartbeat"
_BEAT_S = 15.0
# How long a message's pieces may take to be sent by the server once it is named, and more for each (5 MiB).
UNSENT_S, UNSENT_EACH_S = 20.0, 2.0


@dataclass(frozen=True)
class Identity:
    """What a site proves itself with: the certificate of the line, and the key of its Flower node."""

    authority: Path
    certificate: Path
    key: Path
    node_key: EllipticCurvePrivateKey = field(repr=False)


def run_supernode(
    address: str,
    site: Identity,
    runtime: socket,
    superexec_secret: bytes,
    node_file: Path,
    tell: Callable[[Words], None],
) -> None:
    """Run Flower's SuperNode in this process until it is ended.

    Args:
        address: the server's, HOST:PORT.
        site: what the site proves itself with.
        runtime: where the SuperNode's Runtime API listens, on loopback.
        superexec_secret: who knows it may take the SuperNode's tasks.
        node_file: where the node's id is kept, so that a restarted node can first say that it had left.
        tell: is told of each call that the server answered or refused.
    """
    naps = Naps(lambda: signal.raise_signal(signal.SIGTERM))  # Flower's way out: it says that it leaves
    client = _client_class(site, tell, naps.moved)
    _replace(fleet_http_connection, "FleetHttpClient", client)
    _replace(start_client_internal, "time", naps)
    _replace(start_client_internal, "pull_objects", pull_while_sent)
    take_in = start_client_internal._pull_and_store_message  # noqa: SLF001
    _replace(start_client_internal, "_pull_and_store_message", partial(take_in_or_leave, take_in))
    shorten_pulls()
    _say_left(client, address, site, node_file)
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    _serve_runtime(factory, superexec_secret, runtime)
    keys = (site.node_key, site.node_key.public_key())
    threading.Thread(target=_keep_node, args=[factory, node_file, tell], daemon=True).start()
    start_client_internal.start_client_internal(
        state_factory=factory,
        server_address=address,
        node_config={},
        root_certificates=str(site.authority),
        insecure=False,
        authentication_keys=keys,
        isolation=ISOLATION_MODE_PROCESS,
        runtime_api_address="127.0.0.1:0",
        superexec_auth_secret=superexec_secret,
        runtime_dependency_install=False,
    )


def _replace(module: ModuleType, name: str, by: object) -> None:
    """Put something of ours into the place of what a module of Flower's uses by this name."""
    getattr(module, name)  # fails if Flower has moved it
    setattr(module, name, by)


def shorten_pulls() -> None:
    """Have Flower look again soon for pieces that are not up yet: it waits 1 s, then 2, up to 10."""
    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        defaults = function.__kwdefaults__ or {}
        defaults["initial_backoff"], defaults["backoff_cap"] = FAST_S, SLOW_S


def pull_while_sent(object_ids: list[str], pull_object_fn: Callable[[str], bytes]) -> dict[str, bytes]:
    """Pull a message's pieces, and give it up where its sender has died between its name and its pieces.

    Flower waits two hours for them, and takes no other message meanwhile. The server asks again.
    """
    within_s = UNSENT_S + UNSENT_EACH_S * len(object_ids)
    return inflatable_utils.pull_objects(object_ids, pull_object_fn, max_time=within_s)


def take_in_or_leave(
    take_in: Callable[..., int | None],
    *,
    state: NodeState,
    object_store: ObjectStore,
    pull_object: Callable[[int, str], bytes],
    confirm_message_received: Callable[[int, str], None],
    **others: Any,
) -> int | None:
    """Take a message from the server as Flower does (``take_in``), and keep nothing of one that is given up.

    Where a run is ended while its message is pulled or confirmed, Flower keeps the message and takes the
    next one. Somebody answers what was kept, and Flower sends that answer where it waits for the next one's:
    from then on each message is answered only when another comes, in every run. As an error it is put away,
    and an answer that was there already with it.
    """
    late = state.get_messages_legacy(is_reply=True)
    for metadata in (message.metadata for message in late):
        state.delete_messages(message_ids=[metadata.message_id, metadata.reply_to_message_id])
        object_store.delete(metadata.message_id)
    return take_in(
        state=state,
        object_store=object_store,
        pull_object=_as_error(pull_object),
        confirm_message_received=_as_error(confirm_message_received),
        **others,
    )


def _as_error(call: Callable[P, T]) -> Callable[P, T]:
    """Return it, but that the end of a run is an ``Exception``, which Flower handles."""

    def called(*args: P.args, **named: P.kwargs) -> T:
        try:
            return call(*args, **named)
        except RunNotRunningException:
            raise RuntimeError("the run was ended before its message had come") from None

    return called


def inflate_while_sent(object_tree: Any, *given: Any, **named: Any) -> Any:
    """Take a message from the SuperNode as Flower does, and no longer than that may wait for its pieces."""
    pieces = sum(1 for _ in iterate_object_tree(object_tree))
    named["max_time"] = 2 * (UNSENT_S + UNSENT_EACH_S * pieces)
    return inflatable_utils.pull_and_inflate_object_from_tree(object_tree, *given, **named)


def _client_class(
    site: Identity, tell: Callable[[Words], None], moved: Callable[[], None]
) -> type[FleetHttpClient]:
    """Return Flower's client of the Fleet API, with the site's certificate; it reports each answered call."""
    pulse = _Pulse(tell, moved)

    class Client(FleetHttpClient):
        @classmethod
        def from_server_address(
            cls, server_address: str, insecure: bool, root_certificates: Any, interceptors: Any, **others: Any
        ) -> Self:
            del insecure, root_certificates
            context = client_context(site.authority, site.certificate, site.key)
            return cls(
                f"https://{server_address}", interceptors=[*interceptors, pulse], verify=context, **others
            )

    return Client


class _Pulse:
    """Reports, at most once a second, that the server answered a call; a watchdog waits for it."""

    def __init__(self, tell: Callable[[Words], None], moved: Callable[[], None]) -> None:
        self._tell, self._moved, self._at = tell, moved, 0.0

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        if context.rpc_method != _HEARTBEAT:
            self._moved()
        response = call_next(context)
        refused = response.status_code in (401, 403, 404, 413)
        if refused or (response.is_success and time.monotonic() > self._at + 1.0):
            self._at = time.monotonic()
            self._tell(
                {"refused": response.status_code} if refused else {"pulse": time.time(), "refused": None}
            )
        return response


def _say_left(client: type[FleetHttpClient], address: str, site: Identity, node_file: Path) -> None:
    """Say for the node that was killed that it has left: else the server lets it in only after 60 s."""
    with suppress(OSError, ValueError):
        node_id = int(node_file.read_text(encoding="ascii"))
        interceptors = [NodeAuthHttpInterceptor(site.node_key, site.node_key.public_key())]
        with (
            suppress(httpx.HTTPError, RuntimeError),
            client.from_server_address(address, False, None, interceptors) as line,
        ):
            line.DeactivateNode(DeactivateNodeRequest(node_id=node_id))


def _keep_node(factory: NodeStateFactory, node_file: Path, tell: Callable[[Words], None]) -> None:
    """Keep the node's id once the server has given it."""
    while True:
        with suppress(Exception):  # it has none yet
            if node_id := factory.state().get_node_id():
                aside = node_file.with_suffix(".new")
                aside.write_text(str(node_id), encoding="ascii")
                aside.replace(node_file)
                tell({"node": str(node_id)})
                return
        time.sleep(FAST_S)


def _serve_runtime(factory: NodeStateFactory, superexec_secret: bytes, sock: socket) -> uvicorn.Server:
    """Serve the SuperNode's Runtime API in a thread; return the server."""
    app = create_app(state_factory=factory, superexec_auth_secret=superexec_secret)
    config = uvicorn.Config(app, access_log=False, log_config=None, ws="none", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.01)
    if not server.started:
        raise RuntimeError("the SuperNode's Runtime API did not start")
    return server


@dataclass(frozen=True)
class Job:
    """One message that the SuperNode has for the site, with what must be answered through."""

    message: Message
    context: Context
    bundle: bytes
    bundle_digest: str


class TaskDesk:
    """Takes messages from the SuperNode and gives answers back: what Flower's executor does, without its app.

    Args:
        address: the SuperNode's Runtime API.
        superexec_secret: the one that it was started with.
    """

    def __init__(self, address: str, superexec_secret: bytes) -> None:
        shorten_pulls()
        # By the function that uses it: its module also holds what runs apps, which no site imports.
        _replace(
            sys.modules[pull_task_input.__module__], "pull_and_inflate_object_from_tree", inflate_while_sent
        )
        self._token, self._closed = _Token(), threading.Event()
        guard = SuperExecAuthHttpInterceptor(master_secret=superexec_secret, protected_methods={ACQUIRE})
        version = RuntimeVersionHttpInterceptor(component_name="consilium")
        self._client = RuntimeHttpClient.from_server_address(
            address, insecure=True, root_certificates=None, interceptors=[version, guard, self._token]
        )
        threading.Thread(target=self._beat, daemon=True).start()

    def take(self) -> Job | None:
        """Return the next message, None if there is none.

        Raises:
            httpx.HTTPError: the SuperNode does not answer, or its message cannot be had.
        """
        answer = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        if not answer.token:
            return None
        self._token.value = answer.token
        message, context, _, fab = pull_task_input(self._client)
        return Job(message, context, fab.content, fab.hash_str)

    def give(self, job: Job, content: RecordDict | None, why: str = "") -> None:
        """Answer the message; without content, with Flower's own error."""
        if content is None:
            error = Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=why)
            reply = Message(error, reply_to=job.message)
        else:
            reply = Message(content, reply_to=job.message)
        push_message(self._client, reply, job.context)
        push_task_output(self._client, job.context, SubStatus.COMPLETED, "")
        self._token.value = None

    def drop(self) -> None:
        """Let the message in hand go: the SuperNode no longer knows it."""
        self._token.value = None

    def close(self) -> None:
        """Let go of the line."""
        self._closed.set()
        self._client.close()

    def _beat(self) -> None:
        """Keep the token alive while a message is held."""
        while not self._closed.wait(_BEAT_S):
            if self._token.value is not None:
                with suppress(Exception):  # nobody else would beat
                    self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())


class _Token:
    """Puts the token of the task in hand onto each request."""

    def __init__(self) -> None:
        self.value: str | None = None

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        token = self.value  # once: the thread of the heartbeats asks while another gives the task back
        if token is None:
            return call_next(context)
        return RuntimeTokenHttpInterceptor(token).intercept(context, call_next)


@contextmanager
def identity() -> Iterator[None]:
    """Let this process make messages of its own, outside a task of Flower's."""
    before = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id  # noqa: SLF001
    TaskIdentity._run_id = TaskIdentity._node_id = TaskIdentity._task_id = 1  # noqa: SLF001
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before  # noqa: SLF001


def leave_quietly(code: int = 0) -> None:
    """End this process at once: Flower's exit handlers would wait for threads that never end."""
    os._exit(code)
