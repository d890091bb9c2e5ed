"""Errands: each question names the memory that its site starts from; answers say where they came from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol.messages import Refusal
from protocol.records import pack
from protocol.work import POLL, REFUSAL, START, moves, work_name
from server import provenance
from server.errands import ErrandGrid
from server.flwr_adapter import task_identity
from server.provenance import Provenance, Provenances
from tests.server.errand_cases import KIND, RUN, World, refusal, result


@pytest.fixture
def world() -> Iterator[World]:
    """Two sites that are online."""
    with task_identity(1):
        yield World()


def _name(asked: bytes, kind: str = KIND) -> bytes:
    return work_name(RUN, kind, asked)


def test_what_moves_a_memory() -> None:
    """Training and evaluation; a query and what is about work itself do not."""
    assert [kind for kind in (KIND, "evaluate.digest", "query.trial", POLL, REFUSAL) if moves(kind)] == [
        KIND,
        "evaluate.digest",
    ]


def test_each_question_names_the_memory_after_the_last_answer(world: World) -> None:
    """Site by site; a refusal and a query leave it where it is."""
    versions = []
    for about in "ab":
        number = world.ask(about=about)
        versions.append(world.last.header.previous)
        world.answer(world.last)
        result(world.wait(1, number))
    assert versions == [b"", _name(world.sent[0].asked)]
    here = _name(world.last.asked)
    number = world.ask(about="c")
    world.answer(world.last, pack(Refusal(code="state", detail="not here")), kind=REFUSAL)
    assert refusal(world.wait(1, number)).code == "state"
    number = world.train(kind="query.trial")
    world.answer(world.last, kind="query.trial")
    result(world.wait(1, number))
    world.ask(about="d")
    world.ask("south")
    assert [sent.header.previous for sent in world.sent[2:]] == [here, here, here, b""]


def test_what_is_sent_again_names_what_it_named_first(world: World) -> None:
    """As a poll does, and the question to a node that was restarted."""
    first = world.ask(about="a")
    world.answer(world.last)
    result(world.wait(1, first))
    number = world.ask(about="b")
    world.receipt(world.last)
    world.wait(1, number)
    world.receipt(world.last, "unknown")
    world.wait(1, number)
    world.wait(1, number)
    assert world.types[1:] == [START, POLL, START]
    assert {sent.header.previous for sent in world.sent[1:]} == {_name(world.sent[0].asked)}


def test_a_question_that_was_answered_before_moves_nothing(world: World) -> None:
    """The site says so, as it has the same memory after it."""
    for about in "ab":
        number = world.ask(about=about)
        world.answer(world.last)
        world.wait(1, number)
    here = _name(world.last.asked)
    number = world.ask(about="a")
    world.answer(world.last, previous=here)
    result(world.wait(1, number))
    assert world.grid.provenance(number) == Provenance(
        world.last.asked, _signature(world), moves=False, version=here
    )
    world.ask(about="c")
    assert world.last.header.previous == here


def _signature(world: World) -> bytes:
    """That of the answer that was given last."""
    return world.signatures[-1]


@pytest.mark.parametrize(
    ("kind", "previous"), [(KIND, b"x" * 32), (KIND, _name(b"?" * 32)), ("query.trial", _name(b"?" * 32))]
)
def test_a_memory_that_the_answer_does_not_leave_behind(world: World, kind: str, previous: bytes) -> None:
    """It is refused, and the next question names the one that the server knows of."""
    number = world.train(kind=kind)
    world.answer(world.last, kind=kind, previous=previous)
    said = refusal(world.wait(1, number))
    assert said.code == "seal"
    assert "memory" in said.detail
    assert world.grid.provenance(number) is None
    world.ask()
    assert world.last.header.previous == b""


def test_where_an_answer_came_from(world: World) -> None:
    """It is told once; of what no site said there is nothing to tell."""
    number = world.ask()
    assert world.grid.provenance(number) is None
    world.answer(world.last)
    result(world.wait(1, number))
    asked = world.last.asked
    found = Provenance(asked, _signature(world), moves=True, version=_name(asked))
    assert world.grid.provenance(number) == found
    assert world.grid.provenance(number) is None
    number = world.ask(about="b")
    world.answer(world.last, by="south")
    refusal(world.wait(1, number))
    assert world.grid.provenance(number) is None


def test_a_grid_goes_on_from_where_another_was(world: World) -> None:
    """The process of the server was replaced: the sites' memories were not."""
    world.grid = ErrandGrid(world, world.envelopes)
    world.grid.go_on({"north": 1}, {"north": b"n" * 32})
    world.ask("north")
    world.ask("south")
    assert [sent.header.previous for sent in world.sent] == [b"n" * 32, b""]


def test_provenances_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of answers that nobody asks about the oldest are forgotten."""
    monkeypatch.setattr(provenance, "_MOST", 2)
    book, one = Provenances(), Provenance(b"", b"", moves=False, version=b"v")
    for number in "abc":
        book.note(number, "north", one)
    assert [book.pop(number) for number in "abc"] == [None, one, one]
    assert book.version("north") == b"v"
