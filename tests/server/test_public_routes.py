"""Every route of Flower's application and of ours, behind the real listeners, by good and bad identities.

The routes are listed from the installed application: one that a release of Flower adds is tried too.
"""

from __future__ import annotations

import ssl
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from protocol import keys
from protocol.roster import node_key_text
from server.door import INFO
from server.flwr_adapter.link import FLEET_PATHS, SuperLink
from server.flwr_adapter.runtime import ACQUIRE, _client
from server.inner import COMMANDS, CONTROL, SECRET_HEADER
from server.kit import load_kit
from tests.server.link_cases import (
    TLS,
    Identity,
    Line,
    Link,
    ask,
    client_tls,
    known,
    make_kits,
    node_header,
    running_link,
    strangers,
)

TEN = {
    ("POST", f"/v1/fleet/{name}")
    for name in (
        "activate-node",
        "confirm-message-received",
        "deactivate-node",
        "get-fab",
        "get-run",
        "pull-messages",
        "pull-object",
        "push-messages",
        "push-object",
        "send-node-heartbeat",
    )
}
OURS = {("GET", INFO), *(("POST", f"{COMMANDS}{name}") for name in ("submit", "status", "logs", "stop"))}
PROTOBUF = {"content-type": "application/protobuf"}

Route = tuple[str, str]


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    """A link process; three sites."""
    kits = tmp_path_factory.mktemp("routes") / "kits"
    make_kits(kits, "north", "south", "west")
    with running_link(kits) as running:
        yield running


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[Route]:
    """All that the application answers, and our own."""
    database = tmp_path_factory.mktemp("application") / "superlink.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Flower makes its database with
        found = SuperLink(database, b"s" * 32).paths() | OURS
    assert len(found) >= 80
    return sorted((method if method != "*" else "POST", path) for method, path in found)


@pytest.fixture(scope="module")
def good(link: Link) -> Identity:
    """North as it should come."""
    kit = link.kits / "north"
    return client_tls(kit / "authority.pem", kit / "tls.pem", kit / "tls.key"), node_header(kit)


def test_strangers_reach_nothing(link: Link, routes: list[Route], tmp_path: Path) -> None:
    """Each route x each identity that TLS must refuse: not one gets an answer in HTTP."""
    for why, (context, headers) in strangers(link, tmp_path).items():
        answers = {route: ask(link.public, context, *route, headers) for route in routes}
        assert {route: a for route, a in answers.items() if a[0] != TLS} == {}, why


def test_the_roster_decides(link: Link, routes: list[Route], tmp_path: Path) -> None:
    """Each route x each identity that the authority signed but the roster does not mean: none is let in."""
    for why, (context, headers) in known(link, tmp_path).items():
        for route in routes:
            if route != ("GET", INFO):
                assert ask(link.public, context, *route, headers) == _refusal(route), (why, route)


def _refusal(route: Route) -> tuple[int, bytes]:
    """What the door says to who may not use a route; nothing of it is Flower's."""
    if route in TEN:
        return 403, b'{"error": "not allowed"}'
    return 404, b"" if route[0] == "HEAD" else b'{"error": "not here"}'


def test_who_is_told_the_information(link: Link, tmp_path: Path) -> None:
    """The information, which asks for no node key, is for the holders of a certificate of the roster."""
    allowed = {
        why: ask(link.public, context, "GET", INFO, headers)[0]
        for why, (context, headers) in known(link, tmp_path).items()
    }
    assert list(allowed.values()) == [200, 200, 200, 403, 403], allowed


def test_a_site_reaches_ten_routes(link: Link, routes: list[Route], good: Identity) -> None:
    """North reaches what a SuperNode needs and no more: no route that Flower adds comes in by itself."""
    context, headers = good
    answers = {route: ask(link.public, context, *route, headers, _body(route)) for route in routes}
    reached = {route for route, (status, _) in answers.items() if status != 404}
    assert reached == TEN | {("GET", INFO)}
    assert set(FLEET_PATHS) == {path for _, path in TEN}
    from_flower = {route: body for route, (_, body) in answers.items() if route in TEN}
    assert not any(body == b'{"error": "not allowed"}' for body in from_flower.values())
    fleet = {route for route in routes if route[1].startswith("/v1/fleet/")}
    assert fleet - TEN == {("POST", "/v1/fleet/register-node"), ("POST", "/v1/fleet/unregister-node")}
    assert {answers[route][1] for route in set(routes) - reached if route[0] != "HEAD"} == {
        b'{"error": "not here"}'
    }


def _body(route: Route) -> bytes:
    """What the door looks into before Flower does: a reply from the node that sends it."""
    if route[1] != "/v1/fleet/push-messages":
        return b""
    message = ProtoMessage(metadata=Metadata(src_node_id=1))
    made = PushMessagesRequest(
        node=Node(node_id=1), messages_list=[message], message_object_trees=[ObjectTree(object_id="a")]
    )
    return bytes(made.SerializeToString())


def test_only_two_doors(link: Link) -> None:
    """The process listens on the two sockets that it was given and on none of Flower's own."""
    fds = Path(f"/proc/{link.child.pid}/fd")
    own = {str(fd.readlink()) for fd in fds.iterdir() if fd.is_symlink()}
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{link.child.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                listening.add(int(fields[1].rpartition(":")[2], 16))
    assert listening == {link.public, link.inner}


def test_no_older_tls(link: Link, good: Identity) -> None:
    """A caller with a good certificate that speaks TLS 1.2 at most is refused."""
    kit = link.kits / "north"
    older = client_tls(kit / "authority.pem", kit / "tls.pem", kit / "tls.key", ssl.TLSVersion.TLSv1_2)
    assert ask(link.public, older, "GET", INFO, {})[0] == TLS
    assert ask(link.public, good[0], "GET", INFO, {})[0] == 200


def test_no_plain_text(link: Link) -> None:
    """The public port says nothing to who speaks no TLS."""
    assert ask(link.public, None, "GET", INFO, {})[0] == TLS


def test_the_inner_door(link: Link, routes: list[Route]) -> None:
    """On loopback, each secret opens its own part, the Runtime wants a token, and Fleet is not there."""
    secrets = {COMMANDS: {SECRET_HEADER: link.secret}, "/v1/control/": {SECRET_HEADER: link.control}}
    wrong = ("0" * 64, "", link.secret[:-1], link.control[:-1])
    for headers in ({}, *({SECRET_HEADER: value} for value in wrong)):
        for method, path in routes:
            status, _ = ask(link.inner, None, method, path, {**headers, **PROTOBUF})
            if path.startswith("/v1/runtime/"):
                assert status in (401, 403), (path, status)
            elif path != "/health":
                assert status == 404, (path, status)
    closed = (404, b'{"error": "not here"}'), (404, b"")
    inside = {path for _, path in routes if path.startswith("/v1/runtime/")} | {"/health"}
    ours = {COMMANDS: {path for _, path in OURS}, "/v1/control/": set(CONTROL)}
    assert set(CONTROL) < {path for _, path in routes}
    for part, secret in secrets.items():
        asked = {route: ask(link.inner, None, *route, {**secret, **PROTOBUF}) for route in routes}
        reached = {path for (_, path), answered in asked.items() if answered not in closed}
        assert reached == inside | ours[part]
    twice = {**secrets[COMMANDS], SECRET_HEADER.upper(): link.secret}
    assert ask(link.inner, None, "GET", f"{COMMANDS}status", twice) == closed[0]


def test_a_body_in_chunks_is_not_read_inside(link: Link) -> None:
    """Whoever is on this machine cannot have Flower read a body without an end, whatever length is said."""
    for head in (
        b"transfer-encoding: chunked\r\n",
        b"content-length: 3\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 99999999\r\n",
    ):
        with Line(link.inner) as line:
            line.socket.sendall(b"POST /v1/runtime/push-object HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n")
            assert line.socket.recv(65_536).split(b" ", 2)[1] == b"413"


def test_tasks_are_signed_for(link: Link) -> None:
    """Who knows the executors' secret may ask for a task, who knows another may not."""
    for secret, allowed in ((link.superexec, True), (b"x" * 32, False)):
        guard = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE})
        client = _client(f"127.0.0.1:{link.inner}", guard)
        request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        with nullcontext() if allowed else pytest.raises(httpx.HTTPStatusError, match="401"):
            assert client.AcquireTask(request).token == ""
        client.close()


def test_a_stock_node_comes_in(link: Link, good: Identity) -> None:
    """Flower's own client of the Fleet API, with north's certificate and node key, is let in and answered."""
    kit = link.kits / "north"
    key = keys.load_node_key(kit / "node.key")
    guard = NodeAuthHttpInterceptor(key, key.public_key())
    with FleetHttpClient(f"https://127.0.0.1:{link.public}", interceptors=[guard], verify=good[0]) as client:
        public = node_key_text(key.public_key()).encode()
        node = client.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=30)).node_id
        assert node != 0
        beat = SendNodeHeartbeatRequest(node=Node(node_id=node), heartbeat_interval=30)
        assert client.SendNodeHeartbeat(beat).success
        client.DeactivateNode(DeactivateNodeRequest(node_id=node))


def test_a_renewed_certificate_is_used(link: Link, good: Identity) -> None:
    """Kits that were renewed are taken without a restart, also by the authority's newer roster."""

    def served() -> bytes | None:
        with Line(link.public, good[0]) as line:
            assert isinstance(line.socket, ssl.SSLSocket)
            return line.socket.getpeercert(binary_form=True)

    before, pid = served(), link.child.pid
    make_kits(link.kits, "north", "south", "west")
    until = time.monotonic() + 20
    while served() == before and time.monotonic() < until:
        time.sleep(0.1)
    after = keys.load_certificate(load_kit(link.kits / "server").certificate)
    assert served() == after.public_bytes(Encoding.DER) != before
    assert (link.child.pid, link.child.code) == (pid, None)


def test_revoked_while_connected(link: Link, routes: list[Route]) -> None:
    """A site that the new roster does not name is out with the first request after it was read."""
    kit = link.kits / "west"
    context, headers = client_tls(kit / "authority.pem", kit / "tls.pem", kit / "tls.key"), node_header(kit)
    with Line(link.public, context) as line:  # one connection: nobody asks for the certificate again
        assert line.ask("GET", INFO, headers)[0] == 200
        make_kits(link.kits, "north", "south")
        began = time.monotonic()
        while (status := line.ask("GET", INFO, headers)[0]) == 200 and time.monotonic() < began + 20:
            time.sleep(0.02)
        took_s = time.monotonic() - began
    assert status == 403
    assert took_s < 10, took_s  # looked for once a second
    for route in routes:
        told, _ = ask(link.public, context, *route, headers)
        assert told == (403 if route in TEN | {("GET", INFO)} else 404), route
    north = link.kits / "north"
    others = client_tls(north / "authority.pem", north / "tls.pem", north / "tls.key")
    assert ask(link.public, others, "GET", INFO, {})[0] == 200
