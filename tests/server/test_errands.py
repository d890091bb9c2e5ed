"""Errands: whatever gets lost on the way is asked for again, and nothing is taken twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from flwr.app import Message

from protocol.messages import LocalModel
from protocol.records import HEAD, pack, unpack
from protocol.work import POLL, START
from server.errands import ErrandGrid
from server.flwr_adapter import task_identity
from tests.server.errand_cases import KIND, NODES, RUN, World, result
from tests.server.grid_cases import evaluation


@pytest.fixture
def world() -> Iterator[World]:
    """Two sites that are online."""
    with task_identity(1):
        yield World()


def test_a_question_and_its_result(world: World) -> None:
    """What is pushed goes out at once under the server's seal; its answer comes to who pushed it, once."""
    number = world.ask()
    sent = world.last
    assert (world.types, sent.site, sent.header.kind, sent.header.lease) == ([START], "north", KIND, 4)
    assert unpack(sent.record, LocalModel)[0].subtask == "a"
    assert world.wait(1, number) == []
    world.answer(sent)
    (reply,) = world.wait(1, number)
    assert result([reply]).site == "north"
    assert reply.metadata.reply_to_message_id == number
    assert reply.metadata.src_node_id == NODES["north"]
    assert set(reply.content) == {HEAD}  # without its seal
    assert world.wait(1, number) == []
    assert world.types == [START]
    assert [(site, work.state) for site, work in world.told] == [("north", "working"), ("north", "idle")]


def test_receipts_are_followed_by_polls(world: World) -> None:
    """Work that takes long is asked after at once, again and again; people see how far it is."""
    number = world.ask()
    asked = world.last.asked
    for share in (0.0, 0.25, 0.5):
        world.receipt(world.last, share=share, eta_s=40 * (1 - share))
        assert world.wait(1, number) == []
        assert (world.last.type, world.last.asked) == (POLL, asked)
        work = world.grid.work["north"]
        assert (work.state, work.share, work.eta_s) == ("working", share, 40 * (1 - share))
        assert work.since == 1_800_000_000.0
    assert world.types == [START, POLL, POLL, POLL]
    world.answer(world.last)
    assert result(world.wait(1, number)).site == "north"


def test_waiting_is_polled_too(world: World) -> None:
    """A site that has not begun yet has the question all the same."""
    number = world.ask()
    world.receipt(world.last, "waiting")
    assert world.wait(1, number) == []
    assert world.types == [START, POLL]


@pytest.mark.parametrize("state", ["unknown", "cancelled"])
def test_forgotten_work_is_asked_in_full(world: World, state: str) -> None:
    """A site that does not know the work any more gets the whole question again, after a short while."""
    number = world.ask()
    world.receipt(world.last)
    world.wait(1, number)
    world.receipt(world.last, state)
    assert world.wait(0.1, number) == []
    assert world.types == [START, POLL]
    assert world.wait(1, number) == []
    assert world.types == [START, POLL, START]
    assert world.sent[0].header.body_digest == world.last.header.body_digest
    world.answer(world.last)
    assert result(world.wait(1, number)).site == "north"


def test_a_lost_reply_is_asked_for_again(world: World) -> None:
    """Flower's own error is no answer: the same question goes out anew, or a poll where the site has it."""
    number = world.ask()
    world.lose(world.last)
    assert world.wait(0.1, number) == []
    assert world.types == [START]
    world.wait(1, number)
    assert world.types == [START, START]
    world.receipt(world.last)
    world.wait(1, number)
    world.lose(world.last)
    world.wait(1, number)
    world.wait(1, number)
    assert world.types == [START, START, POLL, POLL]
    world.answer(world.last)
    assert result(world.wait(1, number)).site == "north"


def test_answers_that_are_always_lost(world: World) -> None:
    """After many losses in a row the site counts as failed; a receipt in between starts the count again."""

    def loses(times: int, number: str) -> list[Message]:
        for _ in range(times):
            world.lose(world.last)
            came = world.wait(0.01, number)
            if came:
                return came
            before = len(world.sent)
            for _ in range(60):
                world.wait(0.2, number)
                if len(world.sent) > before:
                    break
            assert len(world.sent) == before + 1
        return []

    number = world.ask()
    assert loses(19, number) == []
    world.receipt(world.last)
    world.wait(1, number)
    assert loses(19, number) == []
    world.lose(world.last)
    (reply,) = world.wait(1, number)
    assert reply.has_error()
    assert "lost" in str(reply.error.reason)
    assert len(world.sent) == 40
    world.wait(100, number)
    assert len(world.sent) == 40


def test_a_restarted_node_is_asked_at_once(world: World) -> None:
    """A node that was away in between has lost what it held; nobody waits for the time to run out."""
    number = world.ask()
    world.wait(5, number)
    assert world.types == [START]
    world.online_now["north"] = (NODES["north"], "t2")
    world.wait(1.1, number)
    assert world.types == [START, START]
    world.answer(world.sent[0])  # the answer to the first sending came through after all
    assert result(world.wait(1, number)).site == "north"
    world.wait(100)
    assert world.types == [START, START]


def test_a_site_that_is_away(world: World) -> None:
    """While it is away nothing is sent; when it is back it is asked at once. Others go on."""
    number, other = world.ask("north"), world.ask("south")
    del world.online_now["north"]
    world.wait(2, number)
    assert world.grid.work["north"].state == "lost"
    assert "back" in world.grid.work["north"].detail
    world.answer(world.sent[1])
    assert result(world.wait(60, other)).site == "south"
    assert world.types == [START, START]
    world.online_now["north"] = (NODES["north"], "t2")
    world.wait(1.1, number)
    assert (world.types[2:], world.last.site) == ([START], "north")
    world.answer(world.last)
    assert result(world.wait(1, number)).site == "north"
    assert [work.state for site, work in world.told if site == "north"] == ["working", "lost", "idle"]


def test_a_site_away_for_long_leaves_the_run(world: World) -> None:
    """For a while it still belongs to it, then no more; a node that is online does."""
    world.ask()
    assert set(world.grid.get_node_ids()) == {12, 13}
    del world.online_now["north"]
    for seconds, left in ((80.0, {12, 13}), (15.0, {13})):
        world.wait(seconds)
        assert set(world.grid.get_node_ids()) == left


def test_an_overdue_answer_is_asked_for_again(world: World) -> None:
    """A site holds a message for so long and no longer: then something was lost without a word."""
    number = world.ask()
    world.wait(44, number)
    assert world.types == [START]
    world.wait(3, number)
    assert world.types == [START, START]
    world.receipt(world.last)
    world.wait(1, number)
    world.wait(46, number)
    assert world.types == [START, START, POLL, POLL]


def test_a_late_answer_to_an_earlier_sending(world: World) -> None:
    """Of two sendings of one question the first answer counts; the second, whatever it says, is ignored."""
    number = world.ask()
    world.wait(46, number)
    first, second = world.sent
    world.answer(second)
    assert result(world.wait(1, number)).examples_processed == 0
    world.answer(first, evaluation("north", processed=9))
    other = world.ask(about="b")
    assert world.wait(1, number) == []
    world.answer(world.last, evaluation("north", processed=5))
    assert result(world.wait(1, other)).examples_processed == 5
    assert [sent.header.task for sent in world.sent] == [f"{KIND}/a", f"{KIND}/a", f"{KIND}/b"]


def test_one_message_at_a_time(world: World) -> None:
    """A site is asked one thing after the other, in order; sites do not wait for each other."""
    first, second, other = world.ask(about="a"), world.ask(about="b"), world.ask("south")
    assert [(s.site, s.header.task) for s in world.sent] == [("north", f"{KIND}/a"), ("south", f"{KIND}/a")]
    world.answer(world.sent[1])
    assert result(world.wait(1, other)).site == "south"
    world.receipt(world.sent[0])
    world.wait(1)
    assert world.types == [START, START, POLL]
    world.answer(world.last)
    assert result(world.wait(1, first)).site == "north"
    world.wait(1, second)
    assert world.last.header.task == f"{KIND}/b"
    world.answer(world.last)
    assert result(world.wait(1, second)).site == "north"


def test_a_link_that_takes_nothing(world: World) -> None:
    """What could not be sent is sent when the link takes it again."""
    world.takes = False
    number = world.ask()
    for _ in range(5):
        world.wait(1, number)
    assert world.sent == []
    world.takes = True
    world.wait(1, number)
    assert world.types == [START]


def test_a_link_that_takes_nothing_for_one(world: World) -> None:
    """What cannot be sent to one site is sent again and again, and holds up no other."""
    world.takes_not.add("north")
    number, other = world.ask("north"), world.ask("south")
    assert [sent.site for sent in world.sent] == ["south"]
    world.answer(world.last)
    assert result(world.wait(1, other)).site == "south"
    world.takes_not.clear()
    world.wait(1, number)
    world.answer(world.last)
    assert result(world.wait(1, number)).site == "north"


def test_a_site_that_answers_at_once_is_not_asked_in_a_hot_loop(world: World) -> None:
    """Between two polls of one site lies a second, however fast it answers."""
    number = world.ask()
    for _ in range(100):
        if world.last.id not in world.inbox:
            world.receipt(world.last)
        world.wait(0.05, number)
    assert 4 <= len(world.sent) <= 7


def test_looks_become_rarer(world: World) -> None:
    """Between two looks lies a tenth of the time for which nothing has come, half a second at most."""
    number, looks = world.ask(), list[float]()
    real = world.pull

    def pull(message_id: str) -> list[Message]:
        looks.append(world.at)
        return real(message_id)

    world.pull = pull  # type: ignore[method-assign]
    for _ in range(1500):
        world.wait(0.01, number)
    pauses = [later - sooner for sooner, later in itertools.pairwise(looks)]
    assert pauses[0] < 0.05
    assert 0.45 < max(pauses) < 0.55
    assert len(looks) < 80


def test_a_node_of_nobody(world: World) -> None:
    """A node that the roster does not name gets nothing; whoever asked is told."""
    message = Message(pack(LocalModel(site="x", subtask="a", model=None)), 99, KIND)
    (number,) = world.grid.push_messages([message])
    (reply,) = world.wait(1, number)
    assert reply.has_error()
    assert world.sent == []


def test_send_and_receive(world: World) -> None:
    """Flower's way to push and wait ends with all answers, or with those that came in time."""
    grid = ErrandGrid(world, world.envelopes)
    answering = world.push

    def push(message: Message) -> str | None:
        number = answering(message)
        if world.last.site == "north":
            world.answer(world.last)
        return number

    world.push = push  # type: ignore[method-assign]
    record = pack(LocalModel(site="x", subtask="a", model=None))
    messages = [Message(record, node, KIND) for node in NODES.values()]
    assert [m.metadata.src_node_id for m in grid.send_and_receive(messages, timeout=0.3)] == [12]
    assert len(list(grid.send_and_receive([Message(record, 12, KIND)]))) == 1
    assert world.sent[0].header.run == RUN
