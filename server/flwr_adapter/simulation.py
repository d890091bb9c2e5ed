"""Flower's simulation runtime on Ray, and the identity that its messages need."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

import httpx
import tomlkit
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import telemetry
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from protocol.errors import RunError

RunConfig = Mapping[str, bool | float | int | str]

_TASK_ID = 1
# What a proxy says where the server behind it is away or does not answer.
_UNREACHABLE = frozenset({502, 503, 504})
__all__ = ["Run", "RunConfig", "is_link_failure", "simulation_runtime", "task_identity"]

_LEAVE_S = 30.0


@contextmanager
def task_identity(run_id: int, node_id: int = SUPERLINK_NODE_ID, task_id: int = _TASK_ID) -> Iterator[None]:
    """Let this process create messages of a run; outside of this, `Message(...)` raises.

    Flower keeps the identity on a class, for the whole process: two runs at once cannot have one each.
    """
    before = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id  # noqa: SLF001
    TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = run_id, node_id, task_id  # noqa: SLF001
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before  # noqa: SLF001


def is_link_failure(error: BaseException) -> bool:
    """Return whether Flower's server could not be reached: that is no reply's fault, nor a site's.

    A server that answers 500 may have stumbled over the very reply, so that is no failure of the link.
    """
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _UNREACHABLE
    return isinstance(error, OSError | httpx.TransportError)


def simulation_runtime(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    num_nodes: int,
    run_config: RunConfig,
    client_resources: Mapping[str, float],
) -> None:
    """Run an app in Flower's simulation runtime, on the Ray that the caller started and will end.

    Unlike `flwr.simulation.run_simulation`, it hands `run_config` to the server and to every client,
    and what the ServerApp raises reaches the caller as it was raised.

    Args:
        server_app: runs in a thread of this process.
        client_app: is pickled to Ray's actors; its functions must be importable there.
        num_nodes: how many nodes; each sees its `partition-id`, 0 to num_nodes - 1, in its node_config.
        run_config: what server and clients find in `context.run_config`.
        client_resources: what an actor takes of Ray, `num_cpus` and `num_gpus`.

    Raises:
        RunError: the runtime failed around the ServerApp.
        BaseException: whatever the ServerApp raised.
    """
    from flwr.simulation.run_simulation import _run_simulation  # noqa: PLC0415  half a second, only here

    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # Flower read the environment at its import, maybe too early
    telemetry.state["source"] = "unavailable"  # else it writes an identity into the user's home
    run = _new_run()
    server, failure = _Observed(server_app), None
    with task_identity(run.run_id), _ray_outlives_the_run(), _app_folder(run_config) as folder:
        try:
            _run_simulation(
                num_supernodes=num_nodes,
                exit_event=telemetry.EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
                client_app=client_app,
                server_app=server.app,
                backend_config={"client_resources": dict(client_resources)},
                server_app_context=_server_context(run.run_id, run_config),
                app_dir=str(folder),
                run=run,
                is_app=True,  # clients take their run_config from the app's folder
            )
        except Exception as error:  # noqa: BLE001  raised below, unless the server knows better
            failure = error
        finally:
            server.leave()
    if server.error is not None:
        raise server.error
    if failure is not None:
        raise RunError(f"Flower's simulation runtime failed: {failure.__cause__ or failure}") from failure


class _RuntimeEndedError(BaseException):
    """The runtime is gone; no reply will come. Not an Exception, so that no handler waits on."""


class _Observed:
    """A ServerApp around another: keeps what that raised, and ends it when the runtime has ended.

    Flower runs a ServerApp in a thread that it never joins. On Ctrl-C it would wait for replies for
    ever and hold up the interpreter's exit; what is not an Exception would be lost in it.
    """

    def __init__(self, server_app: ServerApp) -> None:
        self.error: BaseException | None = None
        self.app = ServerApp()
        self._server_app = server_app
        self._runtime_ended = Event()
        self._returned = Event()
        self._returned.set()
        self.app.main()(self._main)

    def leave(self) -> None:
        """Tell the ServerApp that the runtime has ended, and wait a while for it to return."""
        self._runtime_ended.set()
        self._returned.wait(_LEAVE_S)

    def _main(self, grid: Grid, context: Context) -> None:
        self._returned.clear()
        pull = grid.pull_messages

        def pull_messages(message_ids: Iterable[str]) -> Iterable[Message]:
            if self._runtime_ended.is_set():
                raise _RuntimeEndedError
            return pull(message_ids)

        grid.pull_messages = pull_messages  # type: ignore[method-assign]  # send_and_receive calls it too
        try:
            self._server_app(grid=grid, context=context)
        except _RuntimeEndedError:
            pass
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
            self.error = error
        finally:
            self._returned.set()


@contextmanager
def _ray_outlives_the_run() -> Iterator[None]:
    """Keep Flower from ending the caller's Ray: only he knows what to wait for when it ends."""
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend  # noqa: PLC0415  imports Ray

    terminate = RayBackend.terminate
    RayBackend.terminate = lambda self: None  # type: ignore[method-assign]  # noqa: ARG005
    try:
        yield
    finally:
        RayBackend.terminate = terminate  # type: ignore[method-assign]


def _new_run() -> Run:
    run = Run.create_empty(run_id=secrets.randbits(63))
    run.primary_task_id = _TASK_ID
    run.federation_id = NOOP_FEDERATION_ID
    return run


def _server_context(run_id: int, run_config: RunConfig) -> Context:
    return Context(
        run_id=run_id,
        node_id=SUPERLINK_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=dict(run_config),
    )


@contextmanager
def _app_folder(run_config: RunConfig) -> Iterator[Path]:
    """A folder with the one file from which Flower's simulated nodes take their run_config."""
    app = {
        "publisher": "consilium",
        "components": {"serverapp": "server.app:app", "clientapp": "clients.app:app"},  # required, not loaded
        "config": dict(run_config),
    }
    pyproject = {"project": {"name": "consilium", "version": "0"}, "tool": {"flwr": {"app": app}}}
    with TemporaryDirectory(prefix="consilium-") as folder:
        (Path(folder) / "pyproject.toml").write_text(tomlkit.dumps(pyproject), encoding="utf-8")
        yield Path(folder)
