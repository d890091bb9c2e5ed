"""A site's agent works for one process of the server, on one run, and knows what each question is about."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict

from clients import serving
from protocol.errors import RunError
from protocol.messages import EvaluationRequest, SubtaskQuery
from protocol.records import HEAD, attach, pack
from tests.clients.agent_cases import (
    QUERY,
    TASK,
    WEIGHTS,
    Desk,
    desk,
    in_round,
    kits,
    receipt,
    refusal,
)
from tests.clients.warm_cases import RISK

__all__ = ["desk", "kits"]


def test_the_bench_is_cleared_for_the_run_at_hand(desk: Desk) -> None:
    """By each message of it, and by one of another run; not by a late one of the run before."""
    other = QUERY.model_copy(update={"run": "s"})
    desk.ask(QUERY)
    desk.ask(QUERY, lease=2)
    desk.ahead_s += 1
    desk.ask(other, run="s", task=other.id)
    assert desk.bench.kept == ["r", "r", "s"]
    desk.ahead_s -= 0.5
    desk.ask(QUERY, lease=2)
    assert desk.bench.kept == ["r", "r", "s"]
    desk.ask(other, run="s", task=other.id)
    desk.ask(other, run="s", task=other.id, lease=2)
    assert desk.bench.kept[3:] == ["s", "s"]
    assert desk.bench.served == [("r", 1), ("r", 2), ("s", 1), ("r", 2), ("s", 1), ("s", 2)]


def test_a_process_that_was_replaced_clears_nothing(desk: Desk) -> None:
    """It is refused before."""
    desk.ask(QUERY, lease=3)
    desk.ask(QUERY, lease=2)
    assert desk.bench.kept == ["r"]
    assert desk.bench.puts[0].serves == 3


# What a question is about.

EVALUATE = EvaluationRequest(run="r", round=1, subtask=RISK, site="north", model="mlp_small")


@pytest.mark.parametrize(
    ("said", "header"),
    [
        (QUERY, {"task": "r/1/risk/north/2"}),
        (QUERY, {"task": "what the server likes"}),
        (in_round(2), {"task": TASK}),
        (QUERY, {"run": "s"}),
        (in_round(1, site="south"), {"task": in_round(1, site="south").id}),
        (SubtaskQuery(subtask=RISK), {}),
        (EVALUATE, {"kind": "evaluate.model", "run": "s"}),
        (EVALUATE.model_copy(update={"site": "south"}), {"kind": "evaluate.model"}),
        (
            RecordDict({HEAD: ConfigRecord({"version": 1, "type": "X", "body": b"[]"})}),
            {"kind": "query.trial"},
        ),
        (
            RecordDict({HEAD: ConfigRecord({"version": 1, "type": "X", "body": b"{"})}),
            {"kind": "query.trial"},
        ),
    ],
)
def test_a_seal_that_speaks_of_something_else_is_refused(
    desk: Desk, said: Any, header: dict[str, str]
) -> None:
    """Another assignment, run or site than the body: nothing is done, and nothing noted."""
    assert refusal(desk, desk.ask(said, **header)).code == "message"
    assert desk.bench.puts == []
    assert desk.agent.ledger._db.execute("SELECT COUNT(*) FROM asks").fetchone() == (0,)


@pytest.mark.parametrize(
    ("said", "header"),
    [
        (attach(pack(QUERY, WEIGHTS), WEIGHTS), {}),
        (pack(EVALUATE, WEIGHTS), {"kind": "evaluate.model", "task": "evaluate.model/1/risk"}),
        (SubtaskQuery(subtask=RISK), {"kind": "query.trial", "task": "query.trial/risk"}),
    ],
)
def test_a_seal_that_speaks_of_its_body_is_heeded(desk: Desk, said: Any, header: dict[str, str]) -> None:
    """With arrays of its own and of upstream models; a question without run and site is anybody's."""
    assert receipt(desk, desk.ask(said, **header)).state == "waiting"


def test_what_is_over_is_forgotten_now_and_then(desk: Desk) -> None:
    """Once in an hour, without any message."""
    forgot = list[int]()
    desk.agent.upkeep._forget = lambda: forgot.append(1)
    desk.agent.tend()
    assert not forgot
    desk.agent.upkeep.forgot_at -= 3601
    desk.agent.tend()
    desk.agent.tend()
    assert forgot == [1]


# What goes wrong beside the messages.


def test_a_full_disk_does_not_end_the_agent(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """The counters cannot be written: that is said once, until they can."""
    path = desk.agent.kit.state / "counters.json"
    desk.bench.counters = {"data_loads": 1}
    with pytest.MonkeyPatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("clients.upkeep.replace", full)
        for _ in range(3):
            desk.agent.tend()
    assert [r.message for r in caplog.records] == ["counters, roster or ledger could not be written: OSError"]
    desk.agent.tend()
    assert json.loads(path.read_text()) == {"data_loads": 1}


def test_an_agent_whose_bench_is_broken_ends(desk: Desk) -> None:
    """So that another takes its place; it takes no message any more."""
    desk.bench.broken = True

    class Nothing:
        def take(self) -> None:
            raise AssertionError("a message was taken")

    with pytest.raises(RunError, match="no work any more"):
        serving.serve(desk.agent, Nothing(), lambda: False)  # type: ignore[arg-type]
