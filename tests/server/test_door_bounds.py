"""What a site may leave at the server: so many bytes, replies of so many pieces, nothing for ever."""

from __future__ import annotations

import asyncio
import secrets
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from server import door
from server.door import PUSH_MESSAGES, PUSH_OBJECT, Refused
from server.flwr_adapter import task_identity
from server.flwr_adapter.link import NODE_KEY_HEADER, SuperLink, speaks_for_itself
from server.kit import load_kit, make_folders
from server.link import _Link
from tests.server.door_cases import PULL, World, knock
from tests.server.link_cases import make_kits


@pytest.fixture
def world() -> World:
    """Two sites and a door."""
    made = World()
    made.door.allowance = 1000
    return made


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the door's clock on."""
    at = [50.0]
    monkeypatch.setattr(door.time, "monotonic", lambda: at[0])

    def later(seconds: float) -> None:
        at[0] += seconds

    return later


def push(world: World, size: int, path: str = PUSH_OBJECT, site: str = "north") -> int:
    """Push so many bytes; return the status."""
    headers = [(NODE_KEY_HEADER, world.node_key(site))]
    certificate = world.certificate(site)
    return knock(world, path=path, pieces=[b"x" * size], headers=headers, certificate=certificate).status


def test_a_site_may_push_so_much(world: World, pass_time: Callable[[float], None]) -> None:
    """More is told to try again, by either path; what was refused does not count, nor for others."""
    assert [push(world, 600), push(world, 401), push(world, 400)] == [200, 503, 200]
    assert [push(world, 1), push(world, 1, PUSH_MESSAGES)] == [503, 503]
    assert world.refusals[-1] == ("north", PUSH_MESSAGES, "it pushes more than it may", 503)
    assert len(world.reached) == 2
    assert push(world, 1000, site="south") == 200
    assert push(world, 5000, PULL) == 200  # it leaves nothing behind
    assert push(world, 0) == 200


def test_what_was_pushed_is_forgotten(world: World, pass_time: Callable[[float], None]) -> None:
    """It is let go evenly within ten minutes, and nobody saves more than may be pushed at once."""
    assert push(world, 1000) == 200
    pass_time(60)
    assert [push(world, 101), push(world, 100), push(world, 1)] == [503, 200, 503]
    pass_time(540)
    assert [push(world, 901), push(world, 900)] == [503, 200]
    pass_time(10**6)
    assert [push(world, 1001), push(world, 1000), push(world, 1)] == [503, 200, 503]


def pushed(pieces: int, *, deep: bool = False) -> bytes:
    """A reply that names so many pieces, beside one another or in one another."""
    tree = ObjectTree(object_id="a")
    if deep:
        for _ in range(pieces - 1):
            tree = ObjectTree(object_id="a", children=[tree])
    else:
        tree.children.extend(ObjectTree(object_id="a") for _ in range(pieces - 1))
    made = PushMessagesRequest(
        node=Node(node_id=5),
        messages_list=[ProtoMessage(metadata=Metadata(src_node_id=5))],
        message_object_trees=[tree],
    )
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("deep", [True, False])
def test_pieces_are_counted(deep: bool) -> None:
    """However they are arranged, one more than may be is too many."""
    assert speaks_for_itself(pushed(40, deep=deep), 40)
    assert not speaks_for_itself(pushed(41, deep=deep), 40)
    assert speaks_for_itself(pushed(1000))  # of what is nested, Flower's library reads 100
    assert not speaks_for_itself(pushed(1001))


@pytest.fixture
def link(tmp_path: Path) -> _Link:
    """The link process's state for a federation of north."""
    make_kits(tmp_path / "kits", "north")
    kit = load_kit(tmp_path / "kits/server")
    make_folders(kit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Flower makes its database with
        return _Link(kit, {"superexec": secrets.token_hex(32), "secret": ""})


def test_too_many_pieces_are_refused_at_the_door(link: _Link, world: World) -> None:
    """The most that a reply of the largest size has, and a few: one more is 403, and Flower hears nothing."""
    most = round(link.kit.config.max_reply_mib / 5) + 64
    world.door.pushes, world.door.allowance = link.pushes, 2**30
    assert knock(world, path=PUSH_MESSAGES, pieces=[pushed(most)]).status == 200
    assert knock(world, path=PUSH_MESSAGES, pieces=[pushed(most + 1)]).status == 403
    assert len(world.reached) == 1
    with pytest.raises(Refused, match="too many pieces"):
        link.pushes(pushed(most + 1))


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[SuperLink]:
    """Flower's application over a database of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Flower makes its database with
        yield SuperLink(tmp_path / "superlink.db", b"s" * 32)


def begun(link: SuperLink, node: int) -> tuple[int, int]:
    """A run of Flower's with a message for a node, its pieces there; return its id and its task's."""
    state = link._state
    run = state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP)
    (info,) = state.get_run_info(run_ids=[run])
    with task_identity(run, 1, info.primary_task_id):
        content = RecordDict({"c": ConfigRecord({"run": str(run)})})
        message = Message(content, dst_node_id=node, message_type="query.x")
        message.metadata.__dict__["_message_id"] = message.object_id
        assert state.store_message_ins(message) is not None
        assert len(state.object_store.preregister(run, get_object_tree(message))) == 3
    return run, info.primary_task_id


@pytest.mark.parametrize("how", [SubStatus.FAILED, SubStatus.STOPPED])
def test_what_is_left_of_a_run_is_deleted(superlink: SuperLink, how: str) -> None:
    """The messages and pieces of a run that has ended, and of no other, are gone from the database."""
    state = superlink._state
    node = superlink.register({"north": b"key of north"})["north"]
    assert state.activate_node(node, 30)
    (ended, task), (going, other) = begun(superlink, node), begun(superlink, node)
    superlink.clean()
    assert (state.num_message_ins(), len(state.object_store)) == (2, 6)
    assert state.finish_task(task, how, "")
    superlink.clean()
    assert (state.num_message_ins(), len(state.object_store)) == (1, 3)
    assert state.get_message_ids_from_run_id(ended) == set()
    assert len(state.get_message_ids_from_run_id(going)) == 1
    assert state.finish_task(other, how, "")
    for _ in range(2):  # a second time there is nothing to do
        superlink.clean()
        assert (state.num_message_ins(), len(state.object_store)) == (0, 0)


def test_the_link_process_cleans(link: _Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so by itself, now and then."""
    calls = list[int]()
    monkeypatch.setattr(link.superlink, "clean", lambda: calls.append(1))
    for at, count in ((10**6, 1), (10**6 + 20, 1), (10**6 + 31, 2)):
        monkeypatch.setattr("server.link.time.monotonic", lambda at=at: float(at))
        asyncio.run(link._clean())
        assert len(calls) == count
