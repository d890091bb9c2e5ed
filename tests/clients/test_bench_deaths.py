"""The agent's bench: whatever becomes of the worker, what was asked for is done or ends in words."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import RecordDict

from clients import bench as bench_module
from clients import worker_line
from clients.bench_work import Work
from protocol.errors import RunError
from tests.clients.bench_cases import WAIT_S, Desk, desk, said, until

__all__ = ["desk"]


def test_work_whose_worker_dies_is_done_again(desk: Desk) -> None:
    """By another worker, which is first told what the site remembers; nobody asks a second time."""
    assert said(desk.do("echo")) == {"count": "1"}
    before = desk.bench.worker
    work = desk.do("die.once")
    assert (work.state, work.deaths, work.share) == ("done", 1, None)
    assert said(work) == {"count": "2"}
    assert desk.bench.worker != before
    assert desk.bench.counters == {"pid": desk.bench.worker}
    assert desk.starts == 2


def test_a_worker_that_was_killed_between_works_is_replaced(desk: Desk) -> None:
    """It does not count as a death over the next work, or only as one."""
    desk.do("echo")
    assert desk.bench.worker is not None
    os.kill(desk.bench.worker, signal.SIGKILL)
    work = desk.do("echo", name="next")
    assert work.state == "done"
    assert said(work) == {"count": "2"}


def test_a_worker_that_was_killed_is_replaced_before_there_is_work(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the next message does not wait until torch is loaded."""
    monkeypatch.setattr(bench_module, "_MISSED_S", 0.01)
    desk.do("echo")
    before = desk.bench.worker
    assert before is not None
    os.kill(before, signal.SIGKILL)
    until(lambda: desk.starts == 2 and desk.bench.worker not in (None, before), "another worker")
    assert said(desk.do("echo", name="next")) == {"count": "2"}
    assert desk.starts == 2


@pytest.mark.parametrize("spawns", [True, False])
def test_a_worker_that_never_starts_is_tried_less_and_less_often(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, spawns: bool
) -> None:
    """Whether it ends itself or cannot even be spawned; until there is work again."""
    pauses: list[float] = []
    works = desk.bench._queue

    def take(timeout: float) -> Work | None:
        if timeout < WAIT_S:  # else from before it was made short
            pauses.append(timeout)
        return works.get(timeout=timeout)

    def fail() -> None:
        desk.bench._line.starts += spawns
        raise EOFError

    monkeypatch.setattr(bench_module, "_MISSED_S", 0.001)
    monkeypatch.setattr(bench_module, "_MOST_MISSED_S", 0.008)
    monkeypatch.setattr(desk.bench, "_queue", SimpleNamespace(get=take, put=works.put))
    desk.do("echo")
    monkeypatch.setattr(desk.bench._line, "open", fail)
    until(lambda: pauses.count(0.008) > 3, "the longest pause")
    seen = list(pauses)
    assert (sorted(set(seen)), seen) == ([0.001, 0.002, 0.004, 0.008], sorted(seen))
    assert desk.do("echo", name="fails").state == "failed"
    until(lambda: 0.001 in pauses[len(seen) :], "a short pause")


def test_a_worker_that_does_not_become_ready_is_not_kept(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives, and would swallow the next work; another is started."""
    desk.do("echo")
    (tmp_path / "slow-start").touch()
    monkeypatch.setattr(bench_module, "_MISSED_S", 0.01)
    monkeypatch.setattr(worker_line, "_READY_S", 0.2)
    before = desk.bench.worker
    assert before is not None
    desk.do("fail")  # from now on it is missed soon
    os.kill(before, signal.SIGKILL)
    until(lambda: desk.starts >= 3, "two that did not become ready")
    (tmp_path / "slow-start").unlink()
    assert desk.do("echo", name="next").state == "done"


def test_work_that_kills_three_workers_has_failed(desk: Desk) -> None:
    """It is given up, said so for a while, and the next work is done."""
    work = desk.do("die")
    assert (work.state, work.deaths) == ("failed", 3)
    assert work.why == "the worker died 3 times over it; its log says why"
    assert desk.starts == 3
    assert desk.bench.get(work.asked) is work
    assert desk.put("die") is work
    assert desk.do("echo").state == "done"


def test_a_worker_that_cannot_start_fails_the_work(desk: Desk, tmp_path: Path) -> None:
    """And once it can, it does."""
    desk.do("echo", name="first")
    (tmp_path / "no-start").touch()
    assert desk.bench.worker is not None
    os.kill(desk.bench.worker, signal.SIGKILL)
    assert desk.do("echo").state == "failed"
    (tmp_path / "no-start").unlink()
    assert desk.do("echo", name="again").state == "done"


def test_an_error_in_the_worker_is_told_by_its_name_alone(desk: Desk) -> None:
    """Its text may quote a row. The worker goes on."""
    work = desk.do("fail")
    assert (work.state, work.why) == ("failed", "ValueError in the worker; its log says more")
    assert desk.do("echo").state == "done"
    assert desk.starts == 1


@pytest.mark.parametrize("kind", ["odd", "garbage"])
def test_a_worker_that_talks_nonsense_leaves_nobody_waiting(desk: Desk, kind: str) -> None:
    """Too few pieces, or no frame at all: the work has failed, and another worker does the next."""
    assert desk.do(kind).state == "failed"
    before = desk.starts
    assert desk.do("echo").state == "done"
    assert desk.starts == before + 1


def test_a_failure_is_remembered_for_a_while(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the work may be asked for again."""
    first = desk.do("fail")
    assert desk.put("fail") is first
    monkeypatch.setattr(bench_module, "_REMEMBERED_S", 0.0)
    second = desk.put("fail")
    assert second is not first
    assert second.done.wait(WAIT_S)


def test_not_every_failure_is_remembered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten first."""
    monkeypatch.setattr(bench_module, "_MOST_REMEMBERED", 2)
    works = [desk.do("fail", name=str(number)) for number in range(3)]
    assert [desk.bench.get(work.asked) is work for work in works] == [False, True, True]


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("secret"), RunError("a file is lost")])
def test_whatever_fails_around_the_worker_ends_the_work(desk: Desk, error: Exception) -> None:
    """The memory cannot be read, the result not be kept: nobody waits for ever, and no text leaks."""
    desk.do("echo", name="first")
    desk.fail = error
    same_run, other_run = desk.do("echo"), desk.do("echo", run="s", name="s")
    assert (same_run.state, other_run.state) == ("failed", "failed")
    assert "secret" not in same_run.why + other_run.why
    assert type(error).__name__ in same_run.why
    if isinstance(error, RunError):
        assert other_run.why == "a file is lost"
    desk.fail = None
    assert desk.do("echo", name="again").state == "done"


@pytest.mark.parametrize("why", ["refused", "not kept"])
def test_what_was_not_kept_is_not_remembered_by_the_worker_either(desk: Desk, why: str) -> None:
    """After a refusal, and a result that could not be kept, the worker starts from the site's memory."""
    assert said(desk.do("echo", name="1")) == {"count": "1"}
    if why == "refused":
        desk.refuse = RecordDict()
    else:
        desk.fail = OSError("disk full")
    assert said(desk.do("echo", name="2")) == {"count": "2"}
    desk.refuse = desk.fail = None
    assert said(desk.do("echo", name="3")) == {"count": "2"}
    assert desk.starts == 1


def test_each_run_has_its_own_memory(desk: Desk) -> None:
    """A worker that turns to another run and back knows what the site knows."""
    desk.memory["s"] = {"count": b"7", "local": b"model"}
    assert said(desk.do("echo", run="r", name="1")) == {"count": "1"}
    assert said(desk.do("echo", run="s", name="2")) == {"count": "8", "local": "model"}
    assert said(desk.do("echo", run="r", name="3")) == {"count": "2"}


def test_closing_ends_a_worker_in_the_middle_of_work(desk: Desk) -> None:
    """At once, whatever it does."""
    work = desk.put("slow")
    until(lambda: work.share is not None)
    began, pid = time.monotonic(), desk.bench.worker
    desk.bench.close()
    assert time.monotonic() < began + 5
    assert pid is not None
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        pytest.fail("the worker lives")
