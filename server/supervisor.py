"""The server's first process: it starts the others, keeps the run's token, and replaces what dies.

Its children are the link process and, while a run is worked on, the process that runs the ServerApp. One run
is worked on at a time, in the order of submission; the others wait.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from protocol.bundle import make_bundle
from protocol.children import Child
from protocol.errors import ConfigError, RunError, UserError
from server.flwr_adapter.runtime import COMPLETED, FAILED, STOPPED, Control, Task, TaskOffice
from server.inner import SECRET_HEADER
from server.kit import ServerKit, group_id, make_folders
from server.orders import LIVE, Order, OrderBook, State, write_aside

logger = logging.getLogger("consilium.server")

_TURN_S = 0.1
_BEAT_S = 10.0  # a token that is not heard of for 60 s is taken away
_READY_S = 60.0
_STOP_S = 60.0  # how long a run that is to stop may take to do so by itself
_MOST_STARTS = 50
_LONGEST_PAUSE_S = 30.0
# How the process that works on a run ends: with any other code it died, and another takes its place.
DONE, FAILED_CODE, STOPPED_CODE = 0, 1, 3
_ENDS: dict[int, tuple[State, str]] = {
    DONE: ("finished", COMPLETED),
    FAILED_CODE: ("failed", FAILED),
    2: ("failed", FAILED),
    STOPPED_CODE: ("stopped", STOPPED),
}


@dataclass
class _Work:
    """The run that is being worked on."""

    order: Order
    task: Task | None = None
    child: Child | None = None
    beat_at: float = 0.0
    next_at: float = 0.0
    stop_by: float | None = None


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
    _work: _Work | None = None
    _link_starts: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; every child has ended when this returns.

        Raises:
            UserError: the kit, the port or the group cannot be used, or another server uses the kit.
            RunError: the link process does not start.
        """
        make_folders(self.kit)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        with _only_one(self.kit.state / "lock"):
            self._open()
            try:
                while not self._ended:
                    self._turn()
                    time.sleep(_TURN_S)
            finally:
                self._close()

    def _end(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  a signal handler's
        self._ended = True

    def _open(self) -> None:
        self._orders = OrderBook(self.kit.orders)
        public = _listening(self.kit.config.bind, self.kit.config.port if self.port is None else self.port)
        inner = _listening("127.0.0.1", 0)
        self._sockets = (public, inner)
        self._public_port = int(public.getsockname()[1])
        self._address = f"127.0.0.1:{inner.getsockname()[1]}"
        self._secret, superexec = secrets.token_hex(32), secrets.token_bytes(32)
        self._given = {
            "kit": str(self.kit.folder),
            "secret": self._secret,
            "superexec": superexec.hex(),
            "public_fd": public.fileno(),
            "inner_fd": inner.fileno(),
        }
        self._bundle = make_bundle()
        self._office = TaskOffice(self._address, superexec)
        self._control = Control(self._address, SECRET_HEADER, self._secret)
        self._start_link()
        self._write_contact()
        self.say(f"listening on {self.kit.config.bind}:{self._public_port} for the sites of the roster")

    def _close(self) -> None:
        """End all children: the run's first, so that it can still say farewell."""
        if self._work is not None and self._work.child is not None:
            self._work.child.end()
        self._office.close()
        self._control.close()
        self._link.end()
        for sock in self._sockets:
            sock.close()
        self.kit.contact.unlink(missing_ok=True)

    def _start_link(self) -> None:
        fds = [sock.fileno() for sock in self._sockets]
        self._link_starts = [*self._link_starts[-9:], time.monotonic()]
        self._link = Child("link", "server.link", self._given, self.kit.logs, fds=fds)
        if not self._link.wait_for("ready", _READY_S):
            why = json.loads(self._link.heard.get("failed", '"see its log"'))
            self._link.end()
            raise RunError(f"the link process does not start: {why} ({self.kit.logs / 'link.log'})")

    def _write_contact(self) -> None:
        """Say, in a file that only the operators can read, how a command reaches this server."""
        contact = {
            "address": self._address,
            "secret": self._secret,
            "port": self._public_port,
            "pid": os.getpid(),
        }
        group = group_id(self.kit.config.group)
        write_aside(self.kit.contact, json.dumps(contact))
        if group is not None:
            os.chown(self.kit.contact, -1, group)
            self.kit.contact.chmod(0o640)
            for folder in (self.kit.folder, self.kit.state):  # the group may pass, and see no names
                os.chown(folder, -1, group)
                folder.chmod(0o710)

    def _turn(self) -> None:
        if self._link.code is not None:
            logger.warning("the link process ended with %s; it is started again", self._link.code)
            self._link.end()
            recent = [at for at in self._link_starts if time.monotonic() - at < _READY_S]
            time.sleep(0.0 if len(recent) < 3 else min(2.0 ** (len(recent) - 3), _LONGEST_PAUSE_S))
            self._start_link()
        if self._work is None:
            waiting = next((order for order in self._orders.all() if order.state in LIVE), None)
            self._work = None if waiting is None else _Work(waiting)
        if self._work is not None:
            self._carry_on(self._work)

    def _carry_on(self, work: _Work) -> None:
        """Do what the run needs next."""
        self._heed_stop(work)
        if self._work is None:
            return
        self._keep_token(work)
        if work.child is not None:
            code = work.child.code
            if code is not None:
                self._ended_with(work, code)
            return
        if time.monotonic() < work.next_at:
            return
        if work.task is None:
            self._take_task(work)
        else:
            self._start(work)

    def _heed_stop(self, work: _Work) -> None:
        if not self._orders.is_to_stop(work.order.run):
            return
        if work.child is None:
            self._finish(work, "stopped", STOPPED)
        elif work.stop_by is None:
            work.stop_by = time.monotonic() + _STOP_S  # the process sees the mark by itself
            self._put(work, state="stopping")
        elif time.monotonic() > work.stop_by:
            work.child.end()
            self._finish(work, "stopped", STOPPED)

    def _keep_token(self, work: _Work) -> None:
        """Say that the task is alive; when Flower has taken it away, begin another Flower run for it."""
        if work.task is None or time.monotonic() < work.beat_at:
            return
        known = self._office.beat(work.task)
        work.beat_at = time.monotonic() + (_BEAT_S if known else 1.0)
        if known is False:
            logger.warning("run %s: Flower gave its task away; another Flower run is begun", work.order.run)
            if work.child is not None:
                work.child.end()
            work.child = work.task = None

    def _take_task(self, work: _Work) -> None:
        """Begin a Flower run for the order and take its task."""
        if work.order.flower_run is not None:
            self._control.stop(work.order.flower_run)
        flower_run = self._control.start(self._bundle, work.order.run)
        if flower_run is None:
            work.next_at = time.monotonic() + 1.0
            return
        self._put(work, flower_run=flower_run)
        until = time.monotonic() + _READY_S
        while time.monotonic() < until and work.task is None:
            task = self._office.acquire()
            if task is not None and task.flower_run == flower_run:
                work.task = task
            elif task is not None:
                self._office.finish(task, STOPPED, "of a server that was ended")
            else:
                time.sleep(_TURN_S)

    def _start(self, work: _Work) -> None:
        """Start a process that works on the run."""
        assert work.task is not None  # noqa: S101  the caller has looked
        run, starts = work.order.run, work.order.starts + 1
        if starts > _MOST_STARTS:
            self._finish(work, "failed", FAILED, f"its process died {_MOST_STARTS} times")
            return
        folder = self.kit.runs / run
        if folder.exists():
            kept = f"{run}.interrupted-{work.order.starts}"
            folder.rename(self.kit.runs / kept)
            self._put(work, kept=(*work.order.kept, kept))
        self._put(work, state="running" if work.stop_by is None else "stopping", starts=starts)
        task = work.task
        given: dict[str, Any] = {
            "kit": str(self.kit.folder),
            "address": self._address,
            "run": run,
            "lease": starts,
            "baselines": work.order.baselines,
            "task": [task.token, task.task_id, task.flower_run, task.node_id, task.run],
        }
        work.child = Child(f"run-{run}", "server.serve", given, self.kit.logs)
        self.say(f"run {run}: started" + (f" again, for the {starts}. time" if starts > 1 else ""))

    def _ended_with(self, work: _Work, code: int) -> None:
        child = work.child
        assert child is not None  # noqa: S101  the caller has looked
        child.end()
        if code in _ENDS:
            state, how = _ENDS[code]
            self._finish(work, state, how, str(child.heard.get("why", "")))
            return
        work.child = None
        lasted_s = time.monotonic() - child.started_at
        pause_s = (
            0.0
            if lasted_s > _LONGEST_PAUSE_S
            else min(0.5 * 2 ** min(work.order.starts, 8), _LONGEST_PAUSE_S)
        )
        work.next_at = time.monotonic() + (0.0 if work.order.starts < 3 else pause_s)
        logger.warning("run %s: its process died with code %s and is replaced", work.order.run, code)

    def _finish(self, work: _Work, state: State, how: str, why: str = "") -> None:
        if work.task is not None:
            self._office.finish(work.task, how, why)
        if work.order.flower_run is not None and work.task is None:
            self._control.stop(work.order.flower_run)
        self._put(work, state=state, why=why)
        self.say(f"run {work.order.run}: {state}{f': {why}' if why else ''}")
        self._work = None

    def _put(self, work: _Work, **changes: Any) -> None:
        since = {"since": time.time()} if changes.get("state", work.order.state) != work.order.state else {}
        work.order = work.order.model_copy(update={**changes, **since})
        self._orders.put(work.order)


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


class _only_one:  # noqa: N801  used as a word: with _only_one(path)
    """Holds a lock on a file for as long as the process lives, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("w", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(f"{self._path.parent.parent}: another server uses this kit already") from None

    def __exit__(self, *error: object) -> None:
        self._file.close()
