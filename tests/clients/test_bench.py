"""The agent's bench: what is asked for is done or ends in words, whatever becomes of the worker."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from flwr.app import RecordDict

from clients import bench as bench_module
from clients.bench import Bench, Work
from protocol.errors import RunError

WAIT_S = 20.0


def until(holds: Callable[[], object], what: str = "it") -> None:
    """Wait until something holds; fail if it does not."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, f"{what} never was"
        time.sleep(0.005)


class Desk:
    """A bench with a worker that obeys, and what it was told to keep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory: dict[str, dict[str, bytes]] = {}
        self.refuse: RecordDict | None = None
        self.fail: Exception | None = None
        self.kept: list[Work] = []
        (folder / "logs").mkdir()
        self.bench = Bench(folder / "site.toml", folder / "logs", self.memory_of, self.finished)

    def memory_of(self, run: str) -> dict[str, bytes]:
        """What the ledger would say."""
        if self.fail is not None:
            raise self.fail
        return dict(self.memory.get(run, {}))

    def finished(self, work: Work) -> None:
        """What the agent would do with a result."""
        assert not work.done.is_set()
        if self.fail is not None:
            raise self.fail
        if self.refuse is not None:
            work.refusal = self.refuse
            return
        self.kept.append(work)
        known = self.memory.setdefault(work.run, {})
        known |= {key: value for key, value in work.changed.items() if value is not None}
        for key, value in work.changed.items():
            if value is None:
                known.pop(key, None)

    def put(self, kind: str, run: str = "r", name: str = "") -> Work:
        """Ask for some work."""
        return self.bench.put(Work(run, kind, "task", self.digest(kind, name), (name.encode(),)))

    @staticmethod
    def digest(kind: str, name: str = "") -> bytes:
        """What the work is named by."""
        return sha256(f"{kind}/{name}".encode()).digest()

    def do(self, kind: str, run: str = "r", name: str = "") -> Work:
        """Ask for some work and wait for it."""
        work = self.put(kind, run, name)
        assert work.done.wait(WAIT_S), "it never ended"
        return work

    @property
    def starts(self) -> int:
        """How many workers there have been."""
        path = self.folder / "starts"
        return len(path.read_text()) if path.exists() else 0


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A bench; no worker of it is left at the end."""
    monkeypatch.setattr(bench_module, "WORKER", "tests.clients.fake_worker")
    made = Desk(tmp_path)
    yield made
    for held in ("slow-start", "no-start"):
        (tmp_path / held).unlink(missing_ok=True)
    pid = made.bench.worker
    made.bench.close()
    assert not made.bench._thread.is_alive()
    if pid is not None:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def said(work: Work) -> dict[str, str]:
    """The memory that the worker had when it answered."""
    found = json.loads(work.answer[0])
    assert isinstance(found, dict)
    return found


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
    plain = bench_module.frames.send

    def slowly(sock: object, head: dict[str, object], blobs: object = ()) -> None:
        if head["op"] == "work":
            inside.set()
            go_on.wait(WAIT_S)
        plain(sock, head, blobs)  # type: ignore[arg-type]
        order.append(head["op"])

    order: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_module.frames, "send", slowly)
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


def test_work_whose_worker_dies_is_done_again(desk: Desk) -> None:
    """By another worker, which is first told what the site remembers; nobody asks a second time."""
    assert said(desk.do("echo")) == {"count": "1"}
    before = desk.bench.worker
    work = desk.do("die.once")
    assert (work.state, work.deaths) == ("done", 1)
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
    assert desk.do("echo").state == "done"


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
