"""What speaks to the SuperLink on loopback: the supervisor, and the process that runs the ServerApp.

Flower's executor hands a task's token to a process that it starts, imports the app that was submitted, and
gives the run up when the process ends. Here the supervisor takes the task and keeps its token alive; the
process that works on it runs the installed code and can be replaced while Flower's run goes on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import httpx
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest, StopRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient

from protocol.bundle import RUN_KEY, bundle_digest

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
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


def _client(address: str, guard: object) -> RuntimeHttpClient:
    interceptors = [RuntimeVersionHttpInterceptor(component_name="consilium"), guard]
    return RuntimeHttpClient.from_server_address(address, True, None, interceptors)  # type: ignore[arg-type]
