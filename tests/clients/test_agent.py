"""A site's agent: what is asked for is answered, and two answers to one question are the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from protocol.bounds import Frozen
from protocol.messages import Refusal
from protocol.records import pack, parts_of, unpack
from protocol.work import CANCEL, POLL, START, Cancel, Poll, Receipt
from tests.clients.agent_cases import (
    ASKED,
    QUERY,
    TASK,
    Desk,
    contribution,
    desk,
    kits,
    receipt,
    refusal,
)

ROOT = Path(__file__).parent.parent.parent
__all__ = ["desk", "kits"]


def test_work_that_is_done_soon_is_answered_with_its_result(desk: Desk) -> None:
    """Sealed for the server, about what was asked, by the number of the process that asked."""
    desk.bench.auto = contribution()
    header, record = desk.open(desk.ask(QUERY, lease=5))
    assert parts_of(record) == parts_of(contribution())
    assert (header.kind, header.answers) == ("train.weights", ASKED)
    assert (header.run, header.task, header.lease, header.epoch) == ("r", TASK, 5, 1)
    (work,) = desk.bench.puts
    assert (work.run, work.kind, work.task) == ("r", "train.weights", TASK)
    assert work.parts == parts_of(pack(QUERY))


def test_longer_work_is_answered_in_turns(desk: Desk) -> None:
    """First a receipt, then by polls how far it is, then the result: the answer to what was asked first."""
    first = desk.ask(QUERY)
    header, _ = desk.open(first)
    assert header.answers == ASKED
    work = desk.bench.puts[0]
    poll = Poll(asked=ASKED.hex(), hold_s=0)
    said = receipt(desk, desk.ask(poll, POLL))
    assert said == Receipt(asked=ASKED.hex(), state="waiting")
    work.state, work.share, work.begun = "working", 0.25, time.monotonic() - 1
    said = receipt(desk, desk.ask(poll, POLL))
    assert (said.state, said.share) == ("working", 0.25)
    assert said.eta_s == pytest.approx(3, rel=0.2)
    assert said.worked_s == pytest.approx(1, rel=0.2)
    desk.bench.finish(work, contribution(), {"local": b"R"})
    header, record = desk.open(desk.ask(poll, POLL, lease=3))
    assert parts_of(record) == parts_of(contribution())
    assert (header.kind, header.answers, header.lease) == ("train.weights", ASKED, 3)
    assert len(desk.bench.puts) == 1
    assert desk.agent.ledger.memory("r") == {"local": b"R"}


def test_nobody_makes_an_agent_wait_longer_than_it_wants(desk: Desk) -> None:
    """A SuperNode does nothing else meanwhile."""
    desk.ask(QUERY)
    began = time.monotonic()
    receipt(desk, desk.ask(Poll(asked=ASKED.hex(), hold_s=60), POLL))
    assert time.monotonic() < began + 2


def test_work_that_was_never_asked_for_is_unknown(desk: Desk) -> None:
    """Polled or cancelled."""
    other = b"?" * 32
    for how, said in ((POLL, Poll(asked=other.hex(), hold_s=0)), (CANCEL, Cancel(asked=other.hex()))):
        header, _ = desk.open(answer := desk.ask(said, how))
        assert header.answers == other
        desk.verifier._nonces.__init__(10)  # type: ignore[misc]  the same answer once more
        assert receipt(desk, answer) == Receipt(asked=other.hex(), state="unknown")


def test_cancelled_work_ends(desk: Desk) -> None:
    """And a poll that comes after hears of it."""
    desk.ask(QUERY)
    said = receipt(desk, desk.ask(Cancel(asked=ASKED.hex()), CANCEL))
    assert said.state == "cancelled"
    assert refusal(desk, desk.ask(Poll(asked=ASKED.hex()), POLL)).code == "cancelled"


def test_work_that_failed_is_refused_with_the_reason(desk: Desk) -> None:
    """By the name of the worker."""
    desk.ask(QUERY)
    desk.bench.end(desk.bench.puts[0], "failed", "the worker died 3 times over it")
    said = refusal(desk, desk.ask(Poll(asked=ASKED.hex()), POLL))
    assert said == Refusal(code="worker", detail="the worker died 3 times over it")


def test_a_restarted_agent_gives_the_same_answer_without_work(desk: Desk) -> None:
    """A poll finds nothing, so that it is asked in full; then come the same bytes, from what it kept."""
    desk.bench.auto = contribution()
    _, before = desk.open(desk.ask(QUERY))
    desk.agent_now()
    poll = Poll(asked=ASKED.hex())
    assert receipt(desk, desk.ask(poll, POLL)).state == "unknown"
    for how, said in ((START, QUERY), (POLL, poll)):
        header, after = desk.open(desk.ask(said, how, lease=2))
        assert parts_of(after) == parts_of(before)
        assert (header.kind, header.answers) == ("train.weights", ASKED)
    assert desk.bench.puts == []


def test_two_questions_of_one_body_have_an_answer_each(desk: Desk) -> None:
    """What is asked is the kind of the seal too; a poll means the one that was asked last."""
    first, last = contribution(round=1), contribution(round=2)
    desk.bench.auto = first
    desk.ask(QUERY, kind="train.joint")
    desk.bench.auto = None
    receipt(desk, desk.ask(QUERY, kind="train.finish"))
    assert receipt(desk, desk.ask(Poll(asked=ASKED.hex(), hold_s=0), POLL)).state == "waiting"
    desk.bench.finish(desk.bench.puts[1], last)
    for kind, record in (("train.finish", last), ("train.joint", first)):
        for how, said in ((START, QUERY), (POLL, Poll(asked=ASKED.hex()))):
            header, found = desk.open(desk.ask(said, how, kind=kind))
            assert header.kind == kind
            assert parts_of(found) == parts_of(record)
    assert [work.kind for work in desk.bench.puts] == ["train.joint", "train.finish"]


def test_two_runs_know_nothing_of_each_other(desk: Desk) -> None:
    """A poll in another run finds nothing of this one."""
    desk.ask(QUERY)
    poll = Poll(asked=ASKED.hex(), hold_s=0)
    _, record = _of_run(desk, "s", poll, POLL)
    assert unpack(record, Receipt)[0].state == "unknown"
    other = QUERY.model_copy(update={"run": "s"})
    desk.ask(other, run="s", task=other.id)
    assert [work.run for work in desk.bench.puts] == ["r", "s"]
    assert desk.bench.puts[0].asked != desk.bench.puts[1].asked


def _of_run(desk: Desk, run: str, said: Frozen, how: str) -> Any:
    return desk.open(desk.ask(said, how, run=run))


def test_work_that_ends_while_it_is_asked_for_again_is_not_done_twice(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the memory that it left behind it would give another answer."""
    desk.ask(QUERY)
    plain = desk.agent.ledger.result

    def late(run: str, asked: bytes) -> Any:
        found = plain(run, asked)
        if not desk.bench.puts[0].done.is_set():
            desk.bench.finish(desk.bench.puts[0], contribution())
        return found

    monkeypatch.setattr(desk.agent.ledger, "result", late)
    desk.ask(QUERY)
    assert len(desk.bench.puts) == 1


def test_the_workers_refusal_is_given_and_not_remembered(desk: Desk) -> None:
    """Its reason may pass: asked again later, the work is done."""
    desk.bench.auto = pack(Refusal(code="data", detail="no rows"))
    assert refusal(desk, desk.ask(QUERY)).code == "data"
    assert desk.agent.ledger.result("r", desk.bench.puts[0].asked) is None
    desk.bench.works.clear()
    desk.bench.auto = contribution()
    assert desk.open(desk.ask(QUERY))[0].kind == "train.weights"
