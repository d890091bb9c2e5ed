"""Every internal of Flower that `server/flwr_adapter/` uses: an upgrade shows here what changed."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import warnings
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from tests.server.flwr_internals import CALLS, FIELDS, NAMES


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


@pytest.mark.parametrize(("module", "name"), FIELDS)
def test_messages_have_the_fields(module: str, name: str) -> None:
    """What the adapter sets or reads of a protobuf message is a field of it."""
    message = _find(f"flwr.proto.{module}", name)
    assert FIELDS[module, name] <= set(message.DESCRIPTOR.fields_by_name)  # type: ignore[attr-defined]


def test_nothing_else_is_used() -> None:
    """Whatever the adapter imports of Flower beyond what it promises stands in a table above."""
    promised = {"flwr.app", "flwr.serverapp", "flwr.clientapp"}
    named = {(module, name.split(".")[0]) for module, name in [*NAMES, *CALLS]}
    named |= {(module.rpartition(".")[0], module.rpartition(".")[2]) for module, _ in named}
    used = set()
    for path in sorted((Path(__file__).parents[2] / "server/flwr_adapter").glob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        assert not any(a.name.startswith("flwr") for n in nodes if isinstance(n, ast.Import) for a in n.names)
        froms = [n for n in nodes if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("flwr.")]
        used |= {(str(node.module), alias.name) for node in froms for alias in node.names}
    assert {(module, name) for module, name in used if module not in promised} - named == set()
    assert len(used) > 40


def test_a_run_has_the_fields() -> None:
    """The fields of a Run that the adapter fills in or reads exist."""
    run = _find("flwr.supercore.run", "Run")
    assert isinstance(run, type)
    fields = {field.name for field in dataclasses.fields(run)}
    assert {"run_id", "primary_task_id", "federation_id", "override_config"} <= fields


def test_the_application_has_the_parts(tmp_path: Path) -> None:
    """The SuperLink's application has its state, layers and lifespan where the adapter looks for them."""
    from server.flwr_adapter.link import _IDLE_LAYERS, FLEET_PATHS, NODE_KEY_HEADER, SuperLink

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Flower makes its database with
        link = SuperLink(tmp_path / "superlink.db", b"s" * 32)
    left = {layer.cls for layer in link.app.user_middleware}
    assert not left & set(_IDLE_LAYERS)
    assert {layer.__name__ for layer in left} == {  # type: ignore[attr-defined]
        "BaseHTTPMiddleware",
        "ControlAuthenticationMiddleware",
        "NodeAuthMiddleware",
        "ProtobufTranslationMiddleware",
    }
    assert callable(link.app.router.lifespan_context)
    assert link.app.state.enable_supernode_auth is True
    assert {("POST", path) for path in FLEET_PATHS} <= link.paths()
    assert _find("flwr.supercore.constant", "FLEET_HTTP_PUBLIC_KEY_HEADER") == NODE_KEY_HEADER.decode()
    first = link.register({"north": b"key of north"})
    assert link.register({"north": b"key of north"}) == first
    (view,) = link.nodes().values()
    assert (view.node, view.status, view.online_until) == (first["north"], "registered", 0.0)
    link.unregister(view.node)
    assert link.nodes() == {}


def test_the_method_that_wants_a_signature() -> None:
    """The name by which the secret of the executors guards a call is the one that Flower uses for it."""
    from server.flwr_adapter.runtime import ACQUIRE

    runtime = importlib.import_module("flwr.supercore.runtime.runtime_http_client")
    assert f'rpc_method="{ACQUIRE}"' in inspect.getsource(runtime.RuntimeHttpClient.AcquireTask)


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
