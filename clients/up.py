"""The site's first process: it starts the SuperNode and the agent, and replaces what dies or falls silent."""

from __future__ import annotations

import secrets
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import httpx

from clients import line
from clients.inquiry import PROBE_BYTES, REFUSALS, Found, ask, why, wrong_clock
from clients.kit import SiteKit, open_roster_book
from clients.kit_check import Stamp, check_kit, stamp_of
from protocol.bundle import bundle_digest, make_bundle, package_version
from protocol.children import Child
from protocol.errors import ConfigError, ConsiliumError, UserError
from protocol.files import only_one
from protocol.keys import expiry_warning, load_certificate

_TURN_S = 0.1
_READY_S = 120.0
# A SuperNode calls at least each 25 s, whatever its site does: after this it counts as fallen silent.
SILENT_S = 90.0
# A node that was refused or cannot start is tried again after 1 s, 2 s, up to this.
_LONGEST_PAUSE_S = 65.0
# What lived for less than this has not worked, whatever it said: it is not started over and over at once.
_STEADY_S = 10.0
_WARN_EVERY_S = 6 * 3600.0
_SETTLED_S = 2.0  # a kit is copied file by file
_SOON_S = 60.0


@dataclass
class SiteUp:
    """Runs a site until it is told to end.

    Args:
        kit: the site's kit.
        say: is told what a person at the terminal wants to know.
        silent_s: after how many seconds without an answered call the SuperNode is started anew.
    """

    kit: SiteKit
    say: Callable[[str], None] = lambda _: None
    silent_s: float = SILENT_S
    _ended: bool = False
    _node: Child | None = None
    _agent: Child | None = None
    _starts: int = 0
    _next_at: float = 0.0
    _shown: str = ""
    _warned_at: float = 0.0
    _given: dict[str, Any] = field(default_factory=dict, repr=False)  # holds a secret
    _used: Stamp = ()
    _seen: Stamp = ()
    _seen_at: float = 0.0

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; every child has ended when this returns.

        Raises:
            UserError: the kit cannot be used, or another process uses it.
            RosterError: its roster is not its authority's.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        check_kit(self.kit)
        self._used = self._seen = stamp_of(self.kit)
        self.kit.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        with only_one(self.kit.state / "lock", str(self.kit.folder)), _loopback() as runtime:
            self._given = {
                "kit": str(self.kit.folder),
                "runtime": f"127.0.0.1:{runtime.getsockname()[1]}",
                "runtime_fd": runtime.fileno(),
                "superexec": secrets.token_bytes(32).hex(),
            }
            try:
                self._await_server()
                while not self._ended:
                    self._turn()
                    time.sleep(_TURN_S)
            finally:
                self._stop()

    def _end(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  a signal handler's
        self._ended = True

    def _await_server(self) -> None:
        """Ask the server who it is, until it answers; refuse to work with another release.

        Raises:
            UserError: it runs another release, or is another federation's.
        """
        pause_s = 1.0
        while not self._ended:
            try:
                self._check(ask(self.kit, PROBE_BYTES))
            except (httpx.HTTPError, OSError, ConsiliumError) as error:
                if isinstance(error, UserError):
                    raise
                self._show(f"no answer from the server at {self.kit.address}: {why(error)}")
                until = time.monotonic() + pause_s
                while time.monotonic() < until and not self._ended:
                    time.sleep(_TURN_S)
                pause_s = min(pause_s * 2, 15.0)
            else:
                return

    def _check(self, found: Found) -> None:
        book, info = open_roster_book(self.kit), found.info
        if info.federation != book.current.federation:
            raise ConfigError(f"{self.kit.address}: is the server of '{info.federation}', not of this kit's")
        ours = bundle_digest(make_bundle())
        if info.bundle != ours:
            raise ConfigError(
                f"the server runs Consilium {info.version} ({info.bundle[:8]}), this site "
                f"{package_version()} ({ours[:8]}): install the same release on both"
            )
        if book.offer(info.roster.encode()):
            self.say(f"took the roster of epoch {book.epoch()} from the server; the authority signed it")
        if wrong := wrong_clock(found):
            raise ConfigError(wrong)
        if found.mbit:
            line.keep(self.kit.folder, found.mbit)
        speed = f", {found.mbit:.0f} Mbit/s down" if found.mbit else ""
        self.say(
            f"the server {self.kit.address} answers: Consilium {info.version}, roster {info.epoch}{speed}"
        )

    def _turn(self) -> None:
        """Look after the children once."""
        self._warn()
        self._take_new_kit()
        if self._agent is not None and self._agent.code is not None:
            why_not = self._agent.heard.get("failed") or f"it ended with {self._agent.code}"
            self._tell(f"the agent cannot work: {why_not}; it and the SuperNode are started again")
            self._pause(self._agent, worked="ready" in self._agent.heard)
            self._stop()
        if self._node is not None and self._node.code is not None:
            self._node_ended(self._node)
        if self._node is None and time.monotonic() >= self._next_at:
            self._start_node()
        if self._agent is None and self._node is not None:
            self._start_agent()
        if self._node is not None:
            self._watch(self._node)

    def _take_new_kit(self) -> None:
        """Use new certificates, keys and a new roster once they lie in the kit's folder and fit together."""
        stamp = stamp_of(self.kit)
        if stamp != self._seen:
            self._seen, self._seen_at = stamp, time.monotonic()
        if stamp == self._used or time.monotonic() < self._seen_at + _SETTLED_S:
            return
        self._used = stamp
        try:
            check_kit(self.kit)
        except ConsiliumError as error:
            self._tell(f"the new files of the kit are not used: {error}")
            return
        self._tell("the new files of the kit are used")
        self._stop()
        self._warned_at = 0.0

    def _start_node(self) -> None:
        self._starts += 1
        fds = [self._given["runtime_fd"]]
        self._node = Child("supernode", "clients.node", self._given, self.kit.logs, fds=fds)

    def _start_agent(self) -> None:
        given = {key: self._given[key] for key in ("kit", "runtime", "superexec")}
        self._agent = Child("agent", "clients.agent", given, self.kit.logs)

    def _node_ended(self, node: Child) -> None:
        """Start a SuperNode again: at once if it had worked, later and later if it is refused."""
        worked = "node" in node.heard
        refused = node.heard.get("refused")
        early = time.monotonic() < node.started_at + _STEADY_S
        clock = self._look_at_clock() if refused == 401 or (early and not refused) else ""
        if refused:
            self._show(f"the server refuses this site ({REFUSALS.get(refused, refused)}){clock}")
        else:
            self._tell(f"the SuperNode ended with {node.code}; it is started again{clock}")
        self._pause(node, worked=worked and not refused)
        node.end()
        self._node = None

    def _look_at_clock(self) -> str:
        """Return what to add where the clocks have come apart: Flower refuses sites for it without a word."""
        with suppress(httpx.HTTPError, OSError, ConsiliumError):
            if wrong := wrong_clock(ask(self.kit)):
                return f"; {wrong}"
        return ""

    def _pause(self, child: Child, *, worked: bool) -> None:
        """Set when the SuperNode may be started again after a child has ended."""
        steady = worked and time.monotonic() > child.started_at + _STEADY_S
        self._starts = 0 if steady else self._starts
        pause_s = 0.0 if steady else min(2.0 ** max(0, self._starts - 1), _LONGEST_PAUSE_S)
        self._next_at = time.monotonic() + pause_s

    def _watch(self, node: Child) -> None:
        """Show the state of the connection, and start a SuperNode anew whose calls have stopped."""
        if "node" in node.heard and "pulse" in node.heard:
            self._show("connected; waiting for work")
        quiet_s = time.monotonic() - node.heard_at
        if quiet_s < self.silent_s:
            return
        try:
            ask(self.kit)
        except (httpx.HTTPError, OSError, ConsiliumError) as error:
            self._show(f"no answer from the server: {why(error)}")
            node.heard_at = time.monotonic()
            return
        self._tell(f"the SuperNode has been silent for {quiet_s:.0f} s and is started again")
        node.process.kill()

    def _stop(self) -> None:
        """End both children: the agent first, so that it takes no message that it cannot answer."""
        for child in (self._agent, self._node):
            if child is not None:
                child.end(5.0)
        self._agent = self._node = None

    def _warn(self) -> None:
        if time.monotonic() < self._warned_at:
            return
        self._warned_at = time.monotonic() + _WARN_EVERY_S
        try:
            said = expiry_warning(load_certificate(self.kit.certificate), time.time())
        except UserError as error:  # it may be being replaced just now
            self._warned_at = time.monotonic() + _SOON_S
            said = str(error)
        if said:
            self.say(f"warning: {said}")

    def _tell(self, line: str) -> None:
        """Say what happened; the state that was shown before is shown again when it is back."""
        self._shown = ""
        self.say(line)

    def _show(self, line: str) -> None:
        if line != self._shown:
            self._shown = line
            self.say(line)


def _loopback() -> socket.socket:
    """Return a socket that listens on a free port of loopback; restarted SuperNodes inherit it."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    return sock
