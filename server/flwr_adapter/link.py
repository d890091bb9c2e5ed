"""Flower's SuperLink as an ASGI application, with node authentication and nothing of its own started.

Flower's command line refuses node authentication without its own TLS. Here TLS, and who may come in, is
`server.door`'s affair, so the application is made with the field set and served by our two listeners.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.common.constant import ISOLATION_MODE_PROCESS, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, Status
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from flwr.superlink.routers.control.middlewares import (
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
    ControlSensitiveResponseMiddleware,
)
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

_IDLE_LAYERS = (
    ControlSensitiveResponseMiddleware,
    ControlLicenseMiddleware,
    RuntimeTracingMiddleware,
    ControlEventLogMiddleware,
    FleetEventLogMiddleware,
)
FLEET = "/v1/fleet/"
# What a site needs of the Fleet API. Left out: registering nodes, which is the roster's affair.
FLEET_PATHS = tuple(
    FLEET + name
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
NODE_KEY_HEADER = b"flwr-public-key"


def _is_idle(layer: object) -> bool:
    return layer in _IDLE_LAYERS


@dataclass(frozen=True)
class NodeView:
    """What Flower knows of a site's node."""

    node: int
    status: str
    online_until: float


class SuperLink:
    """The application, and what the process that serves it does with its state directly."""

    def __init__(self, database: Path, superexec_secret: bytes) -> None:
        self.app = create_app(_config(database, superexec_secret), SuperLinkLifespan)
        # Five layers that do nothing without plugins, each a task and a queue for every request.
        self.app.user_middleware = [m for m in self.app.user_middleware if not _is_idle(m.cls)]
        self._state = self.app.state.linkstate_factory.state()
        self._cleaned: set[int] = set()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Start and end what the application owns; the listeners run with lifespan="off"."""
        async with self.app.router.lifespan_context(self.app):
            yield

    def paths(self) -> set[tuple[str, str]]:
        """Return every (method, path) that the application answers."""
        from fastapi.routing import iter_route_contexts  # noqa: PLC0415  Flower's own way to walk them

        found: set[tuple[str, str]] = set()
        for context in iter_route_contexts(self.app.routes):
            path: Any = getattr(context, "path", None) or getattr(context.route, "path", "")
            methods = getattr(context, "methods", None) or getattr(context.route, "methods", None)
            found |= {(method, str(path)) for method in methods or {"*"}}
        return found

    def register(self, node_keys: Mapping[str, bytes]) -> dict[str, int]:
        """Register the node key of each site that is not known yet; return the node ids by site.

        A site whose key was taken away before is left out: Flower never takes such a key again.
        """
        found = {}
        for site, key in node_keys.items():
            node = self._state.get_node_id_by_public_key(key)
            if node is None:
                with suppress(ValueError):
                    node = self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0)
            if node is not None:
                found[site] = node
        return found

    def unregister(self, node: int) -> None:
        """Forget a node: what was sent to it is answered with an error."""
        self._state.delete_node(NOOP_FLWR_AID, node)

    def clean(self) -> None:
        """Delete the messages and pieces of runs that have ended; Flower does so only when asked of them."""
        for run in self._state.get_run_info(statuses=[Status.FINISHED]):
            if run.run_id not in self._cleaned:
                self._state.cleanup_run(run.run_id)
                self._cleaned.add(run.run_id)

    def nodes(self) -> dict[bytes, NodeView]:
        """Return what is known of each registered node, by its public key."""
        infos = self._state.get_node_info()
        return {
            bytes(i.public_key): NodeView(i.node_id, i.status, _seconds(i.online_until))
            for i in infos
            if i.status != "unregistered"
        }


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _config(database: Path, superexec_secret: bytes) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=0,
        insecure=False,
        certificates=None,
        superexec_auth_secret=superexec_secret,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(database),
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )


def speaks_for_itself(body: bytes, most_pieces: int = 1000) -> bool:
    """Return whether the body of push-messages carries one message, from the node that sends it.

    Flower checks that the sender is who it says, but not that the message says the same; and it makes room
    for as many pieces as the message names.
    """
    request = PushMessagesRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        return False
    messages, trees = request.messages_list, request.message_object_trees
    if (
        not len(messages) == len(trees) == 1
        or not messages[0].metadata.src_node_id == request.node.node_id != 0
    ):
        return False
    waiting, pieces = [trees[0]], 0
    while waiting:
        pieces += 1
        if pieces > most_pieces:
            return False
        waiting.extend(waiting.pop().children)
    return True
