"""What speaks to the SuperLink on loopback: the supervisor, and the process that runs the ServerApp.

Flower's executor hands a task's token to a process that it starts, imports the app that was submitted, and
gives the run up when the process ends. Here the supervisor takes the task and keeps its token alive; the
process that works on it runs the installed code and can be replaced while Flower's run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import httpx
from flwr.app import Array, Error, Message
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest, StopRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    GetNodesRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE, TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.date import now
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid

from protocol.bundle import RUN_KEY, bundle_digest

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_MOST_OBJECTS = 100_000
# A reply's objects may be seen before they are up: Flower waits 1 s, then longer.
_BACKOFF_S, _BACKOFF_CAP_S = 0.05, 0.5
# What a call raises when Flower says that the run is over; it is no Exception.
RunIsOver = RunNotRunningException
COMPLETED, STOPPED, FAILED = SubStatus.COMPLETED, SubStatus.STOPPED, SubStatus.FAILED


@dataclass(frozen=True)
class Task:
    """A task of Flower's that we hold: its token speaks for the run, so it is shown nowhere."""

    token: str
    task_id: int
    flower_run: int
    node_id: int
    run: str

    def __repr__(self) -> str:
        """Return what it is, without its token."""
        return f"Task({self.run!r}, flower_run={self.flower_run})"


class TaskOffice:
    """Takes the ServerApp's tasks from the SuperLink, keeps them alive and ends them."""

    def __init__(self, address: str, superexec_secret: bytes) -> None:
        self._address = address
        guard = SuperExecAuthHttpInterceptor(master_secret=superexec_secret, protected_methods={ACQUIRE})
        self._acquirer = _client(address, guard)
        self._clients: dict[str, RuntimeHttpClient] = {}

    def acquire(self) -> Task | None:
        """Return the next task that waits, begun; None if none does or the SuperLink does not answer."""
        with suppress(httpx.HTTPError):
            request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
            answer = self._acquirer.AcquireTask(request)
            if not answer.token:
                return None
            begun = self._of(answer.token).PullTaskInput(PullTaskInputRequest())
            run = run_from_proto(begun.run)
            name = str(run.override_config.get(RUN_KEY, ""))
            return Task(answer.token, begun.task_id, run.run_id, begun.context.node_id, name)
        return None

    def beat(self, task: Task) -> bool | None:
        """Say that the task is worked on; return whether Flower still knows it, None if it did not answer."""
        try:
            return bool(self._of(task.token).SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
        except httpx.HTTPStatusError as error:
            return None if error.response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR else False
        except httpx.HTTPError:
            return None

    def finish(self, task: Task, how: str, details: str = "") -> None:
        """End the task: COMPLETED, STOPPED or FAILED; Flower's run ends with it."""
        with suppress(httpx.HTTPError):
            client = self._of(task.token)
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=how, details=details[:500]))
        if task.token in self._clients:
            self._clients.pop(task.token).close()

    def close(self) -> None:
        """Let go of all connections."""
        for client in [self._acquirer, *self._clients.values()]:
            client.close()

    def _of(self, token: str) -> RuntimeHttpClient:
        if token not in self._clients:
            self._clients[token] = _client(self._address, RuntimeTokenHttpInterceptor(token))
        return self._clients[token]


class Control:
    """Starts and stops Flower's runs."""

    def __init__(self, address: str, header: str, secret: str) -> None:
        guard = _Secret(header, secret)
        self._client = ControlHttpClient.from_server_address(address, True, None, [guard])

    def start(self, bundle: bytes, run: str) -> int | None:
        """Start a run with our bundle, for the Consilium run of that name; None if it was not taken."""
        fab = Fab(hash_str=bundle_digest(bundle), content=bundle)
        config = user_config_to_proto({RUN_KEY: run})
        with suppress(httpx.HTTPError):
            return int(self._client.StartRun(StartRunRequest(fab=fab, override_config=config)).run_id) or None
        return None

    def stop(self, flower_run: int) -> None:
        """Stop a run; sites are then told that it is over."""
        with suppress(httpx.HTTPError):
            self._client.StopRun(StopRunRequest(run_id=flower_run))

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


class _Secret:
    """Puts the header that the loopback listener wants onto each request."""

    def __init__(self, header: str, secret: str) -> None:
        self._header = {header: secret}

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers.update(self._header)
        return call_next(context)


@dataclass(frozen=True)
class Node:
    """A site's node that is online: who it is, and since when without interruption."""

    node_id: int
    public_key: bytes
    since: str


class GuardedGrid(HttpGrid):
    """Flower's grid, with replies taken one at a time: a bad one is an error of its own and harms no other.

    Flower pulls a batch and raises at the first reply that it cannot put together; by then the others are
    gone from its database. It also lets a reply name one piece many times over: here what is put together
    may have ``most_bytes`` at most.
    """

    def __init__(self, address: str, task: Task, most_bytes: int) -> None:
        super().__init__(address, insecure=True, token=task.token)
        run = Run.create_empty(task.flower_run)
        self.set_run(run)
        self._most_bytes = most_bytes

    def online(self) -> list[Node]:
        """Return the nodes that are online."""
        nodes = self._runtime_client.GetNodes(GetNodesRequest()).nodes
        return [Node(n.node_id, bytes(n.public_key), str(n.last_activated_at)) for n in nodes]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have come to these messages, each once; what was bad is an error reply."""
        found: list[Message] = []
        for message_id in message_ids:
            answer = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=[message_id]))
            for message, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
                found.append(self._taken(message.metadata.reply_to_message_id, tree))
        return found

    def _taken(self, asked: str, tree: ObjectTree) -> Message:
        run_id = self.run.run_id
        try:
            pull = make_pull_object_fn_protobuf(self._runtime_client.PullObject, self.node, run_id)
            # Only pieces that did not come up are waited for, and not for hours as Flower would.
            contents = inflatable_utils.pull_objects(
                _pieces(tree),
                self._counted(pull),
                max_time=60.0,
                initial_backoff=_BACKOFF_S,
                backoff_cap=_BACKOFF_CAP_S,
            )
            self._confirm(tree.object_id)
            message = _message(tree.object_id, contents, self._most_bytes)
        except (RunNotRunningException, httpx.HTTPError):
            return self._error(asked, ErrorCode.MESSAGE_UNAVAILABLE, "the reply was lost on its way")
        except Exception as error:  # noqa: BLE001  whatever a site put into it; the others must go on
            return self._error(asked, ErrorCode.UNKNOWN, f"it cannot be put together: {type(error).__name__}")
        return message

    def _counted(self, pull: Callable[[str], bytes]) -> Callable[[str], bytes]:
        """Return ``pull``, which raises when all that it got together is more than may be."""
        left = [self._most_bytes]

        def counted(object_id: str) -> bytes:
            content = pull(object_id)
            left[0] -= len(content)
            if left[0] < 0:
                raise ValueError("more bytes than it may have")
            return content

        return counted

    def _confirm(self, message_id: str) -> None:
        request = ConfirmMessageReceivedRequest(
            node=self.node, run_id=self.run.run_id, message_object_id=message_id
        )
        self._runtime_client.ConfirmMessageReceived(request)

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
            raise ValueError("it has too many pieces")
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


def _client(address: str, guard: object) -> RuntimeHttpClient:
    interceptors = [RuntimeVersionHttpInterceptor(component_name="consilium"), guard]
    return RuntimeHttpClient.from_server_address(address, True, None, interceptors)  # type: ignore[arg-type]
