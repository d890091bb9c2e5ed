"""A node has one message at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from hypothesis import given, settings
from hypothesis import strategies as st

from server.flwr_adapter import task_identity
from server.turns import TurnsGrid


class _SlowGrid(Grid):
    """Answers a message when its turn, drawn beforehand, has come; refuses a second one to a busy node."""

    def __init__(self, order: Iterable[int]) -> None:
        self._order = iter(order)
        self.open: dict[str, Message] = {}
        self.seen: list[tuple[int, int]] = []

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return [1, 2, 3]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            node, number = message.metadata.dst_node_id, _number(message)
            assert node not in {other.metadata.dst_node_id for other in self.open.values()}
            message.metadata.__dict__["_message_id"] = f"flower-{number}"
            self.open[f"flower-{number}"] = message
            self.seen.append((node, number))
            yield f"flower-{number}"

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [i for i in message_ids if next(self._order, 0) % 2 == 0]
        return [Message(m.content, reply_to=m) for m in map(self.open.pop, ready)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(list(self.push_messages(messages)))


@pytest.fixture(autouse=True)
def _identity() -> Iterator[None]:
    with task_identity(1):
        yield


def _number(message: Message) -> int:
    return int(str(message.content.config_records["head"]["number"]))


def _messages(nodes: Sequence[int]) -> list[Message]:
    """A numbered message to each of these nodes."""
    return [
        Message(RecordDict({"head": ConfigRecord({"number": number})}), node, "train.fit")
        for number, node in enumerate(nodes)
    ]


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), max_size=12), st.lists(st.integers(0, 9), max_size=12))
def test_each_gets_its_own_reply_and_no_node_two_at_once(nodes: list[int], order: list[int]) -> None:
    """Whatever the order of the answers: every id its reply, a node's messages in order, one at a time."""
    with task_identity(1):
        below = _SlowGrid(order)
        grid = TurnsGrid(below)
        ids = list(grid.push_messages(_messages(nodes)))
        replies: dict[str, int] = {}
        for _ in range(len(nodes) + len(order) + 1):
            for reply in grid.pull_messages([i for i in ids if i not in replies]):
                replies[reply.metadata.reply_to_message_id] = _number(reply)
    assert replies == {i: number for number, i in enumerate(ids)}
    for node in set(nodes):
        assert [number for n, number in below.seen if n == node] == [
            number for number, n in enumerate(nodes) if n == node
        ]


def test_an_answer_that_nobody_fetches_holds_up_no_other() -> None:
    """A node whose reply is never asked for still gets its next message."""
    grid = TurnsGrid(_SlowGrid([]))
    _, second = grid.push_messages(_messages([1, 1]))
    assert list(grid.pull_messages([second])) == []
    assert [_number(reply) for reply in grid.pull_messages([second])] == [1]


def test_send_and_receive_returns_every_reply() -> None:
    """The call that waits returns all replies, a node's second one too."""
    replies = TurnsGrid(_SlowGrid([])).send_and_receive(_messages([1, 1, 2]))
    assert sorted(map(_number, replies)) == [0, 1, 2]


def test_send_and_receive_ends_in_time() -> None:
    """With no time there is no reply, and no wait."""
    assert list(TurnsGrid(_SlowGrid([])).send_and_receive(_messages([1]), timeout=0)) == []


class _BrokenGrid(_SlowGrid):
    """Raises where the reply to one message is pulled."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return replies, or raise."""
        wanted = list(message_ids)
        if "flower-0" in wanted:
            del self.open["flower-0"]
            raise RecursionError
        return super().pull_messages(wanted)


def test_what_pulling_one_reply_raises_is_of_that_message_alone() -> None:
    """Who asks for the bad reply gets what it raised; others get theirs, and its node goes on."""
    grid = TurnsGrid(_BrokenGrid([]))
    ids = list(grid.push_messages(_messages([1, 1, 2])))
    assert [_number(m) for m in grid.pull_messages([ids[2]])] == [2]
    with pytest.raises(RecursionError):
        grid.pull_messages([ids[0]])
    assert [_number(m) for m in grid.pull_messages([ids[1]])] == [1]
