"""The real worker: the same bits as without it, nothing loaded twice, and memory that has run out."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from clients import frames, worker
from clients.app import make_app
from clients.bench import Bench, Work
from clients.flwr_adapter import identity
from clients.ledger import Ledger, Result
from clients.memory_records import freeze
from clients.warm import Warm
from protocol.bounds import Frozen
from protocol.header import digest
from protocol.messages import Assignment, EvaluationRequest, Refusal, SubtaskQuery
from protocol.records import pack, parts_of, record_of, unpack
from protocol.work import moves
from tests.clients.bench_cases import WAIT_S, until
from tests.clients.warm_cases import RISK, first, ready, write_site

START_S = 120.0


@dataclass
class Resident:
    """A bench with a real worker beside a ledger, and the subtask that both are asked about."""

    bench: Bench
    ledger: Ledger
    site: Path
    versions: dict[str, bytes]

    def put(self, kind: str, request: Frozen, arrays: dict[str, Any] | None = None, run: str = "r") -> Work:
        """Ask for some work, from the memory that the last one left behind."""
        parts = parts_of(pack(request, arrays))
        work = Work(run, kind, "task", digest([kind.encode(), *parts])[0], parts)
        work.previous = self.versions.get(run, b"")
        return self.bench.put(work)

    def do(
        self, kind: str, request: Frozen, arrays: dict[str, Any] | None = None, run: str = "r"
    ) -> tuple[bytes, ...]:
        """Ask for some work and return its answer."""
        work = self.put(kind, request, arrays, run)
        assert work.done.wait(START_S)
        assert work.state == "done", work.why
        return work.answer


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resident]:
    """One worker for all tests: to import torch takes seconds."""
    folder = tmp_path_factory.mktemp("site")
    site = write_site(folder)
    (folder / "logs").mkdir()
    ledger = Ledger(folder / "state", 64)

    def keep(work: Work) -> None:
        result = Result(work.kind, work.task, work.answer)
        ledger.commit(work.run, work.kind, work.asked, result, work.changed, parent=work.previous)
        if moves(work.kind):
            versions[work.run] = work.asked

    versions: dict[str, bytes] = {}
    bench = Bench(site, folder / "logs", ledger, keep)
    yield Resident(bench, ledger, site, versions)
    bench.close()
    ledger.close()


def told(subtask: Any, round_: int, run: str = "r") -> dict[str, Any]:
    """What every request says."""
    return {"run": run, "round": round_, "subtask": subtask, "site": "north", "model": "mlp_small"}


class Alone:
    """The same app in this process, for what it should have been."""

    def __init__(self, site: Path) -> None:
        config: dict[str, Any] = {"site": str(site)}
        self.app = make_app(Warm())
        self.context = Context(1, 1, node_config=config, state=RecordDict(), run_config={})

    def do(self, kind: str, request: Frozen, arrays: dict[str, Any] | None = None) -> tuple[bytes, ...]:
        """What it answers."""
        with identity():
            message = Message(pack(request, arrays), 1, kind)
            message.metadata.__dict__["_message_id"] = "1"
            return parts_of(self.app(message, self.context).content)

    @property
    def memory(self) -> dict[str, bytes]:
        """What it remembers."""
        return {key: freeze(record) for key, record in self.context.state.items()}


def test_rounds_have_the_bits_of_an_app_that_is_asked_itself(resident: Resident) -> None:
    """Also what the ledger keeps of the memory; after the first round nothing is loaded any more."""
    subtask, alone = ready(RISK, resident.site), Alone(resident.site)
    arrays = first(subtask)
    counted = []
    for round_ in (1, 2, 3):
        assigned, asked = Assignment(**told(subtask, round_)), EvaluationRequest(**told(subtask, round_))
        assert resident.do("train.weights", assigned, arrays) == alone.do("train.weights", assigned, arrays)
        assert resident.do("evaluate.local", asked) == alone.do("evaluate.local", asked)
        assert resident.ledger.memory("r") == alone.memory
        counted.append(dict(resident.bench.counters))
    for count in counted:
        del count["hits"]
    assert counted[0] == counted[1] == counted[2]
    assert counted[0]["data_loads"] == counted[0]["site_loads"] == 1
    assert counted[0]["torch_imported"]
    assert not counted[0]["cuda_initialised"]


def test_a_worker_that_is_killed_in_the_middle_changes_no_bit(resident: Resident) -> None:
    """The next one gets the memory of before, does the work again, and answers the same."""
    spec = RISK.train.model_copy(update={"local_epochs": 120})
    subtask = ready(RISK.model_copy(update={"train": spec}), resident.site)
    alone, arrays = Alone(resident.site), first(subtask)
    before = Assignment(**told(RISK.model_copy(update={"preprocessing": subtask.preprocessing}), 1, "killed"))
    assert resident.do("train.weights", before, arrays, "killed") == alone.do("train.weights", before, arrays)
    killed = resident.bench.worker
    assert killed is not None
    assigned = Assignment(**told(subtask, 2, "killed"))
    work = resident.put("train.weights", assigned, arrays, "killed")
    until(lambda: work.share is not None, "progress")
    os.kill(killed, signal.SIGKILL)
    assert work.done.wait(START_S)
    assert (work.state, work.deaths) == ("done", 1)
    assert resident.bench.worker != killed
    assert work.answer == alone.do("train.weights", assigned, arrays)
    assert resident.ledger.memory("killed") == alone.memory


def test_work_that_is_cancelled_leaves_nothing_behind(resident: Resident) -> None:
    """The worker answers with a refusal; done afterwards, the same work has the same bits."""
    spec = RISK.train.model_copy(update={"local_epochs": 1000})
    subtask = ready(RISK.model_copy(update={"train": spec}), resident.site)
    work = resident.put("train.weights", Assignment(**told(subtask, 1, "c")), first(subtask), "c")
    until(lambda: work.share is not None, "progress")
    assert resident.bench.cancel(work.asked)
    assert work.done.wait(WAIT_S)
    refusal, _ = unpack(record_of(work.answer), Refusal)
    assert refusal.code == "cancelled"
    assert work.changed == {}
    assert resident.ledger.memory("c") == {}
    short = ready(RISK, resident.site)
    given = resident.do("train.weights", Assignment(**told(short, 1, "c")), first(short), "c")
    expected = Alone(resident.site).do("train.weights", Assignment(**told(short, 1, "c")), first(short))
    assert given == expected


def test_what_cannot_be_read_is_refused_in_words(resident: Resident) -> None:
    """Data that the site has not is its refusal, and no failure of the worker's."""
    query = SubtaskQuery(subtask=RISK.model_copy(update={"data": "nothing", "name": "nothing"}))
    refusal, _ = unpack(record_of(resident.do("query.summary", query)), Refusal)
    assert "nothing" in refusal.detail


# In this process: an app that is told what to do, and the worker around it.


class InThread:
    """A worker's bench at the other end of a line, with an app of the test's."""

    def __init__(self, app: Any) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.settimeout(WAIT_S)
        self.bench = worker.Bench(self.theirs, Path("site.toml"))
        self.bench._app = app
        self.thread = threading.Thread(target=self.bench.run, daemon=True)
        self.thread.start()
        assert frames.receive(self.ours)[0]["op"] == "ready"

    def ask(self, asked: str = "aa", kind: str = "query.capability") -> None:
        """Send some work."""
        head = {"op": "work", "run": "r", "kind": kind, "asked": asked}
        frames.send(self.ours, head, parts_of(pack(Refusal(code="a", detail="b"))))

    def hear(self) -> tuple[dict[str, Any], list[bytes]]:
        """What the worker says next, but for progress."""
        while True:
            head, blobs = frames.receive(self.ours)
            if head["op"] != "progress":
                return head, blobs

    def close(self) -> None:
        """End it."""
        self.ours.close()
        self.thread.join(WAIT_S)
        self.theirs.close()
        assert not self.thread.is_alive()


def _reply(message: Message, said: str) -> Message:
    return Message(pack(Refusal(code="a", detail=said)), reply_to=message)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
@pytest.mark.parametrize("times", [1, 2])
def test_work_is_tried_once_more_with_room(error: Exception, times: int) -> None:
    """Rows and tensors are forgotten, and the memory of before the first try is given."""
    tries: list[dict[str, Any]] = []
    cleared: list[int] = []

    def app(message: Message, context: Context) -> Message:
        tries.append(dict(context.state))
        context.state[f"try{len(tries)}"] = ConfigRecord({"n": len(tries)})
        if len(tries) <= times:
            raise error
        return _reply(message, "done")

    line = InThread(app)
    line.bench.warm.clear = lambda: cleared.append(len(tries))  # type: ignore[method-assign]
    line.ask()
    head, blobs = line.hear()
    assert tries == [{}, {}]
    assert cleared == [1]
    if times == 1:
        assert (head["op"], head["keys"]) == ("done", ["try2"])
        assert b"done" in blobs[2]
    else:
        assert (head["op"], head["why"]) == ("failed", type(error).__name__)
    line.ask("bb")
    assert line.hear()[0]["op"] == "done"
    assert set(tries[-1]) == ({"try2"} if times == 1 else set())
    line.close()


def test_an_error_undoes_what_the_work_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is as before, and only the error's type is told."""
    seen = []

    def app(message: Message, context: Context) -> Message:
        seen.append(dict(context.state))
        context.state["half"] = ConfigRecord({"n": 1})
        raise ValueError("row 7 says 'Smith'")

    line = InThread(app)
    line.ask("aa")
    assert line.hear()[0] == {"op": "failed", "asked": "aa", "why": "ValueError"}
    line.ask("bb")
    assert line.hear()[0]["asked"] == "bb"
    assert seen == [{}, {}]
    line.close()


def test_an_order_to_stop_is_for_the_work_that_it_names() -> None:
    """Not for another, nor for the same work when it is asked for once more later."""
    go_on = threading.Event()

    def app(message: Message, context: Context) -> Message:
        go_on.wait(WAIT_S)
        line.bench._tick(0.5)
        return _reply(message, "done")

    line = InThread(app)
    line.ask("aa")
    for asked in ("bb", "aa"):
        frames.send(line.ours, {"op": "cancel", "asked": asked})
    until(lambda: line.bench._cancelled == {"aa", "bb"})
    go_on.set()
    head, _ = line.hear()
    assert (head["op"], head["why"]) == ("failed", "Cancelled")
    line.ask("bb")
    assert line.hear()[0]["op"] == "done"
    line.close()


def test_progress_is_told_now_and_then_and_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first at once, the next after half a second; a share is 0 to 1."""

    def app(message: Message, context: Context) -> Message:
        for share in (1.5, 0.2, 0.3):
            line.bench._tick(share)
        monkeypatch.setattr(worker, "_TELL_S", -1.0)
        line.bench._tick(-0.5)
        return _reply(message, "done")

    line = InThread(app)
    line.ask("aa")
    shares = []
    while (head := frames.receive(line.ours)[0])["op"] == "progress":
        shares.append(head["share"])
    assert shares == [1.0, 0.0]
    line.close()
