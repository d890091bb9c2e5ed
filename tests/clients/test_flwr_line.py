"""The SuperNode's line to the server: what is told of its calls, and of the node behind it."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

from clients import flwr_adapter
from clients.flwr_adapter import Identity
from tests.clients.flwr_cases import Fleet, Node


class Line:
    """Flower's client as the adapter makes it, with a fleet at the other end."""

    def __init__(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[dict[str, Any]] = []
        self.moves = 0
        key = ec.generate_private_key(ec.SECP384R1())
        site = Identity(Path("a"), Path("c"), Path("k"), key)
        monkeypatch.setattr(flwr_adapter, "client_context", lambda *_: True)
        self.site = site
        self.kind = flwr_adapter._client_class(site, lambda said: self.told.append(dict(said)), self.moved)
        plain = httpx.Client
        monkeypatch.setattr(
            "flwr.supercore.protobuf.client.httpx.Client",
            lambda **_: plain(transport=httpx.MockTransport(fleet.handle)),
        )

    def moved(self) -> None:
        """Count."""
        self.moves += 1

    def __enter__(self) -> Any:
        self.client = self.kind.from_server_address("fleet:1", False, None, interceptors=[])
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()


def test_each_second_an_answered_call_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a watchdog sees a SuperNode that has fallen silent; not each call is."""
    with (line := Line(Fleet(), monkeypatch)) as client:
        for _ in range(5):
            client.SendNodeHeartbeat(SendNodeHeartbeatRequest())
    (said,) = line.told
    assert said["refused"] is None
    assert abs(said["pulse"] - time.time()) < 60


def test_a_refusal_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its status; a server that has no time is neither a refusal nor a sign of life."""
    fleet = Fleet(deactivate_node=[503, 200, 403, 401])
    with (line := Line(fleet, monkeypatch)) as client:
        for _ in range(4):
            with suppress(httpx.HTTPStatusError):
                client.DeactivateNode(DeactivateNodeRequest(node_id=1))
    assert [said.get("refused") for said in line.told] == [None, 403, 401]


def test_a_heartbeat_does_not_say_that_the_supernode_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from another thread, also of one that waits in vain."""
    with (line := Line(Fleet(), monkeypatch)) as client:
        client.SendNodeHeartbeat(SendNodeHeartbeatRequest())
        assert line.moves == 0
        client.DeactivateNode(DeactivateNodeRequest(node_id=1))
        assert line.moves == 1


@pytest.mark.parametrize("code", [200, 403, 503])
def test_a_node_that_was_killed_is_said_to_have_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    """Whatever the server says to that; without a file, or with another content, nothing is said."""
    fleet = Fleet(deactivate_node=[code])
    line = Line(fleet, monkeypatch)
    file = tmp_path / "node_id"
    flwr_adapter._say_left(line.kind, "fleet:1", line.site, file)
    file.write_text("no number")
    flwr_adapter._say_left(line.kind, "fleet:1", line.site, file)
    assert fleet.calls == []
    file.write_text("7")
    flwr_adapter._say_left(line.kind, "fleet:1", line.site, file)
    assert fleet.calls == ["deactivate-node"]


def test_the_nodes_id_is_kept_once_there_is_one(tmp_path: Path) -> None:
    """For the next start, and told."""
    node = Node()
    node.state.set_node_id(None)
    told: list[dict[str, Any]] = []
    file = tmp_path / "node_id"
    keeper = threading.Thread(
        target=flwr_adapter._keep_node, args=[node.factory, file, lambda said: told.append(dict(said))]
    )
    keeper.start()
    keeper.join(0.1)
    assert keeper.is_alive()
    node.state.set_node_id(12345)
    keeper.join(5)
    assert not keeper.is_alive()
    assert told == [{"node": "12345"}]
    assert file.read_text() == "12345"
