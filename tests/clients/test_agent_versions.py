"""A site's agent: each question starts from the version of the site's memory that it names, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import RecordDict

from protocol.errors import RunError, StateError
from protocol.header import digest
from protocol.messages import Contribution, LocalModel, SubtaskQuery
from protocol.records import pack, parts_of, unpack_message
from protocol.work import CANCEL, POLL, Cancel, Poll, work_name
from tests.clients.agent_cases import (
    ASKED,
    QUERY,
    TASK,
    Desk,
    contribution,
    desk,
    in_round,
    kits,
    receipt,
    refusal,
)
from tests.clients.warm_cases import RISK

__all__ = ["desk", "kits"]


def _train(desk: Desk, asked: Any, previous: bytes, lease: int = 1) -> tuple[RecordDict, bytes]:
    """Have a round worked on by a site that counts in its memory; return the answer and the version then."""
    before = len(desk.bench.puts)
    how = {"task": asked.id, "lease": lease, "previous": previous}
    answer = desk.ask(asked, **how)
    if len(desk.bench.puts) > before:
        count = int(desk.agent.ledger.memory("r").get("count", b"0")) + 1
        desk.bench.finish(
            desk.bench.puts[-1],
            contribution(round=asked.round, model=f"after-{count - 1}"),
            {"count": str(count).encode(), f"round-{count}": b"x", f"round-{count - 1}": None},
        )
        answer = desk.ask(asked, **how)
    header, record = desk.open(answer)
    return record, header.previous


def test_each_result_says_which_memory_it_left_behind(desk: Desk) -> None:
    """By the name of the work; a receipt and a refusal say nothing of it."""
    assert desk.open(desk.ask(QUERY))[0].previous == b""
    desk.bench.finish(desk.bench.puts[0], contribution())
    header, _ = desk.open(desk.ask(QUERY))
    assert header.previous == work_name("r", "train.weights", ASKED)
    wrong = desk.ask(in_round(2), task=TASK, previous=header.previous)
    assert desk.open(wrong)[0].previous == b""


def test_the_next_process_of_the_server_goes_on_with_the_memory(desk: Desk) -> None:
    """What it had not taken yet it is given again, without work; the site is where it was."""
    versions = [b""]
    for number in (1, 2, 3):
        last, version = _train(desk, in_round(number), versions[-1])
        versions.append(version)
    desk.agent_now()
    again, version = _train(desk, in_round(3), versions[2], lease=2)
    assert (parts_of(again), version) == (parts_of(last), versions[3])
    assert desk.bench.puts == []
    assert desk.agent.ledger.memory("r") == {"count": b"3", "round-3": b"x"}
    said, _ = _train(desk, in_round(4), version, lease=2)
    assert parts_of(said) == parts_of(contribution(round=4, model="after-3"))


def test_a_result_that_the_server_never_took_leaves_no_trace(desk: Desk) -> None:
    """The next question starts from before it, and so does the work; asked for again, it is given."""
    _, first = _train(desk, in_round(1), b"")
    late, _ = _train(desk, in_round(2), first)
    said, third = _train(desk, in_round(3), first)
    assert parts_of(said) == parts_of(contribution(round=3, model="after-1"))
    assert desk.agent.ledger.memory("r") == {"count": b"2", "round-2": b"x"}
    again, version = _train(desk, in_round(2), third)
    assert parts_of(again) == parts_of(contribution(round=2, model="after-2"))
    assert parts_of(again) != parts_of(late)
    assert version == work_name("r", "train.weights", digest(parts_of(pack(in_round(2))))[0])


def test_a_question_that_was_answered_long_ago_moves_nothing(desk: Desk) -> None:
    """The same bytes; the memory is that of the work which came after, and the answer says so."""
    first, one = _train(desk, in_round(1), b"")
    _, two = _train(desk, in_round(2), one)
    again, version = _train(desk, in_round(1), two)
    assert (parts_of(again), version) == (parts_of(first), two)
    assert desk.agent.ledger.memory("r")["count"] == b"2"
    assert len(desk.bench.puts) == 2


def test_a_memory_that_is_not_here_is_refused(desk: Desk) -> None:
    """By the code of it, with the versions; nothing is worked on, and what is here stays."""
    _, one = _train(desk, in_round(1), b"")
    unknown = bytes(range(32))
    said = refusal(desk, desk.ask(in_round(2), task=in_round(2).id, previous=unknown))
    assert said.code == "state"
    assert "000102030405" in said.detail
    assert one.hex()[:16] in said.detail
    assert len(desk.bench.puts) == 1
    _train(desk, in_round(2), one)
    assert desk.agent.ledger.memory("r")["count"] == b"2"


def test_a_site_that_lost_its_state_is_refused_and_not_begun_anew(desk: Desk) -> None:
    """Whatever is asked: from nothing it would give another answer, and nobody would know why."""
    _, one = _train(desk, in_round(1), b"")
    desk.close()
    for path in (desk.agent.kit.state).glob("site.db*"):
        path.unlink()
    desk.agent_now()
    assert refusal(desk, desk.ask(in_round(2), task=in_round(2).id, previous=one)).code == "state"


def test_a_query_moves_nothing(desk: Desk) -> None:
    """What it changes in the memory is not kept; it is answered again from any later memory."""
    query = {"kind": "query.local_model", "task": "query.local_model/risk"}
    local = pack(LocalModel(site="north", subtask="risk", model=None))
    _, one = _train(desk, in_round(1), b"")
    desk.ask(SubtaskQuery(subtask=RISK), previous=one, **query)
    desk.bench.finish(desk.bench.puts[-1], local, {"upstream": b"x"})
    _, two = _train(desk, in_round(2), one)
    assert "upstream" not in desk.agent.ledger.memory("r")
    for previous in (one, two):
        header, record = desk.open(desk.ask(SubtaskQuery(subtask=RISK), previous=previous, **query))
        assert (parts_of(record), header.previous) == (parts_of(local), previous)
    assert len(desk.bench.puts) == 3


def test_two_kinds_of_one_body_are_two_versions(desk: Desk) -> None:
    """As the end of a site's own budget and its work alone may be."""
    desk.bench.auto = pack(unpack_message(contribution(), Contribution))
    versions = [b""]
    for kind in ("train.finish", "train.alone"):
        versions.append(desk.open(desk.ask(QUERY, kind=kind, previous=versions[-1]))[0].previous)
        assert versions[-1] == work_name("r", kind, ASKED)
    assert len(set(versions)) == 3


# Work that goes on while the server's process is replaced.


def test_work_goes_on_for_the_next_process(desk: Desk) -> None:
    """It is not begun again, and its result counts for the process that asks now."""
    desk.ask(QUERY)
    assert receipt(desk, desk.ask(QUERY, lease=2)).state == "waiting"
    (work,) = desk.bench.puts
    desk.bench.finish(work, contribution(), {"count": b"1"})
    header, _ = desk.open(desk.ask(Poll(asked=ASKED.hex(), hold_s=0), POLL, lease=2))
    assert (header.kind, header.lease) == ("train.weights", 2)
    assert len(desk.bench.puts) == 1


def test_work_that_ends_before_the_next_process_asks_counts_for_it(desk: Desk) -> None:
    """It has been heard of by another question, or by none at all."""
    desk.ask(QUERY)
    desk.ask(Cancel(asked="0" * 64), CANCEL, lease=2)
    desk.bench.finish(desk.bench.puts[0], contribution(), {"count": b"1"})
    assert desk.open(desk.ask(QUERY, lease=2))[0].kind == "train.weights"
    assert len(desk.bench.puts) == 1


def test_work_for_a_process_that_was_replaced_is_not_kept(desk: Desk) -> None:
    """If its successor asked for something else; its result would be a version that nobody asked for."""
    desk.ask(QUERY)
    late = desk.bench.puts[0]
    desk.bench.works.clear()  # as a bench that no longer keeps it
    desk.ask(in_round(2), task=in_round(2).id, lease=2)
    with pytest.raises(RunError, match="process 1, and 2"):
        desk.bench.finish(late, contribution(), {"count": b"9"})
    assert desk.agent.ledger.memory("r") == {}
    assert [work.lease for work in desk.bench.puts] == [1, 2]


def test_work_from_a_memory_that_moved_on_meanwhile_is_not_kept(desk: Desk) -> None:
    """Of two works from one version the first that ends is kept."""
    desk.ask(QUERY)
    desk.ask(in_round(2), task=in_round(2).id)
    one, two = desk.bench.puts
    desk.bench.finish(one, contribution(), {"count": b"1"})
    with pytest.raises(StateError, match="ended when"):
        desk.bench.finish(two, contribution(round=2), {"count": b"2"})
    assert desk.agent.ledger.memory("r") == {"count": b"1"}
    assert desk.agent.ledger.result("r", two.asked) is None
