"""Every internal of Flower that `clients/flwr_adapter.py` uses: an upgrade shows here what changed."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from flwr.proto import fleet_pb2, runtime_pb2
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable import inflatable_utils
from flwr.supernode import fleet_http_connection, start_client_internal

from clients import flwr_adapter, naps

ADAPTER = Path(flwr_adapter.__file__)
HTTP = "flwr.supercore.interceptors"
RUN = "flwr.supernode.runtime.run_clientapp"

# What is called, and with which arguments by name.
CALLS = {
    ("flwr.supercore.inflatable.inflatable_utils", "pull_objects"): {"initial_backoff", "backoff_cap"},
    ("flwr.supercore.inflatable.inflatable_utils", "pull_and_inflate_object_from_tree"): {
        "initial_backoff", "backoff_cap", "max_time",
    },
    ("flwr.supercore.inflatable.inflatable_object", "iterate_object_tree"): {"tree"},
    (HTTP, "RuntimeTokenHttpInterceptor"): {"token"},
    (HTTP, "RuntimeTokenHttpInterceptor.intercept"): {"context", "call_next"},
    (HTTP, "RuntimeVersionHttpInterceptor"): {"component_name"},
    (HTTP, "SuperExecAuthHttpInterceptor"): {"master_secret", "protected_methods"},
    ("flwr.supercore.object_store", "ObjectStoreFactory"): set(),
    ("flwr.supercore.object_store", "ObjectStore.delete"): {"object_id"},
    ("flwr.supercore.runtime", "RuntimeHttpClient.from_server_address"): {
        "server_address", "insecure", "root_certificates", "interceptors",
    },
    ("flwr.supercore.runtime", "RuntimeHttpClient.AcquireTask"): {"request"},
    ("flwr.supercore.runtime", "RuntimeHttpClient.SendTaskHeartbeat"): {"request"},
    ("flwr.supercore.runtime", "RuntimeHttpClient.close"): set(),
    ("flwr.supernode.start_client_internal", "start_client_internal"): {
        "state_factory", "server_address", "node_config", "root_certificates", "insecure",
        "authentication_keys", "isolation", "runtime_api_address", "superexec_auth_secret",
        "runtime_dependency_install",
    },
    ("flwr.supernode.fleet_http_client", "FleetHttpClient"): {
        "base_url", "interceptors", "verify", "retry_invoker",
    },
    ("flwr.supernode.fleet_http_client", "FleetHttpClient.DeactivateNode"): {"request"},
    ("flwr.supernode.main", "create_app"): {"state_factory", "superexec_auth_secret"},
    ("flwr.supernode.node_auth_http_interceptor", "NodeAuthHttpInterceptor"): {"private_key", "public_key"},
    ("flwr.supernode.nodestate", "NodeStateFactory"): {"objectstore_factory"},
    ("flwr.supernode.nodestate", "NodeStateFactory.state"): set(),
    ("flwr.supernode.nodestate", "NodeState.get_node_id"): set(),
    ("flwr.supernode.nodestate", "NodeState.get_messages_legacy"): {"is_reply"},
    ("flwr.supernode.nodestate", "NodeState.delete_messages"): {"message_ids"},
    ("flwr.supernode.start_client_internal", "_pull_and_store_message"): {
        "state", "object_store", "pull_object", "confirm_message_received",
    },
    (RUN, "pull_task_input"): {"client"},
    (RUN, "push_message"): {"client", "message", "context"},
    (RUN, "push_task_output"): {"client", "context", "sub_status", "details"},
    ("flwr.app", "Error"): {"code", "reason"},
    ("flwr.app", "Message"): {"content", "dst_node_id", "message_type", "reply_to"},
}  # fmt: skip
# What else is read, set or replaced.
NAMES = [
    ("flwr.app", "Context"),
    ("flwr.app", "RecordDict"),
    ("flwr.common.constant", "ISOLATION_MODE_PROCESS"),
    ("flwr.common.constant", "ErrorCode.CLIENT_APP_RAISED_EXCEPTION"),
    ("flwr.common.constant", "SubStatus.COMPLETED"),
    ("flwr.proto.fleet_pb2", "DeactivateNodeRequest"),
    ("flwr.proto.runtime_pb2", "AcquireTaskRequest"),
    ("flwr.proto.runtime_pb2", "SendTaskHeartbeatRequest"),
    ("flwr.supercore.constant", "TaskType.CLIENT_APP"),
    ("flwr.supercore.inflatable", "inflatable_utils"),
    ("flwr.supercore.protobuf.client", "ProtobufCall"),
    ("flwr.supercore.protobuf.client", "ProtobufRequestContext"),
    ("flwr.supercore.task_identity", "TaskIdentity._run_id"),
    ("flwr.supercore.task_identity", "TaskIdentity._node_id"),
    ("flwr.supercore.task_identity", "TaskIdentity._task_id"),
    ("flwr.supernode", "fleet_http_connection"),
    ("flwr.supernode", "start_client_internal"),
    ("flwr.supernode.fleet_http_connection", "FleetHttpClient"),
    ("flwr.supernode.start_client_internal", "time"),
    ("flwr.supernode.start_client_internal", "pull_objects"),
    ("flwr.supernode.runtime.run_clientapp", "pull_and_inflate_object_from_tree"),
    ("flwr.supercore.run", "RunNotRunningException"),
]


def _find(module: str, name: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def test_all_that_is_imported_stands_here() -> None:
    """No internal is used that these tests do not name."""
    tree = ast.parse(ADAPTER.read_text(encoding="utf-8"))
    imported = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr")
        for alias in node.names
    }
    named = {(module, name.split(".")[0]) for module, name in [*CALLS, *NAMES]}
    assert len(imported) > 20
    assert imported <= named


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_flower_has_the_name(module: str, name: str) -> None:
    """What the adapter reads or replaces is where it looks for it."""
    _find(module, name)


@pytest.mark.parametrize(("module", "name"), CALLS)
def test_flower_takes_the_arguments(module: str, name: str) -> None:
    """What the adapter calls takes every argument that the adapter gives."""
    assert CALLS[module, name] <= inspect.signature(_find(module, name)).parameters.keys()


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (fleet_pb2.DeactivateNodeRequest, {"node_id"}),
        (runtime_pb2.AcquireTaskRequest, {"supported_task_types"}),
        (runtime_pb2.AcquireTaskResponse, {"token"}),
    ],
)
def test_the_protocol_has_the_fields(message: Any, fields: set[str]) -> None:
    """What is written into requests and read from answers."""
    assert fields <= set(message.DESCRIPTOR.fields_by_name)


def test_a_bundle_has_a_content_and_a_digest() -> None:
    """What the agent compares."""
    fab = _find("flwr.supercore.fab", "Fab")(hash_str="ab", content=b"x", verifications={})
    assert (fab.hash_str, fab.content) == ("ab", b"x")


def _sleeps(module: Any) -> set[object]:
    """The seconds of all sleeps in a module's source; each must be a constant, by ``time.sleep``."""
    tree = ast.parse(inspect.getsource(module))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute | ast.Name)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id) == "sleep"
    ]
    assert all(ast.unparse(call.func) == "time.sleep" for call in calls)
    return {ast.literal_eval(call.args[0]) for call in calls}


def test_the_supernode_sleeps_as_long_as_the_naps_think() -> None:
    """3 s when there is no message, 0.5 s between looks for an answer, and by the module's ``time``."""
    assert _sleeps(start_client_internal) == {naps.IDLE_S, naps.REPLY_S} == {3, 0.5}
    idle = inspect.getsource(start_client_internal.start_client_internal)
    reply = inspect.getsource(start_client_internal._push_messages)
    assert "time.sleep(3)" in idle
    assert "time.sleep(0.5)" in reply
    assert "time.sleep(3)" not in reply
    assert _sleeps(fleet_http_connection) == set()


def test_the_supernode_looks_up_what_is_replaced_when_it_runs() -> None:
    """The connection asks its module for the client, with these arguments in this order."""
    source = inspect.getsource(fleet_http_connection.http_request_response)
    call = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "FleetHttpClient.from_server_address"
    )
    assert [ast.unparse(arg) for arg in call.args] == ["server_address", "insecure", "root_certificates"]
    assert [keyword.arg for keyword in call.keywords] == ["interceptors"]
    theirs = inspect.signature(fleet_http_connection.FleetHttpClient.from_server_address)
    assert list(theirs.parameters) == [
        "server_address", "insecure", "root_certificates", "interceptors", "retry_invoker",
    ]  # fmt: skip


def test_the_pulls_take_their_pauses_from_their_defaults() -> None:
    """Both functions, the one that the SuperNode imported among them; then the pauses are short."""
    functions = (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree)
    assert start_client_internal.pull_objects is functions[0]
    before = [dict(function.__kwdefaults__ or {}) for function in functions]
    try:
        flwr_adapter.shorten_pulls()
        for function in functions:
            defaults = function.__kwdefaults__
            assert defaults is not None
            assert (defaults["initial_backoff"], defaults["backoff_cap"]) == (0.05, 0.5)
    finally:
        for function, defaults in zip(functions, before, strict=True):
            (function.__kwdefaults__ or {}).update(defaults)


def test_a_message_whose_pieces_never_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sender died between naming and sending it: Flower would wait for two hours, we for seconds."""
    source = inspect.getsource(start_client_internal._pull_and_store_message)
    assert "pull_objects(" in source
    assert "pull_object_fn=" in source
    monkeypatch.setattr(flwr_adapter, "UNSENT_S", 0.1)
    monkeypatch.setattr(flwr_adapter, "UNSENT_EACH_S", 0.05)

    def never(object_id: str) -> bytes:
        raise inflatable_utils.ObjectUnavailableError(object_id)

    monkeypatch.setitem(inflatable_utils.pull_objects.__kwdefaults__, "initial_backoff", 0.01)
    with pytest.raises(inflatable_utils.ObjectPullError):
        flwr_adapter.pull_while_sent(["a", "b"], pull_object_fn=never)
    assert flwr_adapter.pull_while_sent(["a"], pull_object_fn=str.encode) == {"a": b"a"}


def test_an_agent_waits_for_pieces_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long as its SuperNode does, for the message and each of its pieces."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        inflatable_utils, "pull_and_inflate_object_from_tree", lambda *_, **named: seen.update(named)
    )
    tree = ObjectTree(object_id="a", children=[ObjectTree(object_id="b"), ObjectTree(object_id="c")])
    flwr_adapter.inflate_while_sent(tree, None, None, return_type=None)
    assert seen["max_time"] == 2 * (flwr_adapter.UNSENT_S + 3 * flwr_adapter.UNSENT_EACH_S)


@pytest.mark.parametrize(
    ("client", "method", "name"),
    [
        ("flwr.supercore.runtime.RuntimeHttpClient", "AcquireTask", flwr_adapter.ACQUIRE),
        ("flwr.supernode.fleet_http_client.FleetHttpClient", "SendNodeHeartbeat", flwr_adapter._HEARTBEAT),
    ],
)
def test_calls_have_the_names_that_are_looked_for(client: str, method: str, name: str) -> None:
    """The one that needs the secret, and the one that says nothing of how far the SuperNode is."""
    module, _, kind = client.rpartition(".")
    assert f'rpc_method="{name}"' in inspect.getsource(getattr(_find(module, kind), method))
