"""Errands: an answer that its site did not sign, now and to this question, is not believed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from collab.settings import parse
from protocol.messages import Capability, Refusal
from protocol.records import HEAD, pack, unpack
from protocol.work import REFUSAL, START
from server.discovery import discover
from server.errands import ErrandGrid
from server.flwr_adapter import task_identity
from tests.server.errand_cases import KIND, NODES, World, refusal, result
from tests.server.grid_cases import evaluation
from tests.small import tables


@pytest.fixture
def world() -> Iterator[World]:
    """Two sites that are online."""
    with task_identity(1):
        yield World()


def test_two_answers_to_one_question(world: World) -> None:
    """A site that answers the same question otherwise than before is caught; the same again is fine."""
    for processed, is_same in ((3, True), (3, True), (4, False)):
        number = world.ask()
        world.answer(world.last, evaluation("north", processed))
        came = world.wait(1, number)
        if is_same:
            assert result(came).examples_processed == 3
        else:
            assert refusal(came).code == "equivocation"
    assert world.grid.work["north"].state == "refused"
    assert "two answers" in world.grid.work["north"].detail
    world.ask(about="b")
    assert world.grid.work["north"].state == "working"


@pytest.mark.parametrize(
    "changes",
    [
        {"by": "south"},
        {"by": "server"},
        {"recipient": "south"},
        {"run": "r2"},
        {"task": f"{KIND}/b"},
        {"answers": b"x" * 32},
        {"answers": b""},
        {"kind": "train.other"},
        {"kind": "work.start"},
    ],
)
def test_answers_of_another(world: World, changes: dict[str, Any]) -> None:
    """Another site's answer, or one to another question, is refused at once, never taken for the result."""
    number = world.ask()
    world.answer(world.last, **changes)
    said = refusal(world.wait(1, number))
    assert (said.code, world.types) == ("seal", [START])
    assert world.grid.work["north"].state == "refused"


def test_forged_and_broken_answers(world: World) -> None:
    """A wrong signature, a body that was changed, a missing seal or a foreign record is refused."""
    north = world.parties.signer("north")
    north._key = world.parties.key("south")
    number = world.ask()
    world.answer(world.last, signer=north)
    assert "signature" in refusal(world.wait(1, number)).detail
    for content in (evaluation("north"), RecordDict(), pack(Refusal(code="x", detail=""))):
        number = world.ask()
        world.put(world.last, Message(content, reply_to=world.last.message))
        assert "no seal" in refusal(world.wait(1, number)).detail
    number = world.ask()
    reply = world.answer(world.last)
    seal = reply.content.config_records["seal"]
    parts = seal["parts"]
    assert isinstance(parts, bytes)
    seal["parts"] = parts[:-1] + b"\1"
    assert refusal(world.wait(1, number)).code in ("seal", "message")


def test_a_replayed_answer_is_asked_for_again(world: World) -> None:
    """What was accepted before is not accepted twice; the site is asked until it seals its answer anew."""
    number = world.ask()
    reply = world.answer(world.last)
    assert result(world.wait(1, number)).site == "north"
    number = world.ask()
    world.put(world.last, reply)
    assert world.wait(1, number) == []
    world.wait(1, number)
    assert world.types == [START, START, START]
    world.answer(world.last)
    assert result(world.wait(1, number)).site == "north"


@pytest.mark.parametrize("change", ["old epoch", "new epoch", "expired", "early"])
def test_a_seal_that_is_out_of_date(world: World, change: str) -> None:
    """A site that has another roster or a wrong clock is asked again a few times, then refused."""
    number, epoch, now = world.ask(), world.parties.epoch, world.parties.now
    for _ in range(19):
        world.parties.epoch = epoch + {"old epoch": -1, "new epoch": 1}.get(change, 0)
        world.parties.now += {"expired": -10_000, "early": 10_000}.get(change, 0)
        world.answer(world.last)
        world.parties.epoch, world.parties.now = epoch, now
        assert world.wait(0.01, number) == []
        before = len(world.sent)
        for _ in range(4):
            world.wait(0.6, number)
        now = world.parties.now
        assert len(world.sent) == before + 1
    world.answer(world.last)
    assert result(world.wait(1, number)).site == "north"


def test_a_seal_that_stays_out_of_date(world: World) -> None:
    """There is an end to it: the reason is told."""
    number = world.ask()
    old = world.parties.signer("north")
    old._epoch = lambda: world.parties.epoch - 1
    came, answered = list[Message](), 0
    while not came and answered < 30:
        if len(world.sent) > answered:
            world.answer(world.last, signer=old)
            answered += 1
        came = world.wait(0.6, number)
    assert answered == 20
    assert "roster epoch" in refusal(came).detail
    assert world.grid.work["north"].state == "refused"


def test_a_refusal_of_the_site_is_its_answer(world: World) -> None:
    """A site may say no, under its seal; it may say so again in other words."""
    for detail in ("no such data", "still no such data"):
        number = world.ask()
        world.answer(world.last, pack(Refusal(code="egress", detail=detail)), kind=REFUSAL)
        assert refusal(world.wait(1, number)) == Refusal(code="egress", detail=detail)


def capability(site: str) -> RecordDict:
    """What a site says that it can do."""
    speeds = {"memory_mib": 100.0, "examples_per_s": 10.0, "bandwidth_mbit": 1.0}
    return pack(Capability(site=site, subtasks={"iris": 20}, **speeds))


def test_no_site_speaks_for_another(world: World) -> None:
    """What north signed in south's name is refused as north's; south's own word is taken."""
    number, other = world.ask("north"), world.ask("south")
    north, south = world.sent
    world.answer(north, capability("south"))
    world.answer(south, capability("south"))
    said = refusal(world.wait(1, number))
    assert said.code == "seal"
    assert "another site" in said.detail
    assert world.grid.work["north"].state == "refused"
    (reply,) = world.wait(1, other)
    assert unpack(reply.content, Capability)[0].site == "south"
    assert world.grid.work["south"].state == "idle"


@pytest.mark.parametrize(
    "body",
    [
        b'{"site": "south"}',
        b'{"site": ["north"]}',
        b'{"site": null}',
        b'{"site": ""}',
        b'{"site": "north", "site": "south"}',
        b'{"s\\u0069te": "south"}',
    ],
)
def test_however_it_is_spelled(world: World, body: bytes) -> None:
    """Whatever stands where the site's name belongs, it is the signer's or it is refused."""
    number = world.ask()
    record = pack(Refusal(code="x", detail=""))
    record.config_records[HEAD]["body"] = body
    world.answer(world.last, record)
    assert refusal(world.wait(1, number)).code == "seal"


def test_the_real_site_joins(world: World) -> None:
    """In the first message to all, a site that takes another's name does not keep that one out."""
    grid, names = ErrandGrid(world, world.envelopes), {"north": "south", "south": "south"}
    real = world.push

    def push(message: Message) -> str | None:
        number = real(message)
        world.answer(world.last, capability(names[world.last.site]), kind="query.capability")
        return number

    world.push = push  # type: ignore[method-assign]
    made = tables(coordination={"join_s": 5, "sites": 1})
    del made["sites"]
    notes = list[str]()
    nodes, capabilities = discover(grid, parse(made, "test"), notes)
    assert nodes == {"south": NODES["south"]}
    assert capabilities["south"].subtasks == {"iris": 20}
    assert [sent.site for sent in world.sent] == ["north", "south"]
    assert len(notes) == 1
    assert "another site" in notes[0]
