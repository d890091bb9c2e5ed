"""Errands that nobody waits for any more: older work, a run that is over, a site that the roster dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from protocol.work import CANCEL, POLL, START
from server import errands
from server.errand import StoppedError
from server.flwr_adapter import task_identity
from tests.server.errand_cases import KIND, World, cancelled, refusal, result


@pytest.fixture
def world() -> Iterator[World]:
    """Two sites that are online."""
    with task_identity(1):
        yield World()


@pytest.fixture
def farewell(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., float]:
    """Says farewell on the test's clock; returns how many seconds that took."""

    def say(within_s: float = 25.0, answering: Callable[[], None] = lambda: None) -> float:
        def sleep(seconds: float) -> None:
            world.at += seconds
            world.parties.now += seconds
            answering()

        began = world.at
        monkeypatch.setattr(errands.time, "sleep", sleep)
        world.grid.farewell(within_s)
        return world.at - began

    return say


def test_stop(world: World, farewell: Callable[..., float]) -> None:
    """When the run is to stop the next call raises; who is at work is told so and confirms it."""
    world.ask("north")
    world.ask("north", about="b")
    world.ask("south")
    world.answer(world.sent[1])
    world.wait(1)
    world.is_stopped = True
    for call in (world.grid.get_node_ids, lambda: world.wait(1), lambda: world.ask("south")):
        with pytest.raises(StoppedError) as raised:
            list(call())
        assert raised.value.code == "stopped"
    assert world.types == [START, START]

    def confirm() -> None:
        if world.last.type == CANCEL and world.last.id not in world.inbox:
            world.receipt(world.sent[0])  # what was under way is answered first
            world.receipt(world.last, "cancelled")

    assert farewell(answering=confirm) < 2
    assert world.types == [START, START, CANCEL]
    assert (world.last.site, cancelled(world.last)) == ("north", world.sent[0].asked.hex())
    assert world.grid.work["north"].state == "idle"


def test_farewell_has_an_end(world: World, farewell: Callable[..., float]) -> None:
    """A site that says nothing is waited for so long and no longer; it was told all the same."""
    world.ask("north")
    assert 25 <= farewell(25.0) < 26
    assert world.types == [START, CANCEL]


@pytest.mark.parametrize("state", ["working", "waiting"])
def test_a_site_that_does_not_hear(world: World, farewell: Callable[..., float], state: str) -> None:
    """One that goes on is told again, a second later each time and not in a hot loop, until time is up."""
    world.ask("north")

    def goes_on() -> None:
        if world.last.id not in world.inbox and world.last.type == CANCEL:
            world.receipt(world.last, state)

    assert 10 <= farewell(10.0, goes_on) < 11
    assert 5 <= world.types.count(CANCEL) <= 11


def test_nobody_waits_for_who_is_away(world: World, farewell: Callable[..., float]) -> None:
    """A site that is offline cannot be told; one that is online is."""
    world.ask("north")
    world.ask("south")
    del world.online_now["north"]
    world.wait(1.1)

    def confirm() -> None:
        if world.last.type == CANCEL and world.last.id not in world.inbox:
            world.receipt(world.last, "cancelled")

    assert farewell(answering=confirm) < 2
    assert [(sent.site, sent.type) for sent in world.sent[2:]] == [("south", CANCEL)]
    del world.online_now["south"]
    world.ask("south")
    world.wait(1.1)
    assert farewell() < 0.1


def test_nothing_to_say(world: World, farewell: Callable[..., float]) -> None:
    """Where nobody is at work nobody is told anything."""
    number = world.ask()
    world.answer(world.last)
    world.wait(1, number)
    assert farewell() == 0
    assert world.types == [START]


def test_what_a_site_never_heard_of_is_dropped(world: World, farewell: Callable[..., float]) -> None:
    """Work that waited behind other work, or for its site, is taken back without a word."""
    first = world.ask("north", about="a")
    world.ask("north", about="b")
    world.answer(world.last)
    assert result(world.wait(0.05, first)).site == "north"
    assert world.types == [START]  # b is due at the next look
    assert farewell() < 0.1
    assert world.types == [START]


def test_the_last_answer_of_all(world: World, farewell: Callable[..., float]) -> None:
    """A result that comes instead of a receipt ends the farewell too."""
    world.ask("north")

    def result_comes() -> None:
        if world.last.type == CANCEL and world.sent[0].id not in world.inbox:
            world.answer(world.sent[0])

    assert farewell(answering=result_comes) < 2


def test_an_answer_that_is_lost_is_no_end(world: World, farewell: Callable[..., float]) -> None:
    """An error of Flower's for what was asked before does not stand for the site's having been told."""
    world.ask("north")
    world.lose(world.sent[0])

    def confirm() -> None:
        if world.last.type == CANCEL and world.last.id not in world.inbox:
            world.receipt(world.last, "unknown")

    assert farewell(answering=confirm) < 2
    assert world.types == [START, CANCEL]


def test_older_work_is_withdrawn(world: World) -> None:
    """A new round's work does not wait behind the old one's: the site is told to stop that, then gets it."""
    old = world.train(round=1)
    world.receipt(world.last)
    world.wait(1.1, old)
    assert world.types == [START, POLL]
    new = world.train(round=2)
    assert world.types == [START, POLL, CANCEL]
    assert cancelled(world.last) == world.sent[0].asked.hex()
    world.receipt(world.sent[1])
    world.receipt(world.last, "cancelled")
    world.wait(1, new)
    world.wait(1, new)
    assert world.types == [START, POLL, CANCEL, START]
    assert world.last.header.task == "r1/2/a/north/1"
    world.answer(world.last)
    assert result(world.wait(1, new)).site == "north"
    assert world.wait(1, old) == []


def test_work_that_was_not_begun_is_taken_back(world: World) -> None:
    """What still waits in the queue never goes out; what is under way there is of another subtask."""
    other, old = world.train(about="b"), world.train(about="a", round=1)
    new = world.train(about="a", round=2)
    assert world.types == [START]
    world.answer(world.last)
    assert result(world.wait(1, other)).site == "north"
    world.wait(1, new)
    assert [sent.header.task for sent in world.sent] == ["r1/1/b/north/1", "r1/2/a/north/1"]
    assert world.wait(1, old) == []


@pytest.mark.parametrize(
    "new",
    [
        {"round": 2, "about": "b"},
        {"round": 2, "site": "south"},
        {"round": 1},
        {"round": 2, "kind": "evaluate.model"},
        {"round": 2, "kind": "train.soft_labels"},
    ],
)
def test_what_is_not_withdrawn(world: World, new: dict[str, object]) -> None:
    """Work of another subtask, site, kind or of the same round stays."""
    world.train(round=1)
    world.train(**new)  # type: ignore[arg-type]
    assert CANCEL not in world.types


def test_evaluations_are_not_withdrawn(world: World) -> None:
    """Only training is given up for a later round."""
    world.train(round=1, kind="evaluate.model")
    world.train(round=2, kind="evaluate.model")
    assert world.types == [START]


def test_a_site_that_the_roster_dropped(world: World) -> None:
    """Its questions are answered with a refusal, it belongs to the run no more, and others go on."""
    first, second, other = world.ask("north"), world.ask("north", about="b"), world.ask("south")
    world.answer(world.sent[0])
    world.named = {"south"}
    del world.online_now["north"]
    for number in (first, second):
        said = refusal(world.wait(1.1, number))
        assert said.code == "roster"
        assert "no longer in the roster" in said.detail
    assert world.grid.work["north"].state == "refused"
    assert set(world.grid.get_node_ids()) == {13}
    assert len(world.sent) == 2
    world.answer(world.sent[1])
    assert result(world.wait(1, other)).site == "south"
    (reply,) = world.wait(1, world.ask("north"))
    assert reply.has_error()
    assert len(world.sent) == 2


def test_a_site_that_comes_back_to_the_roster(world: World) -> None:
    """A later roster may name it again: it is asked as any other."""
    world.named = {"south"}
    away = world.online_now.pop("north")
    world.wait(1.1)
    world.named, world.online_now["north"] = {"north", "south"}, away
    world.wait(1.1)
    number = world.ask("north")
    world.answer(world.last)
    assert result(world.wait(1, number)).site == "north"


def test_a_dismissed_site_does_not_hold_up_the_end(world: World, farewell: Callable[..., float]) -> None:
    """What it was asked is over with it."""
    world.ask("north")
    world.named = {"south"}
    del world.online_now["north"]
    world.wait(1.1)
    assert farewell() == 0
    assert world.last.header.kind == KIND


def test_a_site_that_is_gone_is_not_waited_for(world: World) -> None:
    """What no round waits for fails once its site has been away for as long as a restart takes."""
    number, training = world.train(kind="train.finish"), world.train("south")
    world.online_now.clear()
    assert world.wait(80, number) == []
    (found,) = world.wait(20, number)
    assert found.has_error()
    assert world.wait(600, training) == []
