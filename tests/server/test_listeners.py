"""The public listener: a connection without a use is let go, and no caller takes the connections of all."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from server import listeners
from server.door import INFO, Receive, Scope, Send
from server.listeners import PER_SITE, STRANGERS, Seats
from tests.server.link_cases import Line
from tests.server.listener_cases import Public, ask, at_once, closed_after, is_served, listening, make_public

SHORT_S = 0.6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Public:
    """Certificates of two sites and of two that are in no roster."""
    return make_public(tmp_path_factory.mktemp("public"))


@pytest.fixture
def public(made: Public) -> Iterator[Public]:
    """A listener of its own."""
    with listening(made) as running:
        yield running


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets go after a moment."""
    monkeypatch.setattr(listeners, "HEADER_S", SHORT_S)


def opened(stack: ExitStack, public: Public, site: str, count: int) -> list[Line]:
    """Connections that stay open for as long as the stack."""
    return [stack.enter_context(public.line(site)) for _ in range(count)]


@pytest.mark.usefixtures("_soon")
def test_silence_is_not_kept(public: Public) -> None:
    """A connection on which nothing is asked is closed, and so is one that asked before, in time."""
    with public.line("north") as line:
        assert SHORT_S / 2 < closed_after(line) < 5 * SHORT_S
    with public.line("north") as line:
        assert ask(line) == 200


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("is_first", [True, False])
def test_half_a_request_is_not_kept(public: Public, is_first: bool) -> None:
    """A request that begins has to be there soon; it does not help to send a little now and then."""
    with public.line("north") as line:
        if not is_first:
            assert ask(line) == 200
            time.sleep(2 * SHORT_S)
        began = time.monotonic()
        line.socket.sendall(b"GET " + INFO.encode() + b" HTTP/1.1\r\n")
        while time.monotonic() < began + 20 * SHORT_S:
            line.socket.settimeout(SHORT_S / 8)
            try:
                line.socket.sendall(b"x: y\r\n")
                assert line.socket.recv(1000) == b""
                break
            except TimeoutError:
                continue
            except (ConnectionError, ssl.SSLError):
                break
        assert SHORT_S / 2 < time.monotonic() - began < 10 * SHORT_S


@pytest.mark.usefixtures("_soon")
def test_regular_calls_keep_a_connection(public: Public) -> None:
    """A site that calls now and then keeps its connection, however long a time lies between two calls."""
    with public.line("north") as line:
        port = line.socket.getsockname()[1]
        for pause in (0.1, 0.5, 1.5, 0.1, 2.5):
            time.sleep(pause * SHORT_S)
            assert ask(line) == 200
        assert line.socket.getsockname()[1] == port


@pytest.mark.usefixtures("_soon")
def test_work_is_not_idle(made: Public, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for a request's header does not end a request that is being answered."""
    real = Public.app

    async def slow(self: Public, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(2.5 * SHORT_S)
        await real(self, scope, receive, send)

    monkeypatch.setattr(Public, "app", slow)
    with listening(made) as running, running.line("north") as line:
        assert line.ask("POST", "/v1/fleet/pull-messages", made.headers("north"), b"x")[0] == 200


def test_no_site_takes_the_seats_of_another(public: Public) -> None:
    """One more connection than a site may have is closed at once; others are served, and it is again."""
    with ExitStack() as stack:
        lines = opened(stack, public, "north", PER_SITE)
        assert all(ask(line) == 200 for line in lines)
        with public.line("north") as extra:
            assert closed_after(extra) < 2
        with public.line("north") as extra:
            assert not is_served(extra)
        with public.line("south") as other:
            assert ask(other) == 200
        assert ask(lines[0]) == 200
        lines[0].socket.close()
        until = time.monotonic() + 5
        served = False
        while not served and time.monotonic() < until:
            with public.line("north") as again:
                served = is_served(again)
        assert served


def test_strangers_share_a_few(public: Public) -> None:
    """Who has a certificate and stands in no roster has few connections, all such callers together."""
    with ExitStack() as stack:
        lines = opened(stack, public, "stranger", STRANGERS - 1) + opened(stack, public, "other", 1)
        assert [ask(line) for line in lines[:1]] == [403]
        with ExitStack() as more:
            lines = opened(more, public, "other", 1)  # in the place of the one that was refused
            for name in ("stranger", "other"):
                with public.line(name) as extra:
                    assert closed_after(extra) < 2
            with public.line("north") as site:
                assert ask(site) == 200


def test_a_request_that_comes_with_the_handshake(public: Public) -> None:
    """What is sent in one piece with the end of the handshake is worked on only where there was a seat."""
    request = f"GET {INFO} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    before = public.asked
    at_once(public, "north", request)
    assert public.asked == before + 1
    with ExitStack() as stack:
        opened(stack, public, "north", PER_SITE)
        at_once(public, "north", request)
        at_once(public, "south", request)
        assert public.asked == before + 2


def test_seats() -> None:
    """Each name has its own count, the nameless one together; what is given back can be taken."""
    names = {b"n": "north", b"s": "south"}
    seats = Seats(lambda certificate: names.get(certificate or b"", ""))
    for certificate, most in ((b"n", PER_SITE), (None, STRANGERS)):
        taken = [seats.take(certificate) for _ in range(most + 1)]
        assert taken == [names.get(certificate or b"", "")] * most + [None]
    assert seats.take(b"x") is None
    assert seats.take(b"s") == "south"
    seats.leave("north")
    seats.leave("")
    assert (seats.take(b"n"), seats.take(b"n")) == ("north", None)
    assert (seats.take(b"x"), seats.take(None)) == ("", None)
