"""A site's first process without processes, server or time. Not a test."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients import up as up_module
from clients.inquiry import Found, Info
from clients.kit import SiteKit, load_kit, open_roster_book
from clients.kit_check import stamp_of
from clients.up import SiteUp
from protocol.bundle import bundle_digest, make_bundle
from tests.clients.agent_cases import kits

__all__ = ["kits"]


class Clock:
    """In the place of ``time``: sleeping takes none, and tells who wants to know."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def time(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Pass."""
        self.now += seconds
        assert self.now < 8000, "it never ends"
        self.slept()


class Process:
    """A process that can only be killed."""

    def __init__(self, child: FakeChild) -> None:
        self._child = child

    def kill(self) -> None:
        """End it."""
        self._child.code = -signal.SIGKILL


class FakeChild:
    """In the place of a child: does nothing, and notes its end."""

    def __init__(self, name: str, module: str, given: Any, logs: Path, fds: Any = ()) -> None:
        self.name, self.module, self.given, self.fds = name, module, dict(given), list(fds)
        self.heard: dict[str, Any] = {}
        self.code: int | None = None
        self.process = Process(self)
        self.ended = False
        self.heard_at = self.started_at = STAGE.clock.now
        STAGE.children.append(self)

    def end(self, within_s: float = 10.0) -> int:
        """End it."""
        self.ended = True
        self.code = self.code if self.code is not None else 0
        STAGE.ends.append(self.name)
        return self.code


class Stage:
    """What all see: the clock, the children, the server's answers, and what a person is told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.children: list[FakeChild] = []
        self.ends: list[str] = []
        self.said: list[str] = []
        self.asked = 0
        self.answer: Callable[[], Found] | Exception = httpx.ConnectError("refused")

    def ask(self, kit: SiteKit, probe: int = 0) -> Found:
        """In the place of ``inquiry.ask``."""
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer()

    def of(self, name: str) -> list[FakeChild]:
        """The children of this name, in order."""
        return [child for child in self.children if child.name == name]


STAGE = Stage()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """No process, no server and no time; the signals are as before at the end."""
    STAGE.__init__()  # type: ignore[misc]
    monkeypatch.setattr(up_module, "time", STAGE.clock)
    monkeypatch.setattr(up_module, "Child", FakeChild)
    monkeypatch.setattr(up_module, "ask", STAGE.ask)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield STAGE
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def up(stage: Stage, kits: Path, tmp_path: Path) -> SiteUp:
    """A site whose turns the test makes."""
    shutil.copytree(kits / "1" / "north", tmp_path / "north")
    made = SiteUp(load_kit(tmp_path / "north"), stage.said.append)
    open_roster_book(made.kit)
    made._used = made._seen = stamp_of(made.kit)
    made._given = {"kit": str(made.kit.folder), "runtime": "127.0.0.1:1", "runtime_fd": 7, "superexec": "00"}
    return made


def found(up: SiteUp, ahead_s: float = 0.0, **changes: Any) -> Callable[[], Found]:
    """What the server of the kit's federation and release answers."""
    said: dict[str, Any] = {
        "federation": "clinic", "version": "9.9", "protocol": 1, "flower": "1.41.0",
        "bundle": bundle_digest(make_bundle()), "epoch": 1, "time": 0.0,
        "roster": (up.kit.folder / "roster.json").read_text(),
    }  # fmt: skip
    return lambda: Found(Info.model_validate(said | changes), ahead_s, 80.0)


def turns(up: SiteUp, stage: Stage, seconds: float) -> None:
    """Let time pass."""
    until = stage.clock.now + seconds
    while stage.clock.now < until:
        up._turn()
        stage.clock.now += 0.1


def ends_after(up: SiteUp, stage: Stage, seconds: float) -> None:
    """Have the site be told to end, by a real signal."""
    until = stage.clock.now + seconds

    def slept() -> None:
        if stage.clock.now > until:
            os.kill(os.getpid(), signal.SIGTERM)

    stage.clock.slept = slept
