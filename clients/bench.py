"""The agent's side of its worker: works in a queue, progress, and a new worker when one dies."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from clients.bench_work import State, Work
from clients.worker_line import WorkerLine
from protocol.errors import ConsiliumError, MessageError, StateError
from protocol.work import moves

logger = logging.getLogger("consilium.agent")

_MOST_DEATHS = 3  # of workers over one work
# A poll may come a moment after work ended without a result; asked for in full later, it is done again.
_REMEMBERED_S, _MOST_REMEMBERED = 30.0, 100
_TURN_S = 0.1
# How soon an idle worker is missed that has died; longer each time that it is, until there is work again.
_MISSED_S, _MOST_MISSED_S = 1.0, 60.0
HEED_S = 30.0
SILENT_S = 6 * 3600.0
_UNWANTED = "the server no longer wants it"
_BROKEN = "the site's agent has failed and is started again"


class Memory(Protocol):
    """The site's memory of runs, in versions; both raise a ``StateError`` for one that is not there."""

    def turn(self, run: str, version: bytes) -> None:
        """Have the memory be of a version."""
        ...

    def memory(self, run: str, version: bytes) -> Mapping[str, bytes]:
        """Return the memory of a version, to which it is turned."""
        ...


class Bench:
    """Works one after the other, in a worker that stays.

    Args:
        site_toml: the site's file, for the worker.
        logs: the folder of its log.
        memory: turned to the version that a work starts from, and told to a worker that has another.
        finished: is called with a work that is done, before anybody hears of it; it keeps the result.
        heed_s: how long a worker may take to stop work that is not wanted, before it is ended.
        silent_s: how long it may say nothing of its work, before it counts as dead.
    """

    def __init__(
        self,
        site_toml: Path,
        logs: Path,
        memory: Memory,
        finished: Callable[[Work], None],
        *,
        heed_s: float = HEED_S,
        silent_s: float = SILENT_S,
    ) -> None:
        self._memory, self._finished = memory, finished
        self._heed_s, self._silent_s = heed_s, silent_s
        self._works: dict[bytes, Work] = {}
        self._failed: OrderedDict[bytes, Work] = OrderedDict()
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._line = WorkerLine(site_toml, logs)
        # Which worker knows the memory of which run, and in which version.
        self._known: tuple[int, str, bytes] | None = None
        self._closed = self.broken = False
        self._state_lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def get(self, asked: bytes, previous: bytes = b"") -> Work | None:
        """Return the work of this name that waits, is worked on, or has just ended without a result.

        Work from another version of the memory than ``previous`` is none.
        """
        with self._state_lock:
            failed = self._failed.get(asked)
            if failed is None or time.monotonic() > failed.ended + _REMEMBERED_S:
                failed = None
            work = failed or self._works.get(asked)
            return work if work is not None and work.previous == previous else None

    def put(self, work: Work) -> Work:
        """Have some work done; the same work is not done twice at once, nor again just after it failed.

        What a process of the server asked for that has been replaced gives way to what its successor asks
        for, and work of the same name to that from another version of the memory.
        """
        with self._state_lock:
            known = self.get(work.asked, work.previous)
            if known is not None:
                return known
            self._leave(
                lambda one: one.run == work.run and (one.lease < work.lease or one.asked == work.asked)
            )
            self._works[work.asked] = work
            if self.broken:
                self._end(work, "failed", _BROKEN)
                return work
        self._queue.put(work)
        return work

    def cancel(self, asked: bytes) -> bool:
        """Stop some work, between two of its batches if it has begun; return whether there was any.

        Nobody waits for it here: the worker hears of it from the bench's thread, which ends it if need be.
        """
        with self._state_lock:
            work = self._works.get(asked)
            if work is not None:
                self._stop(work)
            return work is not None

    def keep_only(self, run: str) -> None:
        """Stop and forget what is of another run."""
        with self._state_lock:
            self._leave(lambda one: one.run != run)

    def serve(self, run: str, lease: int) -> None:
        """Have what is worked on in a run count for the newest process of the server.

        What failed for one that was replaced may be asked for again.
        """
        with self._state_lock:
            for work in self._works.values():
                if work.run == run:
                    work.serves = max(work.serves, lease)
            for work in [one for one in self._failed.values() if one.run == run and one.lease < lease]:
                self._failed.pop(work.asked)

    def _leave(self, is_unwanted: Callable[[Work], bool]) -> None:
        for works in (self._works, self._failed):
            for work in [one for one in works.values() if is_unwanted(one)]:
                work.stale = True
                works.pop(work.asked)
                self._stop(work)

    @property
    def counters(self) -> dict[str, Any]:
        """What the worker has loaded since it was started."""
        return self._line.counters

    @property
    def worker(self) -> int | None:
        """The worker's process id."""
        return self._line.pid

    def close(self) -> None:
        """End the worker."""
        self._closed = True
        self._queue.put(None)
        self._line.close()
        self._thread.join(2.0)

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            logger.exception("the bench has ended by an error")
        with self._state_lock:
            self.broken = not self._closed
            for work in list(self._works.values()):
                self._end(work, "failed", _BROKEN)
        self._line.drop()

    def _serve(self) -> None:
        self._stand_by()
        missed_s = _MISSED_S
        while not self._closed:
            try:
                work = self._queue.get(timeout=missed_s)
            except queue.Empty:
                missed_s = min(2 * missed_s, _MOST_MISSED_S) if self._stand_by() else missed_s
                continue
            missed_s = _MISSED_S
            while work is not None and not work.done.is_set() and not self._closed:
                self._try(work)

    def _stand_by(self) -> bool:
        """Have a worker before there is work, so that torch is loaded then; return whether there was none."""
        starts = self._line.starts
        try:
            self._line.open()
        except Exception as error:  # noqa: BLE001  the next work will say it again
            self._line.drop()  # also one that lives and does not become ready
            if self._closed:
                return False
            logger.warning("the worker does not start (%s); its log says more", type(error).__name__)
            return True
        return self._line.starts != starts

    def _try(self, work: Work) -> None:
        """Have the worker do it; if it dies, it is done again, a few times."""
        try:
            self._line.open()
            if self._begin(work):
                self._give(work)
                self._await(work)
        except StateError as error:  # before the worker heard of it
            work.code = error.code
            self._end(work, "failed", str(error))
        except (OSError, EOFError, MessageError) as error:
            self._line.drop()
            if not self._closed:
                self._died(work, error)
        except Exception as error:
            # Nobody waits for ever, whatever went wrong; the worker may have half a message.
            logger.exception("%s could not be given to the worker", work.kind)
            self._line.drop()
            self._end(work, "failed", str(error) if isinstance(error, ConsiliumError) else _name(error))

    def _stop(self, work: Work) -> None:
        work.unwanted_at = work.unwanted_at or time.monotonic()
        if work.state == "waiting":
            self._end(work, "cancelled", _UNWANTED)

    def _begin(self, work: Work) -> bool:
        """Take up some work; False if it has been cancelled meanwhile."""
        with self._state_lock:
            if work.done.is_set():
                return False
            work.state, work.begun = "working", work.begun or time.monotonic()
            return True

    def _died(self, work: Work, error: Exception) -> None:
        """Have work whose worker died wait for the next one, unless it is not wanted or has killed enough."""
        with self._state_lock:
            if work.unwanted:
                logger.warning("the worker was ended over %s (%s), which is not wanted", work.kind, work.task)
                self._end(work, "cancelled", _UNWANTED)
                return
            work.deaths += 1
            work.share, work.state = None, "waiting"
            logger.warning(
                "the worker died over %s (%s); %s", work.kind, work.task, str(error) or "it is done again"
            )
            if work.deaths >= _MOST_DEATHS:
                self._end(work, "failed", f"the worker died {_MOST_DEATHS} times over it; its log says why")

    def _give(self, work: Work) -> None:
        known = (self._line.starts, work.run, work.previous)
        if known == self._known:
            self._memory.turn(work.run, work.previous)
        else:
            memory = self._memory.memory(work.run, work.previous)
            head = {"op": "memory", "run": work.run, "keys": list(memory)}
            self._line.say(head, list(memory.values()))
            self._known = known
        head = {"op": "work", "run": work.run, "kind": work.kind, "asked": work.asked.hex()}
        self._line.say(head, work.parts)

    def _await(self, work: Work) -> None:
        heard, told = time.monotonic(), False
        while True:
            if work.unwanted and not told:
                self._line.say({"op": "cancel", "asked": work.asked.hex()})
                told = True
            found = self._line.hear(_TURN_S)
            if found is not None:
                head, blobs = found
                self._line.counters = head.get("counters", self._line.counters)
                if head.get("asked") == work.asked.hex():
                    heard = time.monotonic()
                    if self._take(work, head, blobs):
                        return
            if told and time.monotonic() > work.unwanted_at + self._heed_s:
                raise TimeoutError("it goes on with what is not wanted")
            if time.monotonic() > heard + self._silent_s:
                raise TimeoutError(f"it has said nothing for {self._silent_s:.0f} s and was ended")

    def _take(self, work: Work, head: dict[str, Any], blobs: list[bytes]) -> bool:
        """Hear what the worker says of its work; return whether that was the last of it."""
        if head["op"] == "progress":
            work.share = float(head["share"])
        elif head["op"] == "failed":
            self._end(work, "failed", f"{head['why']} in the worker; its log says more")
            return True
        elif head["op"] == "done":
            count = head["parts"]
            work.answer = tuple(blobs[:count])
            put = dict(zip(head["keys"], blobs[count:], strict=True))
            work.changed = put | dict.fromkeys(head["gone"])
            self._end(work, "done")
            was_kept = work.state == "done" and work.refusal is None
            if was_kept and moves(work.kind):
                self._known = (self._line.starts, work.run, work.asked)
            elif work.changed or not was_kept:
                # What the work changed in the memory was not kept: the worker is told it anew.
                self._known = None
            return True
        return False

    def _end(self, work: Work, state: State, why: str = "") -> None:
        try:
            if state == "done":
                self._finished(work)
        except Exception as error:
            logger.exception("the result of %s could not be kept", work.kind)
            state, why = "failed", f"the result could not be kept: {_name(error)}"
            work.code = error.code if isinstance(error, StateError) else work.code
            if work.unwanted:
                state, why = "cancelled", _UNWANTED
        finally:
            with self._state_lock:
                if not work.done.is_set():
                    self._note_end(work, state, why)

    def _note_end(self, work: Work, state: State, why: str) -> None:
        work.state, work.why, work.ended = state, why, time.monotonic()
        if self._works.get(work.asked) is work:
            self._works.pop(work.asked)
        if not work.stale and (state != "done" or work.refusal is not None):
            self._failed[work.asked] = work
            self._failed.move_to_end(work.asked)
            if len(self._failed) > _MOST_REMEMBERED:
                self._failed.popitem(last=False)
        work.done.set()


def _name(error: BaseException) -> str:
    return type(error).__name__
