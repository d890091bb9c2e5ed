"""One run and what becomes of it: processes that die, tokens that are lost, stops, a full disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server import exit_codes
from server.flwr_adapter.runtime import COMPLETED, FAILED, STOPPED, Task
from server.orders import OrderBook
from tests.server.keeper_cases import RUN, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A server with one submitted run."""
    return World(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("code", "state", "how"),
    [(0, "finished", COMPLETED), (1, "failed", FAILED), (2, "failed", FAILED), (3, "stopped", STOPPED)],
)
def test_from_the_order_to_the_end(world: World, code: int, state: str, how: str) -> None:
    """A Flower run is begun, its task taken, a process started; how that ends is how the run ends."""
    assert world.order.state == "queued"
    child = world.work()
    assert (world.order.state, world.order.starts, world.order.flower_run) == ("running", 1, 101)
    assert child.given["task"] == ["token-101", 1, 101, 1, RUN]
    assert child.given["baselines"]
    for _ in range(5):
        world.turn(10)
    assert not world.keeper.has_ended
    assert len(world.named("beat")) == 6
    child.code, child.heard = code, {"why": "of rounds"}
    world.turn()
    assert world.keeper.has_ended
    assert (world.order.state, world.order.why) == (state, "of rounds")
    assert world.named() == [("start", 101), ("finish", 101, how, "of rounds")]
    assert world.orders.next_live() is None
    assert len(world.children) == 1


def test_the_end_is_written_before_flower_is_told(world: World) -> None:
    """Were the server to die in between, the run is not done again."""
    seen = list[str]()
    world.on_call = lambda: seen.append(OrderBook(world.kit.orders).get(RUN).state)  # type: ignore[union-attr]
    world.work().code = 0
    world.turn()
    assert seen == ["finished"]


def test_the_token_is_shown_to_nobody(world: World) -> None:
    """What is said, and what lies on the disk, does not hold it."""
    world.work()
    world.die()
    texts = [path.read_text() for path in world.kit.state.rglob("*") if path.is_file()]
    assert "token-" not in "".join([*world.said, *texts])


def test_a_process_that_dies_is_replaced(world: World) -> None:
    """At once the first times, later and later after that; each is counted."""
    world.work()
    pauses = [world.die() for _ in range(6)]
    assert pauses[:2] == [1, 1]  # the length of one turn
    assert [round(pause) for pause in pauses[2:]] == [8, 16, 30, 30]
    assert (len(world.children), world.order.starts) == (7, 7)
    assert world.order.starts == 7
    assert world.die(lived_s=31) == 1
    assert all(child.ended == 1 for child in world.children[:-1])
    assert world.named() == [("start", 101)]
    assert "died with code -9" in "".join(world.said)


def test_a_process_that_always_dies(world: World) -> None:
    """There is an end to it."""
    world.work()
    for _ in range(49):
        world.die(lived_s=31)
        assert not world.keeper.has_ended
    world.children[-1].code = -9
    world.turn(31)
    world.turn()
    assert (world.order.state, world.order.why) == ("failed", "its process died 50 times")
    assert len(world.children) == 50
    assert world.named() == [("start", 101), ("finish", 101, FAILED, "its process died 50 times")]


def test_what_nobody_thought_of(world: World) -> None:
    """Code 70 five times in a row fails the run with the reason; any other death starts anew."""
    world.work()
    for code in (70, 70, 70, 70, -9, 70, 70, 75, 70, 70, 70, 70):
        world.die(code, "KeyError; the log of the run says more")
        assert not world.keeper.has_ended
    world.die(70, "ZeroDivisionError; the log of the run says more")
    assert world.keeper.has_ended
    assert (world.order.state, world.order.why[:17]) == ("failed", "ZeroDivisionError")
    assert world.named()[-1][:3] == ("finish", 101, FAILED)


def test_stop_before_the_start(world: World) -> None:
    """A run that waits is stopped without a process, and without a run of Flower's where there is none."""
    world.orders.ask_stop(RUN)
    world.turn()
    assert world.keeper.has_ended
    assert (world.order.state, world.children, world.named()) == ("stopped", [], [])


def test_stop_with_a_flower_run_and_no_process(world: World) -> None:
    """What Flower was told of is stopped there."""
    world.offers = False
    world.turn()
    world.orders.ask_stop(RUN)
    world.turn()
    assert world.order.state == "stopped"
    assert world.named() == [("start", 101), ("stop", 101)]


def test_stop_while_it_runs(world: World) -> None:
    """The process stops by itself; until then the run is stopping."""
    child = world.work()
    world.orders.ask_stop(RUN)
    for _ in range(50):
        world.turn(1)
    assert (world.order.state, child.ended) == ("stopping", 0)
    child.code = 3
    world.turn()
    assert world.order.state == "stopped"
    assert world.named()[-1] == ("finish", 101, STOPPED, "")


def test_stop_that_is_overdue(world: World) -> None:
    """A process that does not stop in a minute is ended."""
    child = world.work()
    world.orders.ask_stop(RUN)
    world.turn()
    world.turn(61)
    assert (world.order.state, child.ended) == ("stopped", 1)
    assert world.keeper.has_ended


def test_a_process_that_dies_while_it_stops(world: World) -> None:
    """No other is started: the run is stopped. One that finishes in spite of it has finished."""
    child = world.work()
    world.orders.ask_stop(RUN)
    world.turn()
    child.code = -9
    world.turn()
    world.turn()
    assert (world.order.state, len(world.children)) == ("stopped", 1)


def test_a_run_that_was_done_when_it_should_stop(world: World) -> None:
    """It has finished."""
    child = world.work()
    world.orders.ask_stop(RUN)
    child.code = 0
    world.turn()
    assert world.order.state == "finished"


def test_a_lost_token(world: World) -> None:
    """When Flower has given the task away, its process and Flower run are ended and new ones begun."""
    child = world.work()
    world.known = None  # no answer: the link may be away for a moment
    for _ in range(4):
        world.turn(5)
    assert (child.ended, world.named()) == (0, [("start", 101)])
    world.known = False
    world.turn(10)
    world.known, lost_at = True, world.at
    second = world.work()
    assert world.at - lost_at < 4
    assert child.ended == 1
    assert (world.order.starts, second.given["task"][2]) == (2, 102)
    assert world.named() == [("start", 101), ("stop", 101), ("start", 102)]
    assert (world.order.flower_run, world.order.state) == (102, "running")


def test_a_task_that_does_not_come(world: World) -> None:
    """Where Flower takes no run it is tried again; where it gives no task, another run is begun."""
    world.starts = False
    for _ in range(10):
        world.turn(1)
    assert world.named() == []
    world.starts, world.offers = True, False
    for _ in range(65):
        world.turn(1)
    assert world.named() == [("start", 101), ("stop", 101), ("start", 102)]
    world.offers = True
    child = world.work()  # the task of the first is nobody's
    assert child.given["task"][2] == 102
    assert world.named("finish") == [("finish", 101, STOPPED, "of a server that was ended")]


def test_another_servers_task(world: World) -> None:
    """A task that was left of an earlier server is ended, not worked on."""
    world.waiting.append(Task("token-9", 1, 9, 1, "other"))
    assert world.work().given["task"][2] == 101
    assert world.named("finish") == [("finish", 9, STOPPED, "of a server that was ended")]


def test_a_server_that_is_started_again(world: World) -> None:
    """A run that was worked on goes on with a Flower run of its own; the lease is in its journal."""
    first = world.work()
    world.keeper.close()
    assert first.ended == 1
    assert world.order.state == "running"
    world.keeper = world.new_keeper()
    assert "lease" not in world.work().given
    assert world.order.starts == 2
    assert world.named() == [("start", 101), ("stop", 101), ("start", 102)]


def test_what_a_dead_process_wrote_stays(world: World) -> None:
    """The next one finds the folder as it was: its journal is what it goes on from."""
    path = world.kit.runs / RUN
    world.work()
    path.mkdir()
    (path / "journal.db").write_text("rows")
    world.die()
    assert len(world.children) == 2
    assert (path / "journal.db").read_text() == "rows"
    assert [p.name for p in world.kit.runs.iterdir()] == [RUN]


def test_no_process_can_be_started(world: World) -> None:
    """Where the machine has no room for a process it is tried again after a while."""
    world.no_process = True
    for _ in range(100):
        world.turn(1)
    assert not world.keeper.has_ended
    assert 2 <= sum("no process can be started" in line for line in world.said) <= 4
    world.no_process = False
    assert world.work().given["task"][2] == 101
    assert world.named() == [("start", 101)]


def test_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends neither the server nor the run; and no run that has ended is done again for want of a note."""

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        child = world.work()
        assert world.order.state == "queued"
        assert "its order cannot be written (No space left on device)" in "".join(world.said)
        child.code = 0
        for _ in range(100):
            world.turn(1)
        assert not world.keeper.has_ended  # or the server would take the next, which is this one again
        assert world.named() == [("start", 101)]
        assert len(world.said) < 30
    world.turn(11)
    assert world.keeper.has_ended
    assert (world.order.state, world.order.starts, world.order.flower_run) == ("finished", 1, 101)
    assert world.named() == [("start", 101), ("finish", 101, COMPLETED, "")]
    assert len(world.children) == 1


def test_a_process_that_comes_too_early(world: World) -> None:
    """While an earlier one still has the journal it is tried again, and that is no failure of the run."""
    world.work()
    for _ in range(60):
        world.die(exit_codes.WAIT, "process 7 works on this run")
        world.turn(6)
    assert not world.keeper.has_ended
    assert world.order.starts == 1
    assert sum("process 7 works on this run; tried again" in line for line in world.said) == 60


def test_a_process_that_lived_long_counts_anew(world: World) -> None:
    """Fifty deaths in a year are not fifty failures to start."""
    world.work()
    for _ in range(60):
        world.die(lived_s=3600)
        world.turn(60)
    assert not world.keeper.has_ended
    assert world.order.starts <= 2
