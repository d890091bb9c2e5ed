"""The listener on loopback: Flower's Runtime and Control for our own processes, and our own commands.

Every local user reaches loopback. Flower's Runtime checks a task's token, or the secret of who may take
tasks; its Control checks nothing. So our commands want a secret, which lies in a file that the operators'
group can read, and Control another, which the supervisor keeps for itself: it starts and stops runs, and
needs nothing else. Flower's Fleet paths are not here: sites come by the public door alone.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from protocol.errors import ConsiliumError, UserError
from server.door import Application, Receive, Scope, Send
from server.orders import LIVE, MAX_TEXT, RUN_NAME, Order, OrderBook

SECRET_HEADER = "consilium-secret"  # noqa: S105  the header's name
COMMANDS = "/v1/consilium/"
_OPEN = ("/v1/runtime/", "/health")

# All that the supervisor needs of Flower's Control.
CONTROL = ("/v1/control/start-run", "/v1/control/stop-run")
_MAX_RUNTIME_BYTES = 16 * 2**20  # Flower sends pieces of 5 MiB

Answer = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Inner:
    """The ASGI application of the loopback listener.

    Args:
        app: Flower's.
        secret: what the header must hold for our own commands.
        control: what it must hold for Flower's Control.
        commands: answers our own paths, given the path's last part, the query and the body.
    """

    app: Application
    secret: str = field(repr=False)
    control: str = field(repr=False)
    commands: Callable[[str, dict[str, str], dict[str, Any]], Answer]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; anything but HTTP is closed."""
        if scope["type"] != "http":
            return
        path = str(scope["path"])
        if path.startswith(_OPEN):
            if _is_bounded(scope):
                await self.app(scope, receive, send)
            else:
                await _say(send, 413, {"error": "too large"})
        elif path in CONTROL and _knows(scope, self.control):
            await self.app(scope, receive, send)
        elif path.startswith(COMMANDS) and _knows(scope, self.secret):
            status, words = await self._command(path.removeprefix(COMMANDS), scope, receive)
            await _say(send, status, words)
        else:
            await _say(send, 404, {"error": "not here"})

    async def _command(self, name: str, scope: Scope, receive: Receive) -> Answer:
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > 2 * MAX_TEXT:
                return 413, {"error": "too large"}
            if not message.get("more_body", False):
                break
        query = {key: values[-1] for key, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        given = _table(bytes(body))
        if given is None:
            return 400, {"error": "the body is no JSON table"}
        try:
            return self.commands(name, query, given)
        except UserError as error:
            return 400, {"error": str(error)}
        except ConsiliumError as error:
            return 503, {"error": str(error)}
        except OSError as error:
            return 503, {"error": f"the server cannot write it down ({error.strerror})"}


@dataclass(frozen=True)
class Commands:
    """What the ``consilium`` command asks of a running server.

    Args:
        orders: the order book.
        sites: what is known of each site now.
        status_of: what the process that works on a run last wrote of it.
        log_of: the last lines of a run's log.
    """

    orders: OrderBook
    sites: Callable[[], dict[str, Any]]
    status_of: Callable[[str], dict[str, Any]]
    log_of: Callable[[str, int], list[str]]

    def __call__(self, name: str, query: dict[str, str], given: dict[str, Any]) -> Answer:
        """Answer ``submit``, ``status``, ``logs``, ``stop`` or ``resume``."""
        if name == "submit":
            return self._submit(given)
        if name == "status":
            return 200, self._status(query.get("run"))
        run = query.get("run", "")
        order = self.orders.get(run) if RUN_NAME.fullmatch(run) else None
        if order is None:
            return 404, {"error": f"there is no run '{run[:64]}' here"}
        return self._about(name, order, query)

    def _about(self, name: str, order: Order, query: dict[str, str]) -> Answer:
        """Answer what is asked of one run."""
        run = order.run
        if name == "logs":
            lines = query.get("lines", "200")
            return 200, {"run": run, "lines": self.log_of(run, int(lines) if lines.isdigit() else 200)}
        if name == "resume":
            return self._resume(order)
        if name != "stop":
            return 404, {"error": "not here"}
        if order.state not in LIVE:
            return 400, {"error": f"run '{run}' has ended: {order.state}"}
        self.orders.ask_stop(run)
        return 200, {"run": run, "state": "stopping"}

    def _resume(self, order: Order) -> Answer:
        """Have a run that was stopped or has failed go on from its journal."""
        if order.state == "finished":
            return 400, {"error": f"run '{order.run}' has finished; there is nothing to resume"}
        if order.state in LIVE and not self.orders.is_to_stop(order.run):  # it goes on by itself
            return 200, {"run": order.run, "state": order.state}
        self.orders.ask_resume(order.run)
        return 200, {"run": order.run, "state": "queued"}

    def _submit(self, given: dict[str, Any]) -> Answer:
        run, text = given.get("run"), given.get("collaboration")
        if not isinstance(run, str) or not RUN_NAME.fullmatch(run) or not isinstance(text, str):
            return 400, {"error": "give a run's name and a collaboration's text"}
        order = self.orders.submit(run, text, time.time(), baselines=given.get("baselines") is not False)
        return 200, order.model_dump(mode="json")

    def _status(self, run: str | None) -> dict[str, Any]:
        orders = list(self.orders.all())
        live = [order for order in orders if order.state in LIVE]
        shown = [o for o in orders if o.run == run] if run else [*live, *orders[-1:]][:1]
        known = {o.run: {"order": o.model_dump(mode="json"), **self.status_of(o.run)} for o in shown}
        return {
            "time": time.time(),
            "sites": self.sites(),
            "runs": known,
            "others": [o.model_dump(mode="json") for o in orders if o.run not in known][-50:],
        }


def _knows(scope: Scope, secret: str) -> bool:
    given = [value for name, value in scope["headers"] if name.lower() == SECRET_HEADER.encode()]
    return len(given) == 1 and hmac.compare_digest(given[0], secret.encode())


def _is_bounded(scope: Scope) -> bool:
    """Return whether a request says how long its body is, and that it is short enough to be read.

    Of a length and a transfer coding, the coding counts: what is sent in chunks has no end that is known.
    """
    if scope["method"] in ("GET", "HEAD"):
        return True
    if any(name.lower() == b"transfer-encoding" for name, _ in scope["headers"]):
        return False
    said = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    is_number = len(said) == 1 and said[0].isdigit() and len(said[0]) < 12
    return is_number and int(said[0]) <= _MAX_RUNTIME_BYTES


def _table(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


async def _say(send: Send, status: int, words: dict[str, Any]) -> None:
    content = json.dumps(words).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
