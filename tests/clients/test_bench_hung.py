"""The agent's bench: a worker that hangs is ended, and nobody waits for it meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clients import worker_line
from clients.bench_work import Work
from tests.clients.bench_cases import WAIT_S, Desk, desk, said, until

__all__ = ["desk"]


def test_work_that_does_not_stop_is_stopped(desk: Desk) -> None:
    """Its worker is ended after a while, though it says how far it is; the work is not done again."""
    desk.bench._heed_s = 0.3
    work = desk.put("deaf")
    until(lambda: work.share is not None)
    began = time.monotonic()
    assert desk.bench.cancel(work.asked)
    assert time.monotonic() < began + 0.2
    assert work.done.wait(WAIT_S)
    assert (work.state, work.deaths) == ("cancelled", 0)
    assert time.monotonic() > began + 0.3
    assert desk.do("echo").state == "done"
    assert desk.starts == 2


def test_a_worker_that_says_nothing_counts_as_dead(desk: Desk) -> None:
    """After hours: its work is given to another, a few times."""
    desk.bench._silent_s = 0.3
    work = desk.do("mute")
    assert (work.state, work.deaths, desk.starts) == ("failed", 3, 3)
    desk.bench._silent_s = 30.0
    assert desk.do("echo").state == "done"


def test_a_worker_that_says_how_far_it_is_may_take_longer(desk: Desk) -> None:
    """Each word counts anew."""
    desk.bench._silent_s = 0.4
    work = desk.put("deaf")
    assert not work.done.wait(1.2)
    desk.bench._heed_s = 0.0
    desk.bench.cancel(work.asked)
    assert work.done.wait(WAIT_S)


def test_a_worker_that_takes_nothing_is_replaced(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long work that it does not read is given to another, and may be cancelled meanwhile without waiting."""
    monkeypatch.setattr(worker_line, "_STUCK_S", 1)
    desk.do("echo")
    assert desk.bench.worker is not None
    os.kill(desk.bench.worker, signal.SIGKILL)  # the bound holds for lines that are opened from now on
    desk.do("numb")
    first = desk.bench.put(Work("r", "echo", "task", b"1" * 32, (b"x" * 2**22,)))
    until(lambda: first.state == "working")
    began = time.monotonic()
    assert desk.bench.cancel(b"1" * 32)
    assert time.monotonic() < began + 0.5
    assert first.done.wait(WAIT_S)
    assert first.state == "cancelled"
    desk.do("numb", name="again")
    second = desk.bench.put(Work("r", "echo", "task", b"2" * 32, (b"x" * 2**22,)))
    assert second.done.wait(WAIT_S)
    assert (second.state, second.deaths) == ("done", 1)


def test_a_bench_that_fails_leaves_nobody_waiting(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits, what is in hand and what comes later ends as failed; the bench says that it is broken."""
    assert not desk.bench.broken
    go_on = threading.Event()

    def fail(work: Any) -> None:
        go_on.wait(WAIT_S)
        raise MemoryError

    monkeypatch.setattr(desk.bench, "_try", fail)
    works = [desk.put("echo", name=str(number)) for number in range(3)]
    go_on.set()
    works += [desk.do("echo", name="late")]
    for work in works:
        assert work.done.wait(WAIT_S)
        assert (work.state, work.why) == ("failed", "the site's agent has failed and is started again")
    until(lambda: desk.bench.broken)
    assert desk.do("echo", name="later").state == "failed"


def test_what_another_run_left_does_not_keep_the_next_waiting(desk: Desk) -> None:
    """What waits ends at once, what is in hand is stopped, and the same may be asked anew at once."""
    desk.bench._heed_s = 0.3
    old, waiting = desk.put("deaf"), desk.put("echo")
    until(lambda: old.state == "working")
    desk.bench.keep_only("r", 2)
    assert waiting.state == "cancelled"
    assert desk.bench.get(old.asked) is None
    new = desk.bench.put(Work("r", "echo", "task", waiting.asked, (b"",), 2))
    assert new is not waiting
    assert new.done.wait(WAIT_S)
    assert (old.state, new.state) == ("cancelled", "done")
    desk.bench.keep_only("r", 2)
    assert desk.do("fail").state == "failed"
    desk.bench.keep_only("s", 1)
    assert desk.bench.get(desk.digest("fail")) is None


def test_memory_that_changed_otherwise_is_told_anew(desk: Desk) -> None:
    """The worker goes on from it."""
    assert said(desk.do("echo", name="1")) == {"count": "1"}
    desk.memory["r"] = {"count": b"7"}
    assert said(desk.do("echo", name="2")) == {"count": "2"}
    desk.memory["r"] = {"count": b"7"}
    desk.bench.forget()
    assert said(desk.do("echo", name="3")) == {"count": "8"}


def test_work_shows_nothing_of_its_content() -> None:
    """Neither the question nor the answer, nor what the site remembers."""
    work = Work("r", "k", "t", b"a", (b"secret",), answer=(b"secret",), changed={"local": b"secret"})
    assert "secret" not in repr(work)
    assert Path(worker_line.WORKER).name == "clients.worker"
