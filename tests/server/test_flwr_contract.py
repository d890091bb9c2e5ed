"""Every internal of Flower that `server/flwr_adapter.py` uses: an upgrade shows here what changed."""

from __future__ import annotations

import dataclasses
import importlib
import inspect

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

CALLS = {
    ("flwr.simulation.run_simulation", "_run_simulation"): {
        "num_supernodes",
        "exit_event",
        "client_app",
        "server_app",
        "backend_config",
        "server_app_context",
        "app_dir",
        "run",
        "is_app",
    },
    ("flwr.server.superlink.fleet.vce.backend.raybackend", "RayBackend.terminate"): {"self"},
    ("flwr.supercore.run", "Run.create_empty"): {"run_id"},
    ("flwr.serverapp", "ServerApp.__call__"): {"grid", "context"},
    ("flwr.serverapp", "Grid.pull_messages"): {"message_ids"},
    ("flwr.app", "Context"): {"run_id", "node_id", "node_config", "state", "run_config"},
}
NAMES = [
    ("flwr.common.constant", "SUPERLINK_NODE_ID"),
    ("flwr.supercore.constant", "NOOP_FEDERATION_ID"),
    ("flwr.supercore.telemetry", "FLWR_TELEMETRY_ENABLED"),
    ("flwr.supercore.telemetry", "EventType.PYTHON_API_RUN_SIMULATION_LEAVE"),
    ("flwr.supercore.telemetry", "state"),
    ("flwr.superlink.grid.http_grid", "httpx"),  # its errors tell a lost link from a bad reply
    ("flwr.supercore.task_identity", "TaskIdentity._run_id"),
    ("flwr.supercore.task_identity", "TaskIdentity._node_id"),
    ("flwr.supercore.task_identity", "TaskIdentity._task_id"),
]


def _find(module: str, name: str) -> object:
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_flower_has_the_name(module: str, name: str) -> None:
    """What the adapter reads or sets is where it looks for it."""
    _find(module, name)


@pytest.mark.parametrize(("module", "name"), CALLS)
def test_flower_takes_the_arguments(module: str, name: str) -> None:
    """What the adapter calls takes every argument that the adapter gives."""
    call = _find(module, name)
    assert callable(call)
    assert CALLS[module, name] <= inspect.signature(call).parameters.keys()


def test_a_run_has_the_fields() -> None:
    """The fields of a Run that the adapter fills in exist."""
    run = _find("flwr.supercore.run", "Run")
    assert isinstance(run, type)
    assert {"primary_task_id", "federation_id"} <= {field.name for field in dataclasses.fields(run)}


def test_a_server_app_receives_the_grid_first() -> None:
    """`ServerApp.main` registers a function that is called with the grid and the context."""
    app, received = ServerApp(), []

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        received.append((grid, context))

    grid, context = object(), Context(1, 1, {}, RecordDict(), {})
    app(grid=grid, context=context)  # type: ignore[arg-type]
    assert received == [(grid, context)]


def test_no_message_without_an_identity() -> None:
    """Flower refuses to create a message outside a task: the reason for task_identity."""
    with pytest.raises(RuntimeError, match="is not set"):
        Message(RecordDict(), dst_node_id=2, message_type="query.capability")
