"""The in-process Grid: each message answered once, states kept by node, a failing site no failing run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from server.flwr_adapter import task_identity
from simulations.local_engine import LocalGrid, run_locally

CONFIG: dict[str, bool | float | int | str] = {"collaboration": "text", "rounds": 3}


def _counting() -> ClientApp:
    """Count in the node's state how often the node was asked; fail when told to."""
    app = ClientApp()

    @app.query("count")
    def count(message: Message, context: Context) -> Message:
        if "fail" in message.content:
            raise ValueError("a secret of the site")
        asked = context.state.get("asked", ConfigRecord({"n": 0}))
        assert isinstance(asked, ConfigRecord)
        context.state["asked"] = ConfigRecord({"n": int(str(asked["n"])) + 1})
        told = ConfigRecord({"n": int(str(asked["n"])) + 1, "part": context.node_config["partition-id"]})
        return Message(
            RecordDict({"told": told, "config": ConfigRecord(dict(context.run_config))}), reply_to=message
        )

    return app


@pytest.fixture
def grid() -> Iterator[LocalGrid]:
    """Three counting nodes, and the right to make messages."""
    made = LocalGrid(_counting(), 3, CONFIG)
    with task_identity(made.run.run_id):
        yield made


def _ask(node: int, **records: ConfigRecord) -> Message:
    return Message(RecordDict(dict(records)), node, "query.count")


def _told(reply: Message) -> tuple[int, int]:
    told = reply.content["told"]
    assert isinstance(told, ConfigRecord)
    return int(str(told["part"])), int(str(told["n"]))


def test_each_node_is_a_partition_with_a_state_of_its_own(grid: LocalGrid) -> None:
    """Nodes 1 to N are partitions 0 to N - 1; a state lives from message to message, at its node alone."""
    assert list(grid.get_node_ids()) == [1, 2, 3]
    replies = grid.send_and_receive([_ask(1), _ask(2), _ask(1), _ask(3), _ask(1)])
    assert [_told(reply) for reply in replies] == [(0, 1), (1, 1), (0, 2), (2, 1), (0, 3)]


def test_a_reply_is_handed_over_once(grid: LocalGrid) -> None:
    """A reply is found by its message's id, the first time and never again; unknown ids find nothing."""
    ids = list(grid.push_messages([_ask(1), _ask(2)]))
    assert len(set(ids)) == 2
    assert [_told(m)[0] for m in grid.pull_messages([ids[1]])] == [1]
    assert list(grid.pull_messages([ids[1], "nobody"])) == []
    assert [m.metadata.reply_to_message_id for m in grid.pull_messages(ids)] == [ids[0]]


def test_sites_see_the_run_config(grid: LocalGrid) -> None:
    """Every node has the whole run config, and a change of one is not seen by another."""
    (reply,) = grid.send_and_receive([_ask(2)])
    config = reply.content["config"]
    assert isinstance(config, ConfigRecord)
    assert dict(config) == CONFIG


def test_a_site_that_raises_answers_with_an_error_without_its_text(grid: LocalGrid) -> None:
    """As under Flower an exception becomes an error reply; it names the type and tells no text."""
    replies = list(grid.send_and_receive([_ask(1, fail=ConfigRecord({})), _ask(2)]))
    assert [reply.has_error() for reply in replies] == [True, False]
    assert replies[0].error.code == 2
    assert "secret" not in f"{replies[0].error.reason}"
    assert replies[0].error.reason == "ValueError"


def test_it_is_a_whole_grid(grid: LocalGrid) -> None:
    """What Flower's own strategies call is there: a run, a message made the older way, send and receive."""
    assert isinstance(grid, Grid)
    message = grid.create_message(RecordDict(), "query.count", 2, "1")
    assert (message.metadata.dst_node_id, message.metadata.group_id) == (2, "1")
    grid.set_run(Run.create_empty(run_id=7))
    assert grid.run.run_id == 7


def test_run_locally_hands_over_what_the_server_raises() -> None:
    """An error in ``serve`` arrives as it was raised, and the right to make messages ends with the run."""

    def serve(grid: Grid) -> None:
        assert len(list(grid.get_node_ids())) == 2
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_locally(serve, _counting(), num_nodes=2, run_config=CONFIG)
    with pytest.raises(Exception, match=r"(?i)task|identity|run"):
        _ask(1)
