"""What of the adapter needs no Ray and no server: identities, the watch over a ServerApp, who speaks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from threading import Event, Thread
from typing import cast

import httpx
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from protocol.errors import DataError
from server.flwr_adapter import is_link_failure, task_identity
from server.flwr_adapter.link import speaks_for_itself
from server.flwr_adapter.simulation import _Observed

ASKED = httpx.Request("POST", "http://127.0.0.1/pull")


class _SilentGrid:
    """A grid from which no reply ever comes."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return []


def _call(app: ServerApp) -> None:
    app(grid=cast("Grid", _SilentGrid()), context=Context(1, 1, {}, RecordDict(), {}))


def test_messages_carry_the_identity() -> None:
    """Inside task_identity a message bears the run's, the node's and the task's id."""
    with task_identity(7, node_id=8, task_id=9):
        metadata = Message(RecordDict(), dst_node_id=2, message_type="query.capability").metadata
    assert (metadata.run_id, metadata.src_node_id, metadata.src_task_id) == (7, 8, 9)


def test_the_identity_is_put_back() -> None:
    """Blocks nest, and the outer identity returns though the inner block raises."""
    with task_identity(1):
        with pytest.raises(ZeroDivisionError), task_identity(2):
            _ = 1 / 0
        assert TaskIdentity.run_id == 1
    with pytest.raises(RuntimeError, match="is not set"):
        _ = TaskIdentity.run_id


@pytest.mark.parametrize("error", [DataError("a column is missing"), SystemExit(3), KeyboardInterrupt()])
def test_what_the_server_raises_is_kept(error: BaseException) -> None:
    """An error, an exit or an interruption in the ServerApp does not end its thread's caller, and is kept."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        raise error

    observed = _Observed(app)
    _call(observed.app)
    assert observed.error is error


def test_a_waiting_server_ends_with_the_runtime() -> None:
    """A ServerApp that waits for replies for ever, and survives any Exception, ends when told to leave."""
    app, waits = ServerApp(), Event()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        while True:
            with suppress(Exception):  # as a careful server would
                list(grid.pull_messages(["never sent"]))
            waits.set()

    observed = _Observed(app)
    thread = Thread(target=_call, args=[observed.app], daemon=True)
    thread.start()
    assert waits.wait(10)
    observed.leave()
    thread.join(10)
    assert not thread.is_alive()
    assert observed.error is None


@pytest.mark.parametrize(
    ("error", "is_link"),
    [
        (ConnectionResetError(), True),
        (httpx.ConnectError("away"), True),
        (httpx.HTTPStatusError("", request=ASKED, response=httpx.Response(503)), True),
        (httpx.HTTPStatusError("", request=ASKED, response=httpx.Response(500)), False),
        (httpx.HTTPStatusError("", request=ASKED, response=httpx.Response(413)), False),
        (RecursionError(), False),
        (MemoryError(), False),
    ],
)
def test_a_lost_link_is_told_from_a_bad_reply(error: Exception, is_link: bool) -> None:
    """Only where Flower's server cannot be reached is nobody's reply to blame."""
    assert is_link_failure(error) is is_link


def _pushed(node: int, *speakers: int, trees: int | None = None) -> bytes:
    messages = [ProtoMessage(metadata=Metadata(src_node_id=speaker)) for speaker in speakers]
    count = len(speakers) if trees is None else trees
    made = PushMessagesRequest(
        node=Node(node_id=node),
        messages_list=messages,
        message_object_trees=[ObjectTree(object_id="a")] * count,
    )
    return bytes(made.SerializeToString())


def test_a_node_speaks_for_itself() -> None:
    """One reply of the node that sends it passes; more, none, another's, nobody's and what is none do not."""
    assert speaks_for_itself(_pushed(5, 5))
    for body in (
        _pushed(5, 6),
        _pushed(6, 5),
        _pushed(0, 0),
        _pushed(5),
        _pushed(5, 5, 5),
        _pushed(5, 5, 6),
        _pushed(5, 5, trees=0),
        _pushed(5, 5, trees=2),
        PushMessagesRequest(
            messages_list=[ProtoMessage(metadata=Metadata(src_node_id=5))]
        ).SerializeToString(),
        b"",
        b"\xff" * 20,
        _pushed(5, 5)[:-1],
    ):
        assert not speaks_for_itself(body)
