"""Replies as Flower hands them over: each is put together by itself, and what is bad harms no other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto import message_pb2
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import get_object_head_values_from_object_content

from server.flwr_adapter import grid as grid_module
from server.flwr_adapter import task_identity
from server.flwr_adapter.grid import GuardedGrid, Node, put_together
from tests.server.runtime_cases import MOST, TASK, Content, FakeRuntime, body, number, record


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    """An empty SuperLink."""
    with task_identity(TASK.flower_run):
        yield FakeRuntime()


@pytest.fixture
def grid(fake: FakeRuntime) -> GuardedGrid:
    """The grid over it."""
    made = GuardedGrid("127.0.0.1:1", TASK, MOST)
    made._client = fake  # type: ignore[assignment]
    return made


def test_good_replies_pass(fake: FakeRuntime, grid: GuardedGrid) -> None:
    """Replies come whole and once, in the order of the questions, and Flower is told that they came."""
    roots = [fake.put(f"asked-{i}", record(i)) for i in range(3)]
    found = grid.pull_messages(["asked-2", "none", "asked-0", "asked-1"])
    assert [number(message) for message in found] == [2, 0, 1]
    assert found[0].content["arrays"] == record(2)["arrays"]
    assert [message.metadata.message_id for message in found] == [roots[2], roots[0], roots[1]]
    assert sorted(fake.confirmed) == sorted(roots)
    assert grid.pull_messages(["asked-0"]) == []


def refused(fake: FakeRuntime, grid: GuardedGrid) -> str:
    """The reply to ``bad`` is an error, those before and after it pass, and Flower may delete all three."""
    ((root, _),) = fake.replies["bad"]
    others = [fake.put("first", record(1)), fake.put("last", record(2))]
    fake.confirmed.clear()
    first, bad, last = grid.pull_messages(["first", "bad", "last"])
    assert (number(first), number(last)) == (1, 2)
    assert bad.has_error()
    assert bad.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert bad.metadata.reply_to_message_id == "bad"
    assert sorted(fake.confirmed) == sorted([root, *others])
    return str(bad.error.reason)


def test_one_piece_many_times(fake: FakeRuntime, grid: GuardedGrid) -> None:
    """A small reply that names one piece again and again would unfold to too much: it is not unfolded."""
    fake.put("asked", record(3), Array=body(lambda b: b | {"arraychunk_ids": [0] * 90}))
    (unfolded,) = grid.pull_messages(["asked"])
    assert len(unfolded.content.array_records["arrays"]["blob"].data) == 90 * 1000
    fake.put("bad", record(3), Array=body(lambda b: b | {"arraychunk_ids": [0] * 100}))
    assert "ValueError" in refused(fake, grid)


def test_what_is_put_together_is_counted(fake: FakeRuntime) -> None:
    """Each array counts by what it names, however often and in whichever array."""
    fake.put("a", record(1, 1000))
    alone = put_together(fake.objects)
    assert 1000 <= alone < 1100
    fake.put("b", record(1, 1000), Array=body(lambda b: b | {"arraychunk_ids": [0] * 7, "shape": [1]}))
    assert put_together(fake.objects) == 8 * alone
    assert put_together({}) == 0


def test_more_bytes_than_may_be(fake: FakeRuntime, grid: GuardedGrid) -> None:
    """The pieces of a reply are not even fetched beyond the bound, in one array or in many."""
    fake.put("bad", record(3, MOST + 1))
    assert "ValueError" in refused(fake, grid)
    many = {f"a{i}": Array(np.full(MOST // 10, i, np.uint8)) for i in range(100)}
    fake.put("bad", RecordDict({"arrays": ArrayRecord(many)}))
    fake.late.clear()
    assert "ValueError" in refused(fake, grid)
    assert len(fake.late) < 100  # of the 203 objects


@pytest.mark.parametrize(
    "change",
    [
        body(b""),
        body(b"{"),
        body(b"[]"),
        body(b"\xff"),
        body(b'{"dtype": "uint8"}'),
        body(lambda b: b | {"arraychunk_ids": "0"}),
        body(lambda b: b | {"arraychunk_ids": {"0": 0}}),
        body(lambda b: b | {"arraychunk_ids": [1]}),
        body(lambda b: b | {"arraychunk_ids": [0.5]}),
        body(lambda b: b | {"arraychunk_ids": ["0"]}),
        body(lambda b: b | {"arraychunk_ids": [-2]}),
        body(lambda b: b | {"arraychunk_ids": [None]}),
        body(lambda b: b | {"arraychunk_ids": []}),
        body(lambda b: {k: v for k, v in b.items() if k != "shape"}),
        lambda content: b"nothing",
        lambda content: content.replace(b"Array ", b"Thing ", 1),
        lambda content: content.replace(b"Array ", b"Message ", 1),
    ],
)
def test_arrays_that_are_none(fake: FakeRuntime, grid: GuardedGrid, change: Content) -> None:
    """Whatever a site puts into an array's description, it is an error reply and no more."""
    tree = fake.tree
    fake.tree = lambda object_id: message_pb2.ObjectTree(object_id=object_id)  # type: ignore[method-assign]
    root = fake.put("bad", record(3), Array=change)
    kept = [message_pb2.ObjectTree(object_id=i) for i in fake.objects if i != root]
    fake.replies["bad"] = [(root, message_pb2.ObjectTree(object_id=root, children=kept))]
    fake.tree = tree  # type: ignore[method-assign]
    assert "cannot be put together" in refused(fake, grid)


def test_the_length_in_the_head_fools_nobody(fake: FakeRuntime, grid: GuardedGrid) -> None:
    """What is counted is what Flower will read, whatever length an object claims for its body."""
    twice = body(lambda b: b | {"arraychunk_ids": [0] * 1000})

    def lies(content: bytes) -> bytes:
        head, _, rest = twice(content).partition(HEAD_BODY_DIVIDER)
        return head.rpartition(b" ")[0] + b" 2" + HEAD_BODY_DIVIDER + rest

    fake.put("bad", record(3), Array=lies)
    assert "ValueError" in refused(fake, grid)


def test_too_many_pieces(fake: FakeRuntime, grid: GuardedGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of more objects than any reply has is not fetched, nor an array of as many unfolded."""
    monkeypatch.setattr(grid_module, "_MOST_OBJECTS", 50)
    root = fake.put("bad", record(3))
    leaves = [message_pb2.ObjectTree(object_id=root) for _ in range(52)]
    fake.replies["bad"] = [(root, message_pb2.ObjectTree(object_id=root, children=leaves))]
    assert "ValueError" in refused(fake, grid)
    fake.put("bad", record(3), Array=body(lambda b: b | {"arraychunk_ids": [0] * 51}))
    assert "ValueError" in refused(fake, grid)


def test_what_is_no_message(fake: FakeRuntime, grid: GuardedGrid) -> None:
    """A tree whose root is another object is no reply."""
    root = fake.put("bad", record(3))
    _, (inner,), _ = get_object_head_values_from_object_content(fake.objects[root])
    fake.replies["bad"] = [(inner, fake.tree(inner))]
    assert "TypeError" in refused(fake, grid)


def test_lost_objects(fake: FakeRuntime, grid: GuardedGrid) -> None:
    """A reply with an object that Flower no longer has is an error reply."""
    fake.missing.add(fake.put("bad", record(3)))
    assert "LookupError" in refused(fake, grid)


def test_nodes(grid: GuardedGrid) -> None:
    """Nodes come with the key by which the roster knows them."""
    assert grid.online() == [Node(5, b"key", "2026-01-01")]


def test_a_task_does_not_show_its_token() -> None:
    """It speaks for the run."""
    assert repr(TASK) == "Task('r1', flower_run=77)"
