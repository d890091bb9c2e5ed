"""A SuperNode's naps: short while something happens, longer while nothing does, and never for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from clients import naps as naps_module
from clients.naps import IDLE_S, LONGEST_S, REPLY_S, Naps
from protocol.work import HOLD_S


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Sleep."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The naps' clock."""
    made = Clock()
    monkeypatch.setattr(naps_module, "time", SimpleNamespace(sleep=made.sleep, monotonic=lambda: made.now))
    return made


def never() -> None:
    """Nobody gives up in this test."""
    raise AssertionError("it gave up")


def test_idle_naps_grow_from_50_ms_to_half_a_second(clock: Clock) -> None:
    """And are short again once a message has come."""
    naps = Naps(never)
    for _ in range(30):
        naps.sleep(IDLE_S)
    assert clock.slept[0] == 0.05
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == 0.5
    assert sum(clock.slept[:10]) < 2
    naps.sleep(REPLY_S)
    naps.sleep(IDLE_S)
    assert clock.slept[-2:] == [0.02, 0.05]


def test_an_answer_is_looked_for_each_20_ms(clock: Clock) -> None:
    """Where Flower would wait for half a second; nothing is slept longer than it was asked to."""
    naps = Naps(never)
    naps.sleep(REPLY_S)
    naps.sleep(0.001)
    assert clock.slept == [0.02, 0.001]


def _wait(naps: Naps, clock: Clock, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    end = clock.now + seconds
    while clock.now < end and not until():
        naps.sleep(REPLY_S)


def test_an_answer_that_never_comes_is_given_up(clock: Clock) -> None:
    """Once, and not before an agent must have given one; then a new one is awaited."""
    gave_up: list[float] = []
    naps = Naps(lambda: gave_up.append(clock.now), longest_s=60)
    began = clock.now
    _wait(naps, clock, 59)
    assert gave_up == []
    _wait(naps, clock, 10)
    assert len(gave_up) == 1
    assert gave_up[0] - began == pytest.approx(60, abs=0.1)
    assert LONGEST_S > 5 * HOLD_S


@pytest.mark.parametrize("moves", ["a call to the server", "an idle nap"])
def test_a_supernode_that_gets_on_is_not_given_up(clock: Clock, moves: str) -> None:
    """However long it has been at it: each message has its own time."""
    naps = Naps(never, longest_s=60)
    for _ in range(10):
        _wait(naps, clock, 50)
        if moves == "an idle nap":
            naps.sleep(IDLE_S)
        else:
            naps.moved()


def test_all_else_is_the_time(clock: Clock) -> None:
    """The SuperNode may ask for other functions of the module that the naps replace."""
    del clock
    assert Naps(never).monotonic is naps_module.time.monotonic
    assert time.monotonic is not naps_module.time.monotonic
