"""What the installed Flower does at a site when calls are refused or answers stay out.

These are no wishes: they are why the server's door answers as it does, why an agent answers everything, and
why a site's first process starts the SuperNode anew. An upgrade that changes one of them shows here.
"""

from __future__ import annotations

import itertools
import threading
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import RecordDict
from flwr.supercore.retry import http_retry
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection, start_client_internal

from tests.clients.flwr_cases import Fleet, Node, connection


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No pause is long; signals to this process are noted and not sent."""
    noted: list[Any] = []
    monkeypatch.setattr(http_retry, "exponential", lambda **_: itertools.repeat(0.01))
    monkeypatch.setattr(
        http_retry, "os", SimpleNamespace(kill=lambda *what: noted.append(what), getpid=lambda: "me")
    )
    monkeypatch.setattr(
        start_client_internal, "time", SimpleNamespace(sleep=lambda _: threading.Event().wait(0.005))
    )
    return noted


def _fleet(monkeypatch: pytest.MonkeyPatch, **statuses: Any) -> Fleet:
    fleet = Fleet(**statuses)
    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", fleet.client())
    return fleet


def _send(callbacks: tuple[Any, ...]) -> Node:
    """Have a SuperNode send an answer over a connection; return the node."""
    _, _, send, _, _, _, push_object, _ = callbacks
    node = Node()
    node.receive(RecordDict())
    node.reply()
    start_client_internal._push_messages(node.state, node.store, send, push_object)
    return node


def test_an_answer_that_meets_403_is_thrown_away(monkeypatch: pytest.MonkeyPatch, hurry: list[Any]) -> None:
    """Flower takes it for the end of the run: no error, no second try, and the answer is gone.

    So the server's door must not say 403 to a site that it only has no time for.
    """
    fleet = _fleet(monkeypatch, push_messages=[403, 200])
    with connection() as callbacks:
        node = _send(callbacks)
        assert fleet.calls.count("push-messages") == 1
        assert not node.state.msg_store


def test_what_403_raises_is_no_exception(monkeypatch: pytest.MonkeyPatch, hurry: list[Any]) -> None:
    """It passes by every ``except Exception``; only a client that tries again raises it."""
    _fleet(monkeypatch, pull_messages=[403])
    with connection() as callbacks, pytest.raises(RunNotRunningException):
        callbacks[1]()
    assert not issubclass(RunNotRunningException, Exception)


def test_a_site_whose_call_meets_401_ends_itself(monkeypatch: pytest.MonkeyPatch, hurry: list[Any]) -> None:
    """The process sends itself SIGINT, waits for that, and tries once more."""
    waited: list[float] = []
    monkeypatch.setattr(http_retry, "time", SimpleNamespace(sleep=waited.append, monotonic=lambda: 0.0))
    fleet = _fleet(monkeypatch, pull_messages=[401, 401])
    raised: list[BaseException] = []
    with connection() as callbacks:
        try:
            callbacks[1]()
        except httpx.HTTPStatusError as error:
            raised.append(error)
    assert hurry == [("me", 2)]
    assert max(waited) == http_retry.FORCE_EXIT_TIMEOUT_SECONDS + 1
    assert fleet.calls.count("pull-messages") == 2
    assert len(raised) == 1


@pytest.mark.parametrize("code", [429, 404, 413, 500])
def test_a_site_whose_call_meets_another_refusal_dies(
    monkeypatch: pytest.MonkeyPatch, hurry: list[Any], code: int
) -> None:
    """It is raised out of the loop, and the connection's block ends as if all were well: the process ends."""
    fleet = _fleet(monkeypatch, pull_messages=[code])
    raised: list[BaseException] = []
    with connection() as callbacks:
        try:
            callbacks[1]()
        except httpx.HTTPStatusError as error:
            raised.append(error)
            raise
        pytest.fail("it was not raised")
    assert len(raised) == 1
    assert fleet.calls.count("pull-messages") == 1
    assert fleet.calls[-1] == "deactivate-node"
    assert hurry == []


@pytest.mark.parametrize("code", [502, 503, 504])
def test_an_answer_that_meets_503_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, hurry: list[Any], code: int
) -> None:
    """Until it is delivered: what the door says to a site that is to come again later."""
    fleet = _fleet(monkeypatch, push_messages=[code, code, 200])
    with connection() as callbacks:
        node = _send(callbacks)
    assert fleet.calls.count("push-messages") == 3
    assert not node.state.msg_store
    assert hurry == []


def test_a_line_that_breaks_is_tried_again(monkeypatch: pytest.MonkeyPatch, hurry: list[Any]) -> None:
    """As for 503."""
    fleet = _fleet(monkeypatch)
    plain, failures = fleet.handle, [httpx.ConnectError("x"), httpx.ReadTimeout("x")]

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("push-messages") and failures:
            raise failures.pop()
        return plain(request)

    fleet.handle = handle  # type: ignore[method-assign]
    with connection() as callbacks:
        _send(callbacks)
    assert fleet.calls.count("push-messages") == 1
    assert failures == []


def _expire(node: Node, task_id: int) -> None:
    """Let the time pass in which an executor must have been heard of."""
    node.state.task_token_store[task_id].active_until -= timedelta(days=1)


def _awaits(node: Node) -> threading.Thread:
    """A SuperNode that waits for its site's answer."""
    thread = threading.Thread(target=node.push, daemon=True)
    thread.start()
    return thread


def _claim(node: Node) -> int:
    (task,) = node.state.get_tasks()
    assert node.state.claim_task(task.task_id)
    return int(task.task_id)


@pytest.mark.usefixtures("hurry")
def test_a_supernode_waits_without_end_for_an_executor_that_died_early() -> None:
    """It took the task and died before it had the message: no error is made of that, ever.

    Meanwhile the SuperNode's heartbeats go on, so nobody sees it. Hence ``Naps`` counts, and a site's first
    process starts both when the agent dies.
    """
    node = Node()
    node.receive(RecordDict())
    task = _claim(node)
    assert node.state.activate_task(task)
    _expire(node, task)
    waiting = _awaits(node)
    waiting.join(0.3)
    assert waiting.is_alive()
    node.reply()
    waiting.join(5)
    assert not waiting.is_alive()


@pytest.mark.usefixtures("hurry")
def test_a_task_that_was_only_taken_is_given_again() -> None:
    """After half a minute without a word."""
    node = Node()
    node.receive(RecordDict())
    task = _claim(node)
    assert node.state.claim_task(task) is None
    _expire(node, task)
    node.state.get_tasks()
    assert node.state.claim_task(task)


@pytest.mark.usefixtures("hurry")
def test_a_message_whose_executor_died_over_it_is_answered_with_an_error() -> None:
    """After a minute without a heartbeat; the server asks again then."""
    node = Node()
    asked = node.receive(RecordDict())
    task = _claim(node)
    assert node.state.activate_task(task)
    assert node.state.get_messages_legacy(run_ids=[1], is_reply=False, limit=1)
    _expire(node, task)
    waiting = _awaits(node)
    waiting.join(5)
    assert not waiting.is_alive()
    assert [message for message, _ in node.sent] == [asked]
