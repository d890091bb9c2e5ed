"""The public door, request by request: what is let in, what is not, and in which words it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.roster import Roster
from server import door
from server.certificates import new_authority, server_certificate
from server.door import INFO, MAX_BODY_BYTES, MAX_OBJECT_BYTES, MAX_PROBE_BYTES, MOST_AT_ONCE
from server.flwr_adapter.link import FLEET_PATHS, NODE_KEY_HEADER
from tests.server.door_cases import DAYS, NOW, PULL, Caller, World, knock

OBJECT, MESSAGES = "/v1/fleet/push-object", "/v1/fleet/push-messages"


@pytest.fixture
def world() -> World:
    """Two sites and a door."""
    return World()


def refused(world: World, status: int, why: str, **request: Any) -> None:
    """The request ends with this status, for this reason, and never reaches Flower."""
    answered = knock(world, **request)
    assert answered.status == status, answered.body
    assert why in world.refusals[-1][2]
    assert world.refusals[-1][3] == status
    assert world.reached == []
    assert answered.headers[b"connection"] == b"close"
    assert set(answered.words) == {"error"}
    assert why not in answered.words["error"]  # the reason is for the server's log alone


@pytest.mark.parametrize("path", FLEET_PATHS)
def test_a_site_reaches_the_fleet(world: World, path: str) -> None:
    """With its certificate and its node's key a site reaches each path, and its body arrives whole."""
    assert knock(world, path=path, pieces=[b"in ", b"", b"pieces"]).body == b"flwr"
    assert world.reached == [(path, b"in pieces")]
    assert world.refusals == []


@pytest.mark.parametrize(
    "changes",
    [
        {"raw_path": b"/v1/fleet/pull%2dmessages"},
        {"raw_path": b"/v1/%66leet/pull-messages"},
        {"path": "/v1/fleet/../fleet/pull-messages", "raw_path": b"/v1/fleet/%2e%2e/fleet/pull-messages"},
        {"path": "/v1/fleet/../fleet/pull-messages"},
        {"path": PULL + "/"},
        {"path": "/" + PULL},
        {"path": "/v1//fleet/pull-messages"},
        {"path": PULL.upper()},
        {"path": "http://x" + PULL},
        {"path": PULL + "\u017f", "raw_path": PULL.encode() + b"%c5%bf"},
        {"path": PULL + "\0", "raw_path": PULL.encode() + b"%00"},
        {"query_string": b"a=1"},
        {"method": "GET"},
        {"method": "HEAD"},
        {"method": "PUT"},
        {"method": "post"},
        {"path": "/v1/fleet/register-node"},
        {"path": "/v1/fleet/unregister-node"},
        {"path": "/v1/fleet/"},
        {"path": "/v1/control/start-run"},
        {"path": "/v1/runtime/acquire-task"},
        {"path": "/v1/consilium/submit"},
        {"path": "/docs", "method": "GET"},
        {"path": "/health", "method": "GET"},
        {"path": "", "method": "GET"},
        {"path": INFO, "method": "POST"},
        {"path": INFO, "method": "HEAD"},
        {"path": INFO + "/", "method": "GET"},
        {"path": INFO, "raw_path": b"/v1/consilium/inf%6f"},
    ],
)
def test_no_other_path(world: World, changes: dict[str, Any]) -> None:
    """Another path, spelling, method or query is not here, before anybody is asked who he is."""
    refused(world, 404, "path", **changes)
    refused(world, 404, "path", **changes, certificate=None)


def test_no_line_of_the_log_is_a_callers(world: World) -> None:
    """What is told of a refusal is short, and holds nothing that a terminal or a log would obey."""
    refused(world, 404, "path", path="/\n2026 fake\x1b[2J" + "x" * 200)
    told = world.refusals[-1][1]
    assert len(told) <= 100
    assert told.isprintable()


def test_who_may_come_in(world: World) -> None:
    """Without a certificate of a site of the roster nobody reaches Flower, nor the information."""
    stranger = new_authority("clinic", NOW)
    for path in (PULL, INFO):
        refused(world, 403, "no certificate", certificate=None, path=path)
        refused(world, 403, "no certificate", extensions={}, path=path)
        refused(world, 403, "names no site", certificate=b"not DER", path=path)
        ours = stranger.certificate.public_bytes(Encoding.DER)
        refused(world, 403, "names no site", certificate=ours, path=path)
        public = world.keys["north"].public_key()
        hosts = server_certificate(world.authority, public, "clinic", ["a.org"], NOW, DAYS)
        refused(world, 403, "names no site", certificate=hosts.public_bytes(Encoding.DER), path=path)
        refused(world, 403, "not in the roster", certificate=world.certificate("other"), path=path)
        named = world.certificate("other", "north")
        refused(world, 403, "not in the roster", certificate=named, path=path)
        named = world.certificate("north", "south")
        refused(world, 403, "names another site", certificate=named, path=path)
    assert {said[0] for said in world.refusals} == {"somebody"}


def test_the_certificate_must_hold_now(world: World) -> None:
    """It is looked at for each request: a connection that is kept open does not outlive it."""
    certificate = world.certificate("north")
    renewed = world.certificate("north", at=NOW + DAYS * 86_400)
    refused(world, 403, "not valid now", certificate=renewed)
    assert world.refusals[-1][:2] == ("north", PULL)
    world.roster = Roster.model_validate(world.roster.model_dump() | {"expires_at": int(NOW) + 10**8})
    for now in (NOW, NOW + DAYS * 86_400 - 1):
        world.now = now
        assert knock(world, certificate=certificate).status == 200
    world.reached.clear()
    for now in (NOW + DAYS * 86_400, NOW + 10**7):
        world.now = now
        refused(world, 403, "not valid now", certificate=certificate)
    world.now = NOW + DAYS * 86_400
    assert knock(world, certificate=renewed).status == 200


def test_the_node_key_is_the_sites_own(world: World) -> None:
    """A site speaks for its own node only: the header must hold its key, once."""
    north, south = world.node_key("north"), world.node_key("south")
    for headers in (
        [],
        [(NODE_KEY_HEADER, south)],
        [(NODE_KEY_HEADER, north), (NODE_KEY_HEADER, north)],
        [(NODE_KEY_HEADER, north), (NODE_KEY_HEADER, south)],
        [(NODE_KEY_HEADER, south), (b"Flwr-Public-Key", north)],
        [(NODE_KEY_HEADER, north + b" ")],
        [(NODE_KEY_HEADER, b"")],
        [(b"flwr_public_key", north)],
    ):
        refused(world, 403, "node key", headers=headers)
        assert world.refusals[-1][0] == "north"
    refused(world, 403, "node key", certificate=world.certificate("south"))
    assert world.refusals[-1][0] == "south"
    assert knock(world, path=INFO, headers=[]).status == 200


def test_a_roster_must_be_in_force(world: World) -> None:
    """While there is none, or it has expired, sites are told to try again: a new one may come."""
    world.is_there = False
    refused(world, 503, "no roster")
    world.is_there = True
    world.now = world.roster.expires_at + 1
    refused(world, 503, "expired")
    refused(world, 503, "expired", path=INFO)


def test_a_new_roster_counts_at_once(world: World) -> None:
    """Who is not in it any more is out with the next request, who got a new node key with the old one."""
    assert knock(world).status == 200
    world.reached.clear()
    old = world.roster.model_dump()
    north, south = old["sites"]
    world.roster = Roster.model_validate(old | {"epoch": 2, "sites": [south]})
    refused(world, 403, "not in the roster", headers=[])
    swapped = [north | {"node_key": south["node_key"]}, south | {"node_key": north["node_key"]}]
    world.roster = Roster.model_validate(old | {"epoch": 3, "sites": swapped})
    entry = world.roster.site("south")
    assert entry is not None
    refused(world, 403, "node key", headers=[(NODE_KEY_HEADER, world.node_key("south"))])


@pytest.mark.parametrize(("path", "cap"), [(OBJECT, MAX_OBJECT_BYTES), (PULL, MAX_BODY_BYTES)])
def test_bodies_have_bounds(world: World, path: str, cap: int) -> None:
    """What is too large is refused by what is said of it, and by what comes, whatever was said."""
    node = (NODE_KEY_HEADER, world.node_key("north"))
    assert knock(world, path=path, pieces=[b"x" * cap]).status == 200
    world.reached.clear()
    piece = cap // 4
    for said in (None, b"1", str(cap).encode()):
        headers = [node] + ([] if said is None else [(b"content-length", said)])
        caller = Caller([b"x" * piece] * 100)
        scope = world.scope(path=path, headers=headers)
        asyncio.run(world.door(scope, caller.receive, caller.send))
        assert caller.answered.status == 413
        assert caller.read == 5
    for said in (str(cap + 1).encode(), b"9" * 5000, b"-1", b"+1", b"1e3", b""):
        caller = Caller()
        scope = world.scope(path=path, headers=[node, (b"Content-Length", said)])
        asyncio.run(world.door(scope, caller.receive, caller.send))
        assert (caller.answered.status, caller.read) == (413, 0), said
    assert world.reached == []


def test_a_slow_or_broken_body(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not come, or ends in the middle, takes no place for long."""
    monkeypatch.setattr(door, "_BODY_S", 0.05)
    refused(world, 503, "did not come", pieces=[])
    refused(world, 503, "hung up", pieces=[b"half", None])
    assert knock(world).status == 200


def test_not_too_many_at_once(world: World) -> None:
    """One more than a SuperNode ever needs is told to try again; other sites are not held up by it."""

    async def crowd() -> tuple[list[int], int]:
        world.hold.clear()
        callers = [Caller() for _ in range(MOST_AT_ONCE + 1)]
        other = Caller()
        tasks = [asyncio.create_task(world.door(world.scope(), c.receive, c.send)) for c in callers]
        for _ in range(10):
            await asyncio.sleep(0)
        scope = world.scope(
            certificate=world.certificate("south"), headers=[(NODE_KEY_HEADER, world.node_key("south"))]
        )
        tasks.append(asyncio.create_task(world.door(scope, other.receive, other.send)))
        await asyncio.sleep(0)
        world.hold.set()
        await asyncio.gather(*tasks)
        return [c.answered.status for c in callers], other.answered.status

    statuses, other = asyncio.run(crowd())
    assert (statuses, other) == ([200] * MOST_AT_ONCE + [503], 200)
    assert knock(world).status == 200  # places are given back


def test_places_are_given_back_after_an_error(world: World) -> None:
    """Refusals and errors of the application free their place."""

    async def fails(*_: Any) -> None:
        raise OSError("disk")

    whole, world.door.app = world.door.app, fails
    for _ in range(2 * MOST_AT_ONCE):
        with pytest.raises(OSError, match="disk"):
            knock(world)
        assert knock(world, headers=[]).status == 403
    world.door.app = whole
    assert knock(world).status == 200


@pytest.mark.parametrize(("said", "told"), [(500, 503), (429, 503), (401, 401), (412, 412), (204, 204)])
def test_what_may_pass_is_503(world: World, said: int, told: int) -> None:
    """A SuperNode gives up on some answers; what may pass by itself becomes one that it repeats."""
    world.status = said
    assert knock(world).status == told


def test_no_reply_in_anothers_name(world: World) -> None:
    """What push-messages carries is looked at; other paths are not."""
    refused(world, 403, "another node's name", path=MESSAGES, pieces=[b"of ", b"another"])
    assert knock(world, path=MESSAGES).status == 200
    assert knock(world, path=PULL, pieces=[b"of another"]).status == 200


def test_what_sites_are_told(world: World) -> None:
    """The information is what the server gave, and its time; a probe pads it to measure the line."""
    answered = knock(world, path=INFO)
    assert answered.words == {"epoch": 1, "time": NOW}
    assert answered.headers == {
        b"content-type": b"application/json",
        b"content-length": str(len(answered.body)).encode(),
    }
    for padding in (1, MAX_PROBE_BYTES):
        padded = knock(world, path=INFO, query_string=b"probe=%d" % padding)
        assert len(padded.body) == len(answered.body) + padding
        assert padded.words == answered.words
    assert world.reached == []


@pytest.mark.parametrize(
    "query",
    [
        b"probe=%d" % (MAX_PROBE_BYTES + 1),
        b"probe=",
        b"probe=-1",
        b"probe=" + b"0" * 8,
        b"a=1",
        b"probe=1&a=1",
    ],
)
def test_a_probe_has_bounds(world: World, query: bytes) -> None:
    """Anything but probe=BYTES up to its bound is not here."""
    refused(world, 404, "query", path=INFO, query_string=query)


def test_only_http(world: World) -> None:
    """Another kind of connection gets no answer."""
    caller = Caller()
    asyncio.run(world.door({"type": "websocket"}, caller.receive, caller.send))
    assert (caller.sent, caller.read, world.reached) == ([], 0, [])
