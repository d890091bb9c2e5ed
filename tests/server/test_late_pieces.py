"""Replies that come in pieces, and a link that is away: nobody waits for a site, and no site for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.supercore.run import RunNotRunningException

from server.flwr_adapter import grid as grid_module
from server.flwr_adapter import task_identity
from server.flwr_adapter.grid import GuardedGrid, Node
from server.flwr_adapter.runtime import RunIsOver
from tests.server.runtime_cases import MOST, TASK, FakeRuntime, number, record, status_error


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


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the grid's clock on."""
    at = [1000.0]
    monkeypatch.setattr(grid_module.time, "monotonic", lambda: at[0])

    def later(seconds: float) -> None:
        at[0] += seconds

    return later


def is_bad(messages: list[Message], asked: str = "slow") -> bool:
    """Whether the one reply is an error in the place of one that cannot be used."""
    (bad,) = messages
    assert bad.metadata.reply_to_message_id == asked
    return bad.has_error() and bad.error.code == ErrorCode.MESSAGE_UNAVAILABLE


def test_pieces_come_over_several_looks(fake: FakeRuntime, grid: GuardedGrid) -> None:
    """A look takes what is up and returns; meanwhile another site's reply is taken. No piece comes twice."""
    root = fake.put("slow", record(3))
    fake.late = dict.fromkeys(fake.objects, 1)  # each is there only when it is asked for again
    for look in range(len(fake.objects)):
        fake.put("fast", record(4 + look))
        assert [number(message) for message in grid.pull_messages(["slow", "fast"])] == [4 + look]
        assert root not in fake.confirmed
    assert [number(message) for message in grid.pull_messages(["slow"])] == [3]
    assert fake.confirmed[-1] == root
    pieces = [i for i in fake.asked if i in fake.late]
    assert max(pieces.count(i) for i in fake.objects) == 2  # once too early, once for good
    assert grid.pull_messages(["slow"]) == []


def test_nobodys_large_answer_holds_up_a_look(
    fake: FakeRuntime, grid: GuardedGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one reply so many bytes are taken at one look and no more."""
    monkeypatch.setattr(grid_module, "_AT_ONCE_BYTES", 1)
    fake.put("slow", record(3))
    pieces = len(fake.objects)
    for look in range(1, pieces):
        assert grid.pull_messages(["slow"]) == []
        assert len(fake.asked) == look
    assert [number(message) for message in grid.pull_messages(["slow"])] == [3]


def test_a_reply_that_stops_coming(
    fake: FakeRuntime, grid: GuardedGrid, pass_time: Callable[[float], None]
) -> None:
    """It is given up, and deleted, when nothing more of it has come for long; any piece counts as a move."""
    root = fake.put("slow", record(3))
    first, *rest = dict.fromkeys(fake.objects)
    fake.late = {first: 1} | dict.fromkeys(rest, 10)
    assert grid.pull_messages(["slow"]) == []
    pass_time(179)
    assert grid.pull_messages(["slow"]) == []  # the first piece comes
    pass_time(179)
    assert grid.pull_messages(["slow"]) == []
    pass_time(2)
    assert is_bad(grid.pull_messages(["slow"]))
    assert fake.confirmed == [root]
    assert grid.pull_messages(["slow"]) == []


@pytest.mark.parametrize(
    "failure", [httpx.ReadTimeout("slow"), httpx.ConnectError("gone"), status_error(503)]
)
def test_a_link_that_is_away(fake: FakeRuntime, grid: GuardedGrid, failure: Exception) -> None:
    """Whatever call fails, nothing has come and nothing was sent; afterwards all goes on where it was."""
    root = fake.put("asked", record(3))
    with_reply = Message(record(1), dst_node_id=1, message_type="query.x")
    online = grid.online()
    for call in ("PullMessages", "PullObject", "PushMessages", "GetNodes", "ConfirmMessageReceived"):
        fake.fails[call] = failure
    assert grid.pull_messages(["asked"]) == []
    assert grid.push_messages([with_reply]) == []
    assert grid.online() == online == [Node(5, b"key", "2026-01-01")]
    del fake.fails["PullMessages"]
    assert grid.pull_messages(["asked"]) == []
    del fake.fails["PullObject"], fake.fails["PushMessages"]
    assert [number(message) for message in grid.pull_messages(["asked"])] == [3]
    assert grid.push_messages([with_reply]) == ["sent"]
    assert fake.confirmed == []  # Flower deletes it with the run
    assert root in fake.asked


def test_a_call_that_fails_for_one(fake: FakeRuntime, grid: GuardedGrid) -> None:
    """A failure while one reply is asked for keeps back that one, until it passes, and no other."""
    for asked in ("first", "slow", "last"):
        fake.put(asked, record(len(asked)))
    fake.stuck["slow"] = httpx.ReadTimeout("slow")
    assert [number(message) for message in grid.pull_messages(["first", "slow", "last"])] == [5, 4]
    fake.stuck.clear()
    assert [number(message) for message in grid.pull_messages(["first", "slow", "last"])] == [4]


def test_who_was_online_is_not_known(fake: FakeRuntime, grid: GuardedGrid) -> None:
    """A grid that has not heard yet who is online says: nobody."""
    fake.fails["GetNodes"] = httpx.ConnectError("gone")
    assert grid.online() == []


def test_one_piece_that_always_fails(
    fake: FakeRuntime, grid: GuardedGrid, pass_time: Callable[[float], None]
) -> None:
    """A piece for which Flower has only an error spoils its own reply, in the end, and no other."""
    root = fake.put("slow", record(3))
    fake.stuck[root] = status_error(400)
    fake.put("fast", record(4))
    assert [number(message) for message in grid.pull_messages(["slow", "fast"])] == [4]
    pass_time(200)
    assert is_bad(grid.pull_messages(["slow"]))
    assert fake.confirmed[-1] == root


@pytest.mark.parametrize("call", ["PullMessages", "PullObject", "PushMessages", "GetNodes"])
def test_a_run_that_is_over(fake: FakeRuntime, grid: GuardedGrid, call: str) -> None:
    """That Flower has taken the run away is no fault of the link: it is raised."""
    fake.put("asked", record(3))
    fake.fails[call] = RunNotRunningException()
    message = Message(record(1), dst_node_id=1, message_type="query.x")

    def all_calls() -> None:
        grid.online()
        grid.pull_messages(["asked"])
        grid.push_messages([message])

    with pytest.raises(RunIsOver):
        all_calls()
