"""The server's first process: it starts the others, keeps the run's token, and replaces what dies.

Its children are the link process and, while a run is worked on, the process that runs the ServerApp. One run
is worked on at a time, in the order of submission; the others wait.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from protocol.bundle import make_bundle
from protocol.children import Child
from protocol.errors import RunError, UserError
from protocol.files import only_one
from protocol.keys import expiry_warning, load_certificate
from server.flwr_adapter.runtime import Control, TaskOffice
from server.inner import SECRET_HEADER
from server.kit import ServerKit, check_kit, group_id, make_folders
from server.orders import OrderBook, write_aside
from server.run_keeper import Office, RunKeeper

logger = logging.getLogger("consilium.server")

_TURN_S = 0.1
_READY_S = 60.0
_LONGEST_PAUSE_S = 30.0
_WARN_EVERY_S = 6 * 3600.0


@dataclass
class Supervisor:
    """Runs a server until it is told to end.

    Args:
        kit: the server's kit.
        say: is told what a person at the terminal wants to know.
        port: listen on this public port instead of the kit's; 0 takes a free one.
    """

    kit: ServerKit
    say: Callable[[str], None] = lambda _: None
    port: int | None = None
    _ended: bool = False
    _keeper: RunKeeper | None = None
    _link: Child | None = None
    _link_starts: list[float] = field(default_factory=list)
    _link_at: float = 0.0
    _warned_at: float = 0.0

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; every child has ended when this returns.

        Raises:
            UserError: the kit, the port or the group cannot be used, or another server uses the kit.
            RunError: the link process does not start.
        """
        check_kit(self.kit)
        make_folders(self.kit)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        with only_one(self.kit.state / "lock", str(self.kit.folder)):
            try:
                self._open()
                while not self._ended:
                    self._turn()
                    time.sleep(_TURN_S)
            finally:
                self._close()

    def _end(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  a signal handler's
        self._ended = True

    def _open(self) -> None:
        public = _listening(self.kit.config.bind, self.kit.config.port if self.port is None else self.port)
        inner = _listening("127.0.0.1", 0)
        self._sockets = (public, inner)
        port, address = int(public.getsockname()[1]), f"127.0.0.1:{inner.getsockname()[1]}"
        secret, control, superexec = secrets.token_hex(32), secrets.token_hex(32), secrets.token_bytes(32)
        self._given = {
            "kit": str(self.kit.folder),
            "secret": secret,
            "control": control,
            "superexec": superexec.hex(),
            "public_fd": public.fileno(),
            "inner_fd": inner.fileno(),
        }
        self._office = Office(
            self.kit,
            OrderBook(self.kit.orders),
            TaskOffice(address, superexec),
            Control(address, SECRET_HEADER, control),
            make_bundle(),
            address,
            self.say,
        )
        self._start_link()
        if self._link is None or not self._link.wait_for("ready", _READY_S):
            raise RunError(f"the link process does not start: {self._why()} ({self.kit.logs / 'link.log'})")
        self._write_contact({"address": address, "secret": secret, "port": port, "pid": os.getpid()})
        self.say(f"listening on {self.kit.config.bind}:{port} for the sites of the roster")

    def _close(self) -> None:
        """End all children, the run's process first; the run goes on when the server is started again."""
        if self._keeper is not None:
            self._keeper.close()
        if hasattr(self, "_office"):
            self._office.tasks.close()
            self._office.control.close()
        if self._link is not None:
            self._link.end()
        for sock in getattr(self, "_sockets", ()):
            sock.close()
        self.kit.contact.unlink(missing_ok=True)

    def _start_link(self) -> None:
        """Start the link process. While it is not up, callers wait on the sockets, which are ours."""
        fds = [sock.fileno() for sock in self._sockets]
        self._link_starts = [*self._link_starts[-9:], time.monotonic()]
        self._link = Child("link", "server.link", self._given, self.kit.logs, fds=fds)

    def _why(self) -> str:
        return str(json.loads(self._link.heard.get("failed", '"see its log"'))) if self._link else ""

    def _write_contact(self, contact: dict[str, Any]) -> None:
        """Say, in a file that only the operators can read, how a command reaches this server."""
        group = group_id(self.kit.config.group)
        write_aside(self.kit.contact, json.dumps(contact))
        if group is not None:
            os.chown(self.kit.contact, -1, group)
            self.kit.contact.chmod(0o640)
            for folder in (self.kit.folder, self.kit.state):  # the group may pass, and see no names
                os.chown(folder, -1, group)
                folder.chmod(0o710)

    def _turn(self) -> None:
        self._look_after_link()
        self._warn()
        if self._keeper is None:
            waiting = self._office.orders.next_live()
            self._keeper = None if waiting is None else RunKeeper(self._office, waiting)
        if self._keeper is not None:
            self._keeper.turn()
            self._keeper = None if self._keeper.has_ended else self._keeper

    def _look_after_link(self) -> None:
        """Start the link process again where it has ended; later and later if that does not help."""
        if self._link is not None and self._link.code is not None:
            self.say(f"the link process ended with {self._link.code} ({self._why()}); it is started again")
            self._link.end()
            self._link = None
            recent = sum(time.monotonic() - at < _READY_S for at in self._link_starts)
            pause_s = 0.0 if recent < 3 else min(2.0 ** (recent - 3), _LONGEST_PAUSE_S)
            self._link_at = time.monotonic() + pause_s
        if self._link is None and time.monotonic() >= self._link_at:
            try:
                self._start_link()
            except OSError as error:
                self._link_at = time.monotonic() + _LONGEST_PAUSE_S
                self.say(f"the link process cannot be started ({error.strerror})")

    def _warn(self) -> None:
        if time.monotonic() < self._warned_at:
            return
        self._warned_at = time.monotonic() + _WARN_EVERY_S
        try:
            said = expiry_warning(load_certificate(self.kit.certificate), time.time())
        except UserError as error:
            said = str(error)
        if said:
            self.say(f"warning: {said}")


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise UserError(f"{host}:{port} cannot be listened on ({error.strerror})") from None
    sock.listen(128)
    return sock
