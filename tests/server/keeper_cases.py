"""A run that is kept going, over a Flower and processes that the test holds in its hands. Not a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from server import run_keeper
from server.flwr_adapter.runtime import Control, Task, TaskOffice
from server.kit import ServerConfig, ServerKit, make_folders
from server.orders import Order, OrderBook
from server.run_keeper import Office, RunKeeper

RUN = "r1"


@dataclass
class FakeChild:
    """A process that ends when the test says so."""

    given: dict[str, Any]
    started_at: float
    code: int | None = None
    heard: dict[str, Any] = field(default_factory=dict)
    ended: int = 0

    def end(self) -> int:
        """As the real one's."""
        self.ended += 1
        self.code = -15 if self.code is None else self.code
        return self.code


class World:
    """A server with one submitted run; its clock stands still until the test moves it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 1000.0
        self.kit = ServerKit(folder, ServerConfig(name="clinic", hosts=("a.org",), port=8443))
        make_folders(self.kit)
        self.orders = OrderBook(self.kit.orders)
        self.orders.submit(RUN, "text", 1.0)
        self.children: list[FakeChild] = []
        self.calls: list[tuple[Any, ...]] = []
        self.said: list[str] = []
        self.waiting: list[Task] = []
        self.known: bool | None = True
        self.starts = True
        self.offers = True
        self.no_process = False
        self._runs = 100
        self.on_call = lambda: None
        monkeypatch.setattr(run_keeper.time, "monotonic", lambda: self.at)
        monkeypatch.setattr(run_keeper, "Child", self._child)
        self.keeper = self.new_keeper()

    def new_keeper(self) -> RunKeeper:
        """What a server that was just started has for the order that is next."""
        order = self.orders.next_live()
        assert order is not None
        tasks, control = cast("TaskOffice", cast("Any", self)), cast("Control", cast("Any", self))
        office = Office(self.kit, self.orders, tasks, control, b"bundle", "127.0.0.1:1", self.said.append)
        return RunKeeper(office, order)

    # As TaskOffice and Control.

    def acquire(self) -> Task | None:
        """The next task that waits."""
        return self.waiting.pop(0) if self.waiting and self.offers else None

    def beat(self, task: Task) -> bool | None:
        """Whether the task is known."""
        self.calls.append(("beat", task.flower_run))
        return self.known

    def finish(self, task: Task, how: str, details: str = "") -> None:
        """Note how a task ends."""
        self.on_call()
        self.calls.append(("finish", task.flower_run, how, details))

    def start(self, bundle: bytes, run: str) -> int | None:
        """Begin a run of Flower's."""
        if not self.starts:
            return None
        self._runs += 1
        self.calls.append(("start", self._runs))
        self.waiting.append(Task(f"token-{self._runs}", 1, self._runs, 1, run))
        return self._runs

    def stop(self, flower_run: int) -> None:
        """Note that a run of Flower's is stopped."""
        self.on_call()
        self.calls.append(("stop", flower_run))

    def _child(self, name: str, module: str, given: dict[str, Any], logs: Path) -> FakeChild:
        assert (name, module, logs) == (f"run-{RUN}", "server.serve", self.kit.logs)
        if self.no_process:
            raise OSError(11, "Resource temporarily unavailable")
        self.children.append(FakeChild(given, self.at))
        return self.children[-1]

    # What the test does and sees.

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass and do what is next."""
        self.at += seconds
        self.keeper.turn()

    def work(self) -> FakeChild:
        """Go on until a process works on the run; return it."""
        before = len(self.children)
        for _ in range(100):
            if len(self.children) > before:
                return self.children[-1]
            self.turn(1)
        raise AssertionError(self.said)

    def die(self, code: int = -9, why: str = "", lived_s: float = 0.0) -> float:
        """Have the process that works on the run die; return the pause until there is another."""
        self.at += lived_s
        self.children[-1].code = code
        self.children[-1].heard = {"why": why} if why else {}
        died_at = self.at
        self.turn()
        if self.keeper.has_ended:
            return 0.0
        self.work()
        return self.at - died_at

    @property
    def order(self) -> Order:
        """The order as it lies on the disk."""
        found = self.orders.get(RUN)
        assert found is not None
        return found

    def named(self, *names: str) -> list[tuple[Any, ...]]:
        """The calls of Flower by name, without the beats unless asked for."""
        wanted = names or ("start", "stop", "finish")
        return [call for call in self.calls if call[0] in wanted]
