"""The desk that takes messages from a SuperNode, over Flower's own Runtime API on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import ANY

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal

from clients import flwr_adapter
from clients.flwr_adapter import Job, TaskDesk, identity
from protocol.bundle import bundle_digest
from tests.clients.bench_cases import until
from tests.clients.flwr_cases import BUNDLE, Node

SECRET = b"s" * 32
CONTENT = RecordDict({"a": ConfigRecord({"n": 1, "blob": b"\x00\xff"})})
NEXT = RecordDict({"a": ConfigRecord({"n": 2})})


@contextmanager
def runtime(node: Node) -> Iterator[str]:
    """A SuperNode's Runtime API; its address."""
    sock = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{sock.getsockname()[1]}"
    before = set(threading.enumerate())
    server = flwr_adapter._serve_runtime(node.factory, SECRET, sock)
    yield address
    server.should_exit = True
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    sock.close()


@pytest.fixture(autouse=True)
def _pulls() -> Iterator[None]:
    """The pauses of Flower's pulls and this process's task are as before at the end."""
    functions = (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree)
    before = [dict(function.__kwdefaults__ or {}) for function in functions]
    known = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id
    yield
    TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = known
    for function, defaults in zip(functions, before, strict=True):
        (function.__kwdefaults__ or {}).update(defaults)


@pytest.fixture
def node() -> Node:
    """A SuperNode's state."""
    return Node()


@contextmanager
def desk_at(address: str, secret: bytes = SECRET) -> Iterator[TaskDesk]:
    """A desk at a SuperNode."""
    desk = TaskDesk(address, secret)
    yield desk
    desk.close()


def test_a_message_comes_and_its_answer_goes(node: Node) -> None:
    """With the bundle and how Flower names it; then there is no other, and the desk has no token."""
    with runtime(node) as address, desk_at(address) as desk:
        assert desk.take() is None
        asked = node.receive(CONTENT)
        job = desk.take()
        assert job is not None
        assert job.message.content == CONTENT
        assert job.message.metadata.message_type == "query.work_start"
        assert (job.bundle, job.bundle_digest) == (BUNDLE, bundle_digest(BUNDLE))
        assert desk.take() is None
        desk.give(job, RecordDict({"b": ConfigRecord({"n": 2})}))
        assert desk._token.value is None
        node.push()
        assert [message for message, _ in node.sent] == [asked]
        assert not node.state.msg_store
        assert desk.take() is None


def test_without_an_answer_flower_is_told_of_an_error(node: Node) -> None:
    """The SuperNode is not left waiting."""
    with runtime(node) as address, desk_at(address) as desk:
        node.receive(CONTENT)
        job = desk.take()
        assert job is not None
        desk.give(job, None, "not the server's")
        reply = next(e.message for e in node.state.msg_store.values() if e.message.has_error())
        assert reply.error.reason == "not the server's"
        node.push()
        assert len(node.sent) == 1


def test_only_who_knows_the_secret_takes_messages(node: Node) -> None:
    """Another process of the machine does not; the message stays for who does."""
    node.receive(CONTENT)
    with runtime(node) as address:
        with desk_at(address, b"x" * 32) as stranger, pytest.raises(httpx.HTTPStatusError) as caught:
            stranger.take()
        assert caught.value.response.status_code in (401, 403)
        with desk_at(address) as desk:
            assert desk.take() is not None


def test_an_answer_to_a_supernode_that_was_restarted_is_lost_and_no_more(node: Node) -> None:
    """The new one does not know the task: an ordinary error, and the next message is taken from it."""
    with runtime(node) as address, desk_at(address) as desk:
        node.receive(CONTENT)
        job = desk.take()
        assert job is not None
        restarted = Node()
        node.factory.state_instance = restarted.state  # the same address, and nothing remembered
        with pytest.raises(httpx.HTTPStatusError) as caught:
            desk.give(job, CONTENT)
        assert caught.value.response.status_code == 401
        desk.drop()
        restarted.receive(CONTENT)
        job = desk.take()
        assert job is not None
        desk.give(job, CONTENT)
        restarted.push()
        assert len(restarted.sent) == 1


def test_no_refusal_at_a_site_is_taken_for_the_end_of_a_run(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The desk's client never tries again by itself, so what is no Exception is never raised in an agent."""
    with runtime(node) as address, desk_at(address) as desk:
        assert desk._client._retry_invoker is None
        for code in (401, 403, 500):
            transport = httpx.MockTransport(lambda request, code=code: httpx.Response(code, request=request))
            desk._client._client.close()
            desk._client._client = httpx.Client(transport=transport)
            with pytest.raises(httpx.HTTPStatusError):  # RunNotRunningException would pass by this
                desk.take()
        assert not issubclass(RunNotRunningException, Exception)


def test_no_supernode_is_an_ordinary_error() -> None:
    """Whether it is not there yet or no longer."""
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    sock.close()
    with desk_at(f"127.0.0.1:{port}") as desk, pytest.raises(httpx.HTTPError):
        desk.take()


def test_a_held_message_is_kept_alive(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """By heartbeats, for as long as it is held, whatever goes wrong with one of them."""
    monkeypatch.setattr(flwr_adapter, "_BEAT_S", 0.01)
    beats: list[str | None] = []
    with runtime(node) as address, desk_at(address) as desk:

        def beat(_: Any) -> None:
            beats.append(desk._token.value)
            raise ValueError("broken")

        desk._client.SendTaskHeartbeat = beat  # type: ignore[method-assign]
        time.sleep(0.05)
        assert beats == []
        node.receive(CONTENT)
        job = desk.take()
        until(lambda: len(beats) > 2)
        assert job is not None
        desk.give(job, CONTENT)
        time.sleep(0.02)
        count = len(beats)
        time.sleep(0.05)
        assert len(beats) == count
        assert None not in beats


def test_a_token_that_is_given_back_meanwhile_is_no_error() -> None:
    """The heartbeat's thread sees it once: there, or gone."""

    class Vanishing(flwr_adapter._Token):
        looks = 0

        @property  # type: ignore[override]
        def value(self) -> str | None:
            self.looks += 1
            return "token" if self.looks == 1 else None

        @value.setter
        def value(self, value: str | None) -> None:
            pass

    request = httpx.Request("POST", "https://x")
    context = flwr_adapter.ProtobufRequestContext("m", None, request)  # type: ignore[arg-type]
    answer = Vanishing().intercept(context, lambda _: httpx.Response(200, request=request))
    assert answer.status_code == 200


def test_a_process_may_make_messages_of_its_own() -> None:
    """Outside a task, and only inside the block."""
    known = TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id
    with identity():
        assert Message(RecordDict(), dst_node_id=1, message_type="query.a").metadata.run_id == 1
    with pytest.raises(ZeroDivisionError), identity():
        raise ZeroDivisionError
    assert known == (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)


TAKE_IN = partial(flwr_adapter.take_in_or_leave, start_client_internal._pull_and_store_message)


def end() -> None:
    """Be told that the run has been ended."""
    raise RunNotRunningException


def test_flower_keeps_a_message_whose_run_was_ended_and_answers_one_too_late_from_then_on(node: Node) -> None:
    """Why a message is taken in by a function of ours: the next one's answer is that of the one before."""
    assert node.try_to_receive(CONTENT, confirmed=end) == (None, ANY)
    assert len(node.state.msg_store) == 1
    with runtime(node) as address, desk_at(address) as desk:
        desk.give(taken(desk), CONTENT)
        wanted = node.receive(NEXT)
        node.push()
        assert [message == wanted for message, _ in node.sent] == [False]


@pytest.mark.parametrize(
    ("when", "taken_before"), [("pulled", False), ("confirmed", False), ("confirmed", True)]
)
def test_nothing_is_left_of_a_message_whose_run_was_ended(node: Node, when: str, taken_before: bool) -> None:
    """Whether the agent has it in hand by then or not: its answer is refused, and the next is the next's."""
    with runtime(node) as address, desk_at(address) as desk:
        jobs: list[Job] = []

        def ended() -> None:
            if taken_before:
                jobs.append(taken(desk))
            end()

        assert node.try_to_receive(CONTENT, take_in=TAKE_IN, **{when: ended}) == (None, ANY)
        assert (len(node.state.msg_store), len(node.store)) == (0, 0)
        for job in jobs:
            with pytest.raises(httpx.HTTPStatusError):
                desk.give(job, CONTENT)
            desk.drop()
        wanted = node.receive(NEXT, take_in=TAKE_IN)
        desk.give(taken(desk), CONTENT)
        node.push()
        assert [message for message, _ in node.sent] == [wanted]


def test_an_answer_that_came_while_its_message_was_put_away_is_left(node: Node) -> None:
    """An agent may be quicker than the server says that the run was ended."""
    with runtime(node) as address, desk_at(address) as desk:

        def answered() -> None:
            desk.give(taken(desk), CONTENT)
            end()

        assert node.try_to_receive(CONTENT, take_in=TAKE_IN, confirmed=answered) == (None, ANY)
        wanted = node.receive(NEXT, take_in=TAKE_IN)
        assert len(node.state.msg_store) == 1
        desk.give(taken(desk), CONTENT)
        node.push()
        assert [message for message, _ in node.sent] == [wanted]
        assert (len(node.state.msg_store), len(node.store)) == (0, 0)


def taken(desk: TaskDesk) -> Job:
    """Take the message that there is."""
    job = desk.take()
    assert job is not None
    return job
