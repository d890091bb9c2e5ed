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
from protocol.records import HEAD, attach, pack, parts_of
from protocol.work import POLL, Poll
from tests.clients.agent_cases import (
    ASKED,
    QUERY,
    TASK,
    WEIGHTS,
    Desk,
    contribution,
    desk,
    kits,
    receipt,
    refusal,
)
from tests.clients.warm_cases import RISK

__all__ = ["desk", "kits"]


def _round(number: int, **changes: Any) -> Any:
    return QUERY.model_copy(update={"round": number, **changes})


def _train(desk: Desk, asked: Any, lease: int) -> RecordDict:
    """Ask for a round, have it worked on as a site that counts in its memory, and return the answer."""
    before = len(desk.bench.puts)
    answer = desk.ask(asked, task=asked.id, lease=lease)
    if len(desk.bench.puts) > before:
        count = int(desk.agent.ledger.memory("r").get("count", b"0")) + 1
        desk.bench.finish(
            desk.bench.puts[-1],
            contribution(round=asked.round, model=f"after-{count - 1}"),
            {"count": str(count).encode(), f"round-{count}": b"x", f"round-{count - 1}": None},
        )
        answer = desk.ask(asked, task=asked.id, lease=lease)
    return desk.open(answer)[1]


def test_a_run_that_begins_anew_meets_the_memory_of_its_rounds(desk: Desk) -> None:
    """Rounds that are asked for again are not trained again, and the next is trained from what they left."""
    first = [parts_of(_train(desk, _round(number), 1)) for number in (1, 2, 3)]
    assert desk.agent.ledger.memory("r") == {"count": b"3", "round-3": b"x"}
    again = [parts_of(_train(desk, _round(number), 2)) for number in (1, 2)]
    assert again == first[:2]
    assert len(desk.bench.puts) == 3
    assert desk.agent.ledger.memory("r") == {"count": b"2", "round-2": b"x"}
    assert desk.bench.forgotten == 4  # two new processes, two results that changed the memory again
    other = parts_of(_train(desk, _round(3, model="other"), 2))
    assert other == parts_of(contribution(round=3, model="after-2"))
    assert len(desk.bench.puts) == 4
    assert desk.agent.ledger.memory("r") == {"count": b"3", "round-3": b"x"}


def test_a_new_process_that_asks_for_something_else_trains_from_nothing(desk: Desk) -> None:
    """And not from what the one before it left."""
    for number in (1, 2):
        _train(desk, _round(number), 1)
    said = _train(desk, _round(1, model="other"), 2)
    assert parts_of(said) == parts_of(contribution(round=1, model="after-0"))


def test_a_result_that_is_polled_for_is_the_memorys_too(desk: Desk) -> None:
    """Once for a process of the server, however it asks."""
    _train(desk, QUERY, 1)
    for _ in range(2):
        desk.open(desk.ask(Poll(asked=ASKED.hex(), hold_s=0), POLL, lease=2))
        assert desk.agent.ledger.memory("r")["count"] == b"1"
    assert desk.bench.forgotten == 3


def test_work_for_a_process_that_was_replaced_is_not_kept(desk: Desk) -> None:
    """It ends as failed, and what the next one asks is done by itself."""
    desk.ask(QUERY)
    late = desk.bench.puts[0]
    desk.bench.works.clear()  # as a bench that no longer keeps it
    desk.ask(QUERY, lease=2)
    with pytest.raises(RunError):
        desk.bench.finish(late, contribution(), {"count": b"9"})
    assert desk.agent.ledger.memory("r") == {}
    assert [work.lease for work in desk.bench.puts] == [1, 2]


def test_the_bench_is_cleared_for_the_run_at_hand(desk: Desk) -> None:
    """By each message of it, and by one of another run; not by a late one of the run before."""
    other = QUERY.model_copy(update={"run": "s"})
    desk.ask(QUERY)
    desk.ask(QUERY, lease=2)
    desk.ahead_s += 1
    desk.ask(other, run="s", task=other.id)
    assert desk.bench.kept == [("r", 1), ("r", 2), ("s", 1)]
    desk.ahead_s -= 0.5
    desk.ask(QUERY, lease=2)
    assert desk.bench.kept == [("r", 1), ("r", 2), ("s", 1)]
    desk.ask(other, run="s", task=other.id)
    desk.ask(other, run="s", task=other.id, lease=2)
    assert desk.bench.kept[3:] == [("s", 1), ("s", 2)]


def test_a_process_that_was_replaced_clears_nothing(desk: Desk) -> None:
    """It is refused before."""
    desk.ask(QUERY, lease=3)
    desk.ask(QUERY, lease=2)
    assert desk.bench.kept == [("r", 3)]


# What a question is about.

EVALUATE = EvaluationRequest(run="r", round=1, subtask=RISK, site="north", model="mlp_small")


@pytest.mark.parametrize(
    ("said", "header"),
    [
        (QUERY, {"task": "r/1/risk/north/2"}),
        (QUERY, {"task": "what the server likes"}),
        (_round(2), {"task": TASK}),
        (QUERY, {"run": "s"}),
        (_round(1, site="south"), {"task": _round(1, site="south").id}),
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
    assert [r.message for r in caplog.records] == ["counters or roster could not be written: OSError"]
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
