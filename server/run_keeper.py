"""One run being worked on: its task at Flower, the process that works on it, and what if either is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from protocol.children import Child
from server import exit_codes
from server.flwr_adapter.runtime import COMPLETED, FAILED, STOPPED, Control, Task, TaskOffice
from server.kit import ServerKit
from server.orders import Order, OrderBook, State

_BEAT_S = 10.0  # a token that is not heard of for 60 s is taken away
_TASK_S = 60.0
_STOP_S = 60.0  # how long a run that is to stop may take to do so by itself
_AGAIN_S = 10.0  # between two tries to write down that a run has ended
_MOST_STARTS, _MOST_BROKEN = 50, 5
_STEADY_S, _LONGEST_PAUSE_S = 30.0, 30.0
_WAIT_S = 5.0
_LONG_S = 600.0  # a process that lived so long was no failure to start
_ENDS: dict[int, tuple[State, str]] = {
    exit_codes.DONE: ("finished", COMPLETED),
    exit_codes.FAILED: ("failed", FAILED),
    exit_codes.USERS: ("failed", FAILED),
    exit_codes.STOPPED: ("stopped", STOPPED),
}


@dataclass(frozen=True)
class Office:
    """What a run needs of the server around it."""

    kit: ServerKit
    orders: OrderBook
    tasks: TaskOffice
    control: Control
    bundle: bytes
    address: str
    say: Callable[[str], None]


@dataclass
class RunKeeper:
    """Keeps one run going until it has ended.

    Args:
        office: what the server has.
        order: the run's.
    """

    office: Office
    order: Order
    task: Task | None = None
    child: Child | None = None
    has_ended: bool = False
    _beat_at: float = 0.0
    _next_at: float = 0.0
    _task_by: float = field(default=0.0)
    _stop_by: float | None = None
    _broken: int = 0
    _is_written: bool = True  # the order on the disk is the one here
    _how: str | None = None  # how it has ended, in Flower's word

    def turn(self) -> None:
        """Do what the run needs next; nothing here waits for long."""
        if self._how is None:
            self._heed_stop()
        if self._how is not None:
            self._close_books(self._how)
            return
        self._keep_token()
        if self.child is not None:
            if (code := self.child.code) is not None:
                self._child_ended(self.child, code)
        elif time.monotonic() >= self._next_at:
            if self.task is None:
                self._take_task()
            else:
                self._start(self.task)

    def close(self) -> None:
        """End the process that works on it; the run goes on when the server is started again."""
        if self.child is not None:
            self.child.end()

    def _heed_stop(self) -> None:
        if not self.office.orders.is_to_stop(self.order.run):
            return
        if self.child is None:
            self._finish("stopped", STOPPED)
        elif self._stop_by is None:
            self._stop_by = time.monotonic() + _STOP_S  # the process sees the mark by itself
            self._put(state="stopping")
        elif time.monotonic() > self._stop_by:
            self.child.end()
            self._finish("stopped", STOPPED)

    def _keep_token(self) -> None:
        """Say that the task is alive; when Flower has taken it away, begin another Flower run for it."""
        if self.task is None or time.monotonic() < self._beat_at:
            return
        known = self.office.tasks.beat(self.task)
        self._beat_at = time.monotonic() + (_BEAT_S if known else 1.0)
        if known is False:
            self.office.say(f"run {self.order.run}: Flower gave its task away; another Flower run is begun")
            self.close()
            self.child = self.task = None
            self._task_by = 0.0

    def _take_task(self) -> None:
        """Begin a Flower run for the order where there is none yet, and take its task."""
        if time.monotonic() > self._task_by:
            if self.order.flower_run is not None:
                self.office.control.stop(self.order.flower_run)
            flower_run = self.office.control.start(self.office.bundle, self.order.run)
            if flower_run is None:
                self._next_at = time.monotonic() + 1.0
                return
            self._put(flower_run=flower_run)
            self._task_by = time.monotonic() + _TASK_S
        task = self.office.tasks.acquire()
        if task is not None and task.flower_run == self.order.flower_run:
            self.task = task
        elif task is not None:
            self.office.tasks.finish(task, STOPPED, "of a server that was ended")

    def _start(self, task: Task) -> None:
        """Start a process that works on the run."""
        run, starts = self.order.run, self.order.starts + 1
        if starts > _MOST_STARTS:
            self._finish("failed", FAILED, f"its process died {_MOST_STARTS} times")
            return
        self._put(state="running" if self._stop_by is None else "stopping", starts=starts)
        given: dict[str, Any] = {
            "kit": str(self.office.kit.folder),
            "address": self.office.address,
            "run": run,
            "baselines": self.order.baselines,
            "task": [task.token, task.task_id, task.flower_run, task.node_id, task.run],
        }
        try:
            self.child = Child(f"run-{run}", "server.serve", given, self.office.kit.logs)
        except OSError as error:
            self._next_at = time.monotonic() + _LONGEST_PAUSE_S
            self.office.say(f"run {run}: no process can be started for it ({error.strerror})")
            return
        self.office.say(f"run {run}: started" + (f" again, for the {starts}. time" if starts > 1 else ""))

    def _child_ended(self, child: Child, code: int) -> None:
        child.end()
        self._broken = self._broken + 1 if code == exit_codes.BROKEN else 0
        why = str(child.heard.get("why", ""))
        if code in _ENDS:
            self._finish(*_ENDS[code], why)
            return
        if self._broken >= _MOST_BROKEN:
            self._finish("failed", FAILED, why)
            return
        self.child = None
        lived_s = time.monotonic() - child.started_at
        if code == exit_codes.WAIT or lived_s > _LONG_S:
            self._put(starts=0 if lived_s > _LONG_S else self.order.starts - 1)
        if code == exit_codes.WAIT:
            self._next_at = time.monotonic() + _WAIT_S
            self.office.say(f"run {self.order.run}: {why}; tried again")
            return
        steady = lived_s > _STEADY_S
        pause_s = 0.0 if steady or self.order.starts < 3 else min(2.0**self.order.starts, _LONGEST_PAUSE_S)
        self._next_at = time.monotonic() + pause_s
        self.office.say(
            f"run {self.order.run}: its process died with code {code}{f' ({why})' if why else ''}"
        )

    def _finish(self, state: State, how: str, why: str = "") -> None:
        self._how, self._next_at = how, time.monotonic() + _AGAIN_S
        self._put(state=state, why=why)
        self._close_books(how)
        self.office.say(f"run {self.order.run}: {state}{f': {why}' if why else ''}")

    def _close_books(self, how: str) -> None:
        """Write down that the run has ended before Flower is told: else it would be done again."""
        if self.has_ended:
            return
        if not self._is_written and time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + _AGAIN_S
            self._put()
        if not self._is_written:
            return
        self.has_ended = True
        if self.task is not None:
            self.office.tasks.finish(self.task, how, self.order.why)
        elif self.order.flower_run is not None:
            self.office.control.stop(self.order.flower_run)

    def _put(self, **changes: Any) -> None:
        since = {"since": time.time()} if changes.get("state", self.order.state) != self.order.state else {}
        self.order = self.order.model_copy(update={**changes, **since})
        try:
            self.office.orders.put(self.order)
            self._is_written = True
        except OSError as error:  # a full disk must not end the server, nor the run that may make room
            self._is_written = False
            self.office.say(f"run {self.order.run}: its order cannot be written ({error.strerror})")
