"""The listener on loopback: what wants the secret, and what the commands of an operator are answered."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import RunError
from server.door import Receive, Scope, Send
from server.inner import COMMANDS, CONTROL, SECRET_HEADER, Commands, Inner
from server.orders import MAX_TEXT, Order, OrderBook
from tests.server.door_cases import Caller

SECRET, CONTROL_SECRET = "5ec" * 21 + "7", "c0" * 32
KNOWN = (SECRET_HEADER.encode(), SECRET.encode())
CONTROLS = (SECRET_HEADER.encode(), CONTROL_SECRET.encode())


class World:
    """A listener in front of an application that notes what reaches it, and an order book."""

    def __init__(self, folder: Path) -> None:
        self.reached: list[str] = []
        self.asked: list[tuple[str, int]] = []
        self.orders = OrderBook(folder)
        commands = Commands(self.orders, lambda: {"north": {}}, lambda run: {"round": 1}, self._log_of)
        self.inner = Inner(self._app, SECRET, CONTROL_SECRET, commands)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    def _log_of(self, run: str, lines: int) -> list[str]:
        self.asked.append((run, lines))
        return ["a line"]

    def ask(
        self,
        path: str,
        body: bytes | list[bytes | None] = b"",
        query: bytes = b"",
        headers: Any = (KNOWN,),
        method: str = "POST",
    ) -> tuple[int, dict[str, Any]]:
        """Make one request; return the status and the table that is answered."""
        caller = Caller(body if isinstance(body, list) else [body])
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query,
            "headers": list(headers),
        }
        asyncio.run(self.inner(scope, caller.receive, caller.send))
        return caller.answered.status, caller.answered.words

    def command(self, name: str, given: Any = None, query: bytes = b"") -> tuple[int, dict[str, Any]]:
        """Ask a command."""
        return self.ask(COMMANDS + name, b"" if given is None else json.dumps(given).encode(), query)

    def submit(self, run: str, at: float = 0.0, **changes: Any) -> Order:
        """Have an order in the book."""
        order = self.orders.submit(run, "text", at).model_copy(update=changes)
        self.orders.put(order)
        return order


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty order book."""
    return World(tmp_path / "orders")


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((SECRET_HEADER.encode(), b""),),
        ((SECRET_HEADER.encode(), SECRET.encode()[:-1]),),
        ((SECRET_HEADER.encode(), SECRET.encode() + b" "),),
        ((SECRET_HEADER.encode(), SECRET.upper().encode()),),
        (KNOWN, KNOWN),
        (KNOWN, (b"Consilium-Secret", b"x")),
        ((b"authorization", SECRET.encode()),),
        ((SECRET_HEADER.encode(), b"\xff" * 64),),
    ],
)
def test_without_the_secret(world: World, headers: Any) -> None:
    """Flower's Control and our commands are not here for who does not show the secret, once."""
    for path in ("/v1/control/start-run", "/v1/control/", COMMANDS + "status", COMMANDS + "submit"):
        assert world.ask(path, headers=headers) == (404, {"error": "not here"})
    assert world.reached == []
    assert list(world.orders.all()) == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/get-run",
        "/docs",
        "/openapi.json",
        "/",
        "",
        "/v1/",
        "/v1/control",
        "/v1/control/",
        "/v1/control/list-runs",
        "/v1/control/start-run/",
        "/v1/control/stop-runs",
        "/v2/control/x",
    ],
)
def test_what_is_not_here_at_all(world: World, path: str) -> None:
    """Sites come by the public door alone; and nobody needs Flower's pages. The secret changes nothing."""
    for headers in ((KNOWN,), (CONTROLS,), ()):
        assert world.ask(path, headers=headers) == (404, {"error": "not here"})
    assert world.reached == []


def test_what_flower_guards_itself(world: World) -> None:
    """The Runtime checks a token of its own, the health page says nothing; a body has a length."""
    short = [(b"Content-Length", b"%d" % (16 * 2**20))]
    assert world.ask("/v1/runtime/acquire-task", headers=short)[0] == 200
    assert world.ask("/v1/runtime/acquire-task", headers=(), method="GET")[0] == 200
    assert world.ask("/health", headers=(), method="GET")[0] == 200
    assert world.reached == ["/v1/runtime/acquire-task", "/v1/runtime/acquire-task", "/health"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-length", b"%d" % (16 * 2**20 + 1))],
        [(b"content-length", b"9" * 12)],
        [(b"content-length", b"-1")],
        [(b"content-length", b"")],
        [(b"content-length", b"3"), (b"content-length", b"3")],
        [(b"transfer-encoding", b"chunked")],
        [(b"content-length", b"3"), (b"Transfer-Encoding", b"chunked")],
    ],
)
def test_what_has_no_bound_is_not_read(world: World, headers: Any) -> None:
    """Flower would read a body of any length before it asks for a token: it must be said, and short."""
    assert world.ask("/v1/runtime/push-object", headers=headers) == (413, {"error": "too large"})
    assert world.reached == []


@pytest.mark.parametrize("path", CONTROL)
def test_control_has_a_secret_of_its_own(world: World, path: str) -> None:
    """The operators' secret starts no run of Flower's; the supervisor's does, and submits none of ours."""
    for headers in ([KNOWN], [CONTROLS, CONTROLS], [CONTROLS, KNOWN], [(SECRET_HEADER.encode(), b"")]):
        assert world.ask(path, headers=headers)[0] == 404
    assert world.reached == []
    assert world.ask(path, headers=[(b"Consilium-Secret", CONTROL_SECRET.encode())])[0] == 200
    assert world.reached == [path]
    for name in ("status", "submit", "stop"):
        assert world.ask(COMMANDS + name, headers=[CONTROLS])[0] == 404


def test_submit(world: World) -> None:
    """An order is kept and answered; the same name again is refused in words for a person."""
    status, order = world.command("submit", {"run": "r1", "collaboration": 'name = "x"'})
    assert (status, order["run"], order["state"]) == (200, "r1", "queued")
    assert world.orders.text_path("r1").read_text() == 'name = "x"'
    status, said = world.command("submit", {"run": "r1", "collaboration": ""})
    assert status == 400
    assert "there already" in said["error"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"run": "r1"},
        {"run": "r1", "collaboration": 3},
        {"run": 3, "collaboration": ""},
        {"run": "", "collaboration": ""},
        {"run": "../r1", "collaboration": ""},
        {"run": "r1/x", "collaboration": ""},
        {"run": ".r1", "collaboration": ""},
        {"run": "r1\n", "collaboration": ""},
        {"run": "r" * 65, "collaboration": ""},
        {"run": "r\u00e9", "collaboration": ""},
        {"run": "r1", "collaboration": "\ud800"},
        {"run": "r1", "collaboration": "x" * (MAX_TEXT + 1)},
    ],
)
def test_no_order(world: World, given: dict[str, Any]) -> None:
    """A name that is no file's, or a text that is none, is refused and leaves nothing behind."""
    status, said = world.command("submit", given)
    assert status == 400, said
    assert list(said) == ["error"]
    assert list(world.orders._folder.iterdir()) == []


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_no_table(world: World, body: bytes) -> None:
    """A body that is no table in JSON is told so."""
    assert world.ask(COMMANDS + "submit", body) == (400, {"error": "the body is no JSON table"})


def test_bodies_have_a_bound(world: World) -> None:
    """More than a collaboration can be is not read; a caller who hangs up gets no order."""
    caller = Caller([b"x" * MAX_TEXT] * 10)
    scope = {"type": "http", "path": COMMANDS + "submit", "query_string": b"", "headers": [KNOWN]}
    asyncio.run(world.inner(scope, caller.receive, caller.send))
    assert (caller.answered.status, caller.read) == (413, 3)
    assert world.ask(COMMANDS + "submit", [b'{"run": "r1", "collabo', None])[0] == 400
    pieces: list[bytes | None] = [b'{"run": "r1", ', b'"collaboration": ""}']
    assert world.ask(COMMANDS + "submit", pieces)[0] == 200


def test_status(world: World) -> None:
    """Without a name: the run that is worked on; else the last one. All others stand beside it, briefly."""
    status, found = world.command("status")
    assert (status, found["runs"], found["others"], found["sites"]) == (200, {}, [], {"north": {}})
    world.submit("old", 1.0, state="finished")
    world.submit("now", 2.0, state="running")
    world.submit("next", 3.0)
    found = world.command("status")[1]
    assert list(found["runs"]) == ["now"]
    assert found["runs"]["now"]["round"] == 1
    assert found["runs"]["now"]["order"]["state"] == "running"
    assert [order["run"] for order in found["others"]] == ["old", "next"]
    assert list(world.command("status", query=b"run=old")[1]["runs"]) == ["old"]
    assert world.command("status", query=b"run=none")[1]["runs"] == {}
    for run in ("now", "next"):
        order = world.orders.get(run)
        assert order is not None
        world.orders.put(order.model_copy(update={"state": "failed"}))
    assert list(world.command("status")[1]["runs"]) == ["next"]


def test_logs(world: World) -> None:
    """The lines of a run's log, as many as asked for."""
    world.submit("r1")
    assert world.command("logs", query=b"run=r1") == (200, {"run": "r1", "lines": ["a line"]})
    world.command("logs", query=b"run=r1&lines=5")
    world.command("logs", query=b"run=r1&lines=-5")
    assert world.asked == [("r1", 200), ("r1", 5), ("r1", 200)]


def test_stop(world: World) -> None:
    """A run that lives is marked; one that has ended is not."""
    world.submit("r1", state="running")
    assert world.command("stop", {}, b"run=r1") == (200, {"run": "r1", "state": "stopping"})
    assert world.orders.is_to_stop("r1")
    world.submit("r2", state="finished")
    assert world.command("stop", {}, b"run=r2")[0] == 400
    assert not world.orders.is_to_stop("r2")


@pytest.mark.parametrize("run", [b"", b"none", b"..%2fr1", b"..", b"r1%0a", b"%00", b"\xff", b"r" * 65])
def test_no_such_run(world: World, run: bytes) -> None:
    """A name of no run is told so, whatever it is made of."""
    world.submit("r1")
    for name in ("logs", "stop", "other"):
        assert world.command(name, query=b"run=" + run)[0] == 404
    assert world.command("other", query=b"run=r1")[0] == 404
    assert world.asked == []


def test_errors_of_ours(world: World) -> None:
    """What a person can mend is 400, what the server cannot do now is 503, in the words of the error."""

    def fails(*_: Any) -> Any:
        raise RunError("the disk is full")

    world.inner = Inner(world._app, SECRET, CONTROL_SECRET, fails)
    assert world.command("status") == (503, {"error": "the disk is full"})


def test_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that cannot be written is said in words; once there is room its name is free."""

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status, said = world.command("submit", {"run": "r1", "collaboration": "x"})
    assert (status, list(said)) == (503, ["error"])
    assert "No space left" in said["error"]
    assert world.command("submit", {"run": "r1", "collaboration": "x"})[0] == 200


def test_only_http(world: World) -> None:
    """Another kind of connection gets no answer."""
    caller = Caller()
    asyncio.run(world.inner({"type": "websocket"}, caller.receive, caller.send))
    assert caller.sent == []


def test_a_run_that_ended_is_resumed(world: World) -> None:
    """Of a live one nothing changes, unless it is to stop; one that finished has nothing to go on with."""
    query = b"run=r1"
    world.submit("r1", state="running")
    assert world.command("resume", query=query) == (200, {"run": "r1", "state": "running"})
    world.command("stop", query=query)
    assert world.command("resume", query=query) == (200, {"run": "r1", "state": "queued"})
    assert world.orders.next_live() is not None
    assert world.orders.is_to_stop("r1")  # first it stops
    world.orders.put(world.orders.all().__next__().model_copy(update={"state": "stopped"}))
    found = world.orders.next_live()
    assert found is not None
    assert found.state == "queued"
    assert not world.orders.is_to_stop("r1")
    world.submit("r2", state="finished")
    status, said = world.command("resume", query=b"run=r2")
    assert (status, said["error"]) == (400, "run 'r2' has finished; there is nothing to resume")
    assert world.command("resume", query=b"run=r3")[0] == 404
