"""A bench whose worker obeys, and what it was told to keep. Not a test."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from flwr.app import RecordDict

from clients import bench as bench_module
from clients import worker_line
from clients.bench import Bench
from clients.bench_work import Work
from protocol.errors import StateError

WAIT_S = 20.0


def until(holds: Callable[[], object], what: str = "it") -> None:
    """Wait until something holds; fail if it does not."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, f"{what} never was"
        time.sleep(0.005)


@dataclass
class Book:
    """In the place of a ledger: what the desk remembers, in whatever version."""

    desk: Desk

    def turn(self, run: str, version: bytes) -> None:
        """Refuse a version that the desk does not have."""
        if version == self.desk.lacks:
            raise StateError("not here")

    def memory(self, run: str, version: bytes) -> dict[str, bytes]:
        """What the ledger would say."""
        self.turn(run, version)
        if self.desk.fail is not None:
            raise self.desk.fail
        self.desk.told += 1
        return dict(self.desk.memory.get(run, {}))


class Desk:
    """A bench with a worker that obeys, and what it was told to keep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory: dict[str, dict[str, bytes]] = {}
        self.refuse: RecordDict | None = None
        self.fail: Exception | None = None
        self.kept: list[Work] = []
        (folder / "logs").mkdir()
        self.versions: dict[str, bytes] = {}
        self.lacks: bytes | None = None
        self.told = 0
        self.bench = Bench(folder / "site.toml", folder / "logs", Book(self), self.finished)

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
        self.versions[work.run] = work.asked

    def put(self, kind: str, run: str = "r", name: str = "") -> Work:
        """Ask for some work, from what the last one left behind; its kind moves the memory."""
        work = Work(run, f"train.{kind}", "task", self.digest(kind, name), (name.encode(),))
        work.previous = self.versions.get(run, b"")
        return self.bench.put(work)

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
    monkeypatch.setattr(worker_line, "WORKER", "tests.clients.fake_worker")
    monkeypatch.setattr(bench_module, "_MISSED_S", WAIT_S)  # so that workers are counted, whatever it takes
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


__all__ = ["WAIT_S", "Desk", "desk", "said", "until"]
