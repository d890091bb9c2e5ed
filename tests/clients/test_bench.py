"""The agent's bench: what is asked for is done or ends in words, whatever becomes of the worker."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from clients import frames
from tests.clients.bench_cases import WAIT_S, Desk, desk, until

__all__ = ["desk"]


def test_work_is_done_in_order_by_one_worker(desk: Desk) -> None:
    """Its parts come back whole, what it changed in the memory beside them, and its counters."""
    works = [desk.put("echo", name=str(number)) for number in range(3)]
    assert all(work.done.wait(WAIT_S) for work in works)
    assert [work.answer[1] for work in works] == [b"0", b"1", b"2"]
    assert desk.kept == works
    assert works[2].changed == {"count": b"3", "old": None}
    assert [work.state for work in works] == ["done"] * 3
    assert desk.bench.counters == {"pid": desk.bench.worker}
    assert desk.starts == 1
    assert desk.bench.get(works[0].asked) is None


def test_the_same_work_is_not_done_twice_at_once(desk: Desk) -> None:
    """Asked for again while it waits or is worked on, it is the same work."""
    first = desk.put("slow")
    waiting = desk.put("echo")
    until(lambda: first.state == "working")
    assert desk.put("slow") is first
    assert desk.put("echo") is waiting
    assert desk.bench.get(waiting.asked) is waiting
    desk.bench.cancel(first.asked)
    assert waiting.done.wait(WAIT_S)
    assert len(desk.kept) == 2


def test_progress_is_that_of_the_work_itself(desk: Desk) -> None:
    """Share, seconds and what is left; what the worker says of other work does not count."""
    work = desk.put("slow")
    assert work.eta_s() is None
    assert work.worked_s() == 0
    until(lambda: work.share is not None)
    assert work.share == 0.25
    assert work.state == "working"
    spent, left = work.worked_s(), work.eta_s()
    assert left is not None
    assert 3 * spent <= left <= 3 * work.worked_s()
    desk.bench.cancel(work.asked)
    assert work.done.wait(WAIT_S)
    assert work.share == 0.25
    assert work.eta_s() is None


def test_waiting_work_is_cancelled_at_once(desk: Desk) -> None:
    """Before its turn has come; the one before it goes on, and nothing is heard of it any more."""
    first, second = desk.put("slow"), desk.put("echo")
    until(lambda: first.state == "working")
    assert desk.bench.cancel(second.asked)
    assert second.done.is_set()
    assert (second.state, second.why) == ("cancelled", "the server no longer wants it")
    assert not first.done.is_set()
    desk.bench.cancel(first.asked)
    desk.do("echo", name="after")
    assert second not in desk.kept
    assert second.answer == ()


def test_work_in_hand_is_told_to_stop(desk: Desk) -> None:
    """The worker hears of it while it works, and its answer says so."""
    work = desk.put("slow")
    until(lambda: work.share is not None)
    assert desk.bench.cancel(work.asked)
    assert work.done.wait(WAIT_S)
    assert desk.starts == 1
    assert not desk.bench.cancel(work.asked)
    assert not desk.bench.cancel(b"unknown")


def test_work_is_cancelled_while_its_worker_starts(desk: Desk, tmp_path: Path) -> None:
    """There is nobody to tell yet; the worker that comes is not given it."""
    assert desk.do("echo", name="before").state == "done"
    (tmp_path / "slow-start").touch()
    assert desk.bench.worker is not None
    os.kill(desk.bench.worker, signal.SIGKILL)
    work = desk.put("slow")
    until(lambda: desk.starts == 2)
    assert desk.bench.cancel(work.asked)
    (tmp_path / "slow-start").unlink()
    assert work.done.wait(WAIT_S)
    assert work.state == "cancelled"
    assert desk.do("echo").state == "done"
    assert desk.starts == 2


def test_an_order_to_stop_does_not_cut_a_message_in_two(desk: Desk) -> None:
    """While a long message is being sent, an order waits for its end."""
    inside, go_on = threading.Event(), threading.Event()
    plain = frames.send

    def slowly(sock: object, head: dict[str, object], blobs: object = ()) -> None:
        if head["op"] == "work":
            inside.set()
            go_on.wait(WAIT_S)
        plain(sock, head, blobs)  # type: ignore[arg-type]
        order.append(head["op"])

    order: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "send", slowly)
        work = desk.put("slow")
        assert inside.wait(WAIT_S)
        canceller = threading.Thread(target=desk.bench.cancel, args=[work.asked])
        canceller.start()
        canceller.join(0.1)
        assert "cancel" not in order
        go_on.set()
        canceller.join(WAIT_S)
        assert work.done.wait(WAIT_S)
    assert order[:3] == ["memory", "work", "cancel"]
