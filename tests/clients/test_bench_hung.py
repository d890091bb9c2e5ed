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
    desk.bench.keep_only("s")
    assert waiting.state == "cancelled"
    assert desk.bench.get(old.asked) is None
    new = desk.bench.put(Work("s", "echo", "task", waiting.asked, (b"",)))
    assert new is not waiting
    assert new.done.wait(WAIT_S)
    assert (old.state, new.state) == ("cancelled", "done")
    desk.bench.keep_only("s")
    failed = desk.do("fail", run="s")
    assert desk.bench.get(failed.asked, failed.previous) is failed
    desk.bench.keep_only("r")
    assert desk.bench.get(failed.asked, failed.previous) is None


def test_what_the_next_process_of_the_server_does_not_ask_for_gives_way(desk: Desk) -> None:
    """The same question goes on and counts for it; another one ends it. A failure may be asked for again."""
    desk.bench._heed_s = 0.3
    failed = desk.do("fail")
    old = desk.put("deaf")
    until(lambda: old.state == "working")
    desk.bench.serve("r", 2)
    desk.bench.serve("s", 9)
    desk.bench.serve("r", 1)
    assert old.serves == 2
    assert desk.bench.get(failed.asked) is None
    assert desk.put("deaf") is old
    assert not old.unwanted
    new = desk.bench.put(Work("r", "echo", "task", b"n" * 32, (b"",), 2))
    assert new.done.wait(WAIT_S)
    assert (old.state, old.stale, new.state) == ("cancelled", True, "done")
    assert old not in desk.kept


def test_the_same_process_may_ask_for_two_things(desk: Desk) -> None:
    """They are done in turn, whichever run a late message is of."""
    first, second = desk.put("slow"), desk.put("echo")
    until(lambda: first.state == "working")
    late = desk.bench.put(Work("before", "echo", "task", b"l" * 32, (b"",), 7))
    assert not first.unwanted
    assert not second.unwanted
    desk.bench.cancel(first.asked)
    assert late.done.wait(WAIT_S)
    assert [work.state for work in (first, second, late)] == ["done", "done", "done"]


def test_the_same_question_from_another_memory_is_other_work(desk: Desk) -> None:
    """What was worked on from the first one is not waited for."""
    desk.bench._heed_s = 0.3
    old = desk.put("deaf")
    until(lambda: old.state == "working")
    assert desk.bench.get(old.asked, b"v" * 32) is None
    new = desk.bench.put(Work("r", "echo", "task", old.asked, (b"",), previous=b"v" * 32))
    assert new is not old
    assert desk.bench.get(new.asked, b"v" * 32) is new
    assert new.done.wait(WAIT_S)
    assert (old.state, new.state) == ("cancelled", "done")


def test_the_worker_is_told_the_memory_of_another_version(desk: Desk) -> None:
    """And not that of the version which it left behind itself, or had before a query that changed it."""
    assert said(desk.do("echo", name="1")) == {"count": "1"}
    assert said(desk.do("echo", name="2")) == {"count": "2"}
    assert desk.told == 1
    desk.memory["r"], desk.versions["r"] = {"count": b"7"}, b"v" * 32
    assert said(desk.do("echo", name="3")) == {"count": "8"}
    assert desk.told == 2
    at = desk.versions["r"]
    looked = desk.bench.put(Work("r", "query.echo", "task", b"q" * 32, (b"",), previous=at))
    assert looked.done.wait(WAIT_S)
    desk.memory["r"], desk.versions["r"] = {"count": b"8"}, at  # what a query changed is not kept
    assert said(desk.do("echo", name="4")) == {"count": "9"}
    assert desk.told == 3


def test_work_from_a_memory_that_is_not_here_is_refused(desk: Desk) -> None:
    """Before the worker hears of it; that one goes on."""
    desk.do("echo", name="1")
    worker, desk.lacks = desk.bench.worker, desk.versions["r"]
    work = desk.do("echo", name="2")
    assert (work.state, work.code, work.why) == ("failed", "state", "not here")
    desk.lacks = None
    assert said(desk.do("echo", name="3")) == {"count": "2"}
    assert desk.bench.worker == worker


def test_work_shows_nothing_of_its_content() -> None:
    """Neither the question nor the answer, nor what the site remembers."""
    work = Work("r", "k", "t", b"a", (b"secret",), answer=(b"secret",), changed={"local": b"secret"})
    assert "secret" not in repr(work)
    assert Path(worker_line.WORKER).name == "clients.worker"
