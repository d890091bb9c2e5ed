"""The agent's side of its worker: works in a queue, progress, and a new worker when one dies."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flwr.app import RecordDict

from clients import frames
from protocol.children import Child
from protocol.errors import ConsiliumError, MessageError

logger = logging.getLogger("consilium.agent")

_MOST_DEATHS = 3  # of workers over one work
# A poll may come a moment after work ended without a result; asked for in full later, it is done again.
_REMEMBERED_S, _MOST_REMEMBERED = 30.0, 100
_READY_S = 300.0  # importing torch from a cold disk
_UNWANTED = "the server no longer wants it"
WORKER = "clients.worker"
State = Literal["waiting", "working", "done", "failed", "cancelled"]


@dataclass
class Work:
    """One message's work, by the name ``asked``. ``done`` is set when it has ended in any way."""

    run: str
    kind: str
    task: str
    asked: bytes
    parts: tuple[bytes, ...]
    state: State = "waiting"
    share: float | None = None
    begun: float = 0.0
    why: str = ""
    deaths: int = 0
    unwanted: bool = False
    ended: float = 0.0
    answer: tuple[bytes, ...] = ()
    refusal: RecordDict | None = None
    changed: dict[str, bytes | None] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def worked_s(self) -> float:
        """For how many seconds it has been worked on."""
        return time.monotonic() - self.begun if self.begun else 0.0

    def eta_s(self) -> float | None:
        """How many seconds it still takes at the pace until now; None while that cannot be said."""
        if not self.share or self.state != "working":
            return None
        return self.worked_s() * (1 - self.share) / self.share


class Bench:
    """Works one after the other, in a worker that stays.

    Args:
        site_toml: the site's file, for the worker.
        logs: the folder of its log.
        memory_of: the site's memory of a run, for a worker that has none yet.
        finished: is called with a work that is done, before anybody hears of it; it keeps the result.
    """

    def __init__(
        self,
        site_toml: Path,
        logs: Path,
        memory_of: Callable[[str], Mapping[str, bytes]],
        finished: Callable[[Work], None],
    ) -> None:
        self._site_toml, self._logs = site_toml, logs
        self._memory_of, self._finished = memory_of, finished
        self._works: dict[bytes, Work] = {}
        self._failed: OrderedDict[bytes, Work] = OrderedDict()
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._child: Child | None = None
        self._sock: socket.socket | None = None
        self._knows: set[str] = set()
        self._closed = False
        self._state_lock, self._send_lock = threading.RLock(), threading.Lock()
        self.counters: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def get(self, asked: bytes) -> Work | None:
        """Return the work of this name that waits, is worked on, or has just ended without a result."""
        with self._state_lock:
            failed = self._failed.get(asked)
            if failed is not None and time.monotonic() < failed.ended + _REMEMBERED_S:
                return failed
            return self._works.get(asked)

    def put(self, work: Work) -> Work:
        """Have some work done; the same work is not done twice at once, nor again just after it failed."""
        with self._state_lock:
            known = self.get(work.asked)
            if known is not None:
                return known
            self._works[work.asked] = work
        self._queue.put(work)
        return work

    def cancel(self, asked: bytes) -> bool:
        """Stop some work, between two of its batches if it has begun; return whether there was any."""
        with self._state_lock:
            work = self._works.get(asked)
            if work is None:
                return False
            work.unwanted = True
            if work.state == "waiting":
                self._end(work, "cancelled", _UNWANTED)
                return True
        # What is being sent is not cut in two; a worker that is only starting is not given the work.
        with self._send_lock, suppress(OSError):
            if self._sock is not None:
                frames.send(self._sock, {"op": "cancel", "asked": asked.hex()})
        return True

    @property
    def worker(self) -> int | None:
        """The worker's process id."""
        child = self._child
        return child.pid if child is not None else None

    def close(self) -> None:
        """End the worker."""
        self._closed = True
        self._queue.put(None)
        child = self._child
        if child is not None:
            child.end(2.0)
        self._thread.join(2.0)

    def _run(self) -> None:
        try:
            self._ensure()  # so that torch is there before the first message
        except Exception as error:  # noqa: BLE001  the first work will say it again
            logger.warning("the worker does not start (%s); its log says more", type(error).__name__)
        while (work := self._queue.get()) is not None and not self._closed:
            while not work.done.is_set() and not self._closed:
                self._try(work)
        self._drop()

    def _try(self, work: Work) -> None:
        """Have the worker do it; if it dies, it is done again, a few times."""
        try:
            sock = self._ensure()
            if self._begin(work):
                self._give(work, sock)
                self._await(work, sock)
        except (OSError, EOFError, MessageError) as error:
            self._drop()
            if self._closed:
                return
            work.deaths += 1
            work.share = None
            logger.warning(
                "the worker died over %s (%s); %s", work.kind, work.task, error or "it is done again"
            )
            if work.deaths >= _MOST_DEATHS:
                self._end(work, "failed", f"the worker died {_MOST_DEATHS} times over it; its log says why")
        except Exception as error:
            # Nobody waits for ever, whatever went wrong; the worker may have half a message.
            logger.exception("%s could not be given to the worker", work.kind)
            self._drop()
            self._end(work, "failed", str(error) if isinstance(error, ConsiliumError) else _name(error))

    def _begin(self, work: Work) -> bool:
        """Take up some work; False if it has been cancelled meanwhile."""
        with self._state_lock:
            if work.unwanted and not work.done.is_set():
                self._end(work, "cancelled", _UNWANTED)
            if work.done.is_set():
                return False
            work.state, work.begun = "working", work.begun or time.monotonic()
            return True

    def _give(self, work: Work, sock: socket.socket) -> None:
        with self._send_lock:
            if work.run not in self._knows:
                memory = self._memory_of(work.run)
                head = {"op": "memory", "run": work.run, "keys": list(memory)}
                frames.send(sock, head, list(memory.values()))
                self._knows = {work.run}
            frames.send(
                sock,
                {"op": "work", "run": work.run, "kind": work.kind, "asked": work.asked.hex()},
                work.parts,
            )
            if work.unwanted:  # it was cancelled before there was a worker to tell
                frames.send(sock, {"op": "cancel", "asked": work.asked.hex()})

    def _await(self, work: Work, sock: socket.socket) -> None:
        while True:
            head, blobs = frames.receive(sock)
            self.counters = head.get("counters", self.counters)
            if head.get("asked") != work.asked.hex():
                continue
            if head["op"] == "progress":
                work.share = float(head["share"])
            elif head["op"] == "failed":
                self._end(work, "failed", f"{head['why']} in the worker; its log says more")
                return
            elif head["op"] == "done":
                count = head["parts"]
                work.answer = tuple(blobs[:count])
                put = dict(zip(head["keys"], blobs[count:], strict=True))
                work.changed = put | dict.fromkeys(head["gone"])
                self._end(work, "done")
                if work.state != "done" or work.refusal is not None:
                    # What the work changed in the memory was not kept: the worker is told it anew.
                    self._knows = set()
                return

    def _end(self, work: Work, state: State, why: str = "") -> None:
        try:
            if state == "done":
                self._finished(work)
        except Exception as error:
            logger.exception("the result of %s could not be kept", work.kind)
            state, why = "failed", f"the result could not be kept: {_name(error)}"
        finally:
            with self._state_lock:
                work.state, work.why = state, why
                work.ended = time.monotonic()
                if state != "done" or work.refusal is not None:
                    self._failed[work.asked] = work
                    self._failed.move_to_end(work.asked)
                    if len(self._failed) > _MOST_REMEMBERED:
                        self._failed.popitem(last=False)
                self._works.pop(work.asked, None)
                work.done.set()

    def _ensure(self) -> socket.socket:
        """Return the line to the worker; start one where there is none."""
        if self._child is not None and self._child.code is None and self._sock is not None:
            return self._sock
        self._drop()
        ours, theirs = socket.socketpair()
        given = {"fd": theirs.fileno(), "site_toml": str(self._site_toml)}
        try:
            self._child = Child("worker", WORKER, given, self._logs, fds=[theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._sock, self._knows = ours, set()
        if self._closed:
            raise EOFError
        ours.settimeout(_READY_S)
        head, _ = frames.receive(ours)
        self.counters = head.get("counters", {})
        ours.settimeout(None)
        return ours

    def _drop(self) -> None:
        if self._child is not None:
            self._child.end(1.0)
        with self._send_lock:
            if self._sock is not None:
                self._sock.close()
            self._child = self._sock = None


def _name(error: BaseException) -> str:
    return type(error).__name__
