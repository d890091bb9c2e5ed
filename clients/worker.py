"""A site's worker: torch, the data and the models, kept loaded from message to message.

Started by the agent as ``python -m clients.worker``. It holds no key and talks to its agent alone; when it
dies, another is started and does the work again.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from protocol.children import inherit

logger = logging.getLogger("consilium.worker")
_TELL_S = 0.5
SITE_KEY = "site"


class Bench:
    """Does the work of one message after the other; another thread hears whether it is to stop."""

    def __init__(self, sock: socket.socket, site_toml: Path) -> None:
        from flwr.app import Context, RecordDict  # noqa: PLC0415  slow imports: this process's first seconds

        from clients.app import make_app  # noqa: PLC0415
        from clients.warm import Warm  # noqa: PLC0415

        self._sock, self._lock = sock, threading.Lock()
        self.warm = Warm()
        self._app = make_app(self.warm, self._tick)
        self._context = Context
        self._config: dict[str, bool | float | int | str] = {SITE_KEY: str(site_toml)}
        self._records = RecordDict
        self._memory: dict[str, Any] = {}
        self._wanted = ""
        self._cancelled: set[str] = set()
        self._told_at = 0.0
        self._jobs: queue.SimpleQueue[tuple[dict[str, Any], list[bytes]] | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Work until the agent is gone."""
        threading.Thread(target=self._hear, daemon=True).start()
        self._say({"op": "ready", **self._counters()})
        while (job := self._jobs.get()) is not None:
            head, blobs = job
            if head["op"] == "memory":
                self._remember(head, blobs)
            else:
                self._work(head, blobs)

    def _hear(self) -> None:
        from clients import frames  # noqa: PLC0415

        with suppress(EOFError):
            while True:
                head, blobs = frames.receive(self._sock)
                if head["op"] == "cancel":
                    self._cancelled.add(head["asked"])
                else:
                    self._cancelled.discard(head.get("asked", ""))  # an order for it came too late then
                    self._jobs.put((head, blobs))
        self._jobs.put(None)

    def _remember(self, head: dict[str, Any], blobs: list[bytes]) -> None:
        """Take the site's memory of a run, after a worker before this one died."""
        from clients.memory_records import thaw  # noqa: PLC0415

        kept = zip(head["keys"], blobs, strict=True)
        self._memory = {head["run"]: self._records({key: thaw(blob) for key, blob in kept})}

    def _work(self, head: dict[str, Any], blobs: list[bytes]) -> None:
        from clients.memory_records import changes  # noqa: PLC0415

        self._wanted, self._told_at = head["asked"], 0.0
        logger.info("%s of run %s begins", head["kind"], head["run"])
        state = self._memory.setdefault(head["run"], self._records())
        before = dict(state)
        try:
            parts = self._try_answer(head, blobs, state)
            if parts is None:  # outside of any except: the error would hold what the first try had loaded
                logger.warning("%s: memory has run out; once more with nothing kept", head["kind"])
                state = self._memory[head["run"]] = self._records(before)
                self._make_room()
                parts = self._answer(head, blobs, state)
            changed = dict(changes(before, state))
        except Exception as error:  # the next message may well be possible
            logger.exception("%s could not be done", head["kind"])
            self._memory[head["run"]] = self._records(before)
            self._say({"op": "failed", "asked": head["asked"], "why": type(error).__name__})
            return
        gone = [key for key, value in changed.items() if value is None]
        put = {key: value for key, value in changed.items() if value is not None}
        said = {"op": "done", "asked": head["asked"], "gone": gone, "keys": list(put), "parts": len(parts)}
        self._say({**said, **self._counters()}, [*parts, *put.values()])

    def _answer(self, head: dict[str, Any], blobs: list[bytes], state: Any) -> tuple[bytes, ...]:
        from flwr.app import Message  # noqa: PLC0415

        from clients.flwr_adapter import identity  # noqa: PLC0415
        from protocol.records import parts_of, record_of  # noqa: PLC0415

        with identity():
            message = Message(record_of(blobs), dst_node_id=1, message_type=head["kind"])
            message.metadata.__dict__["_message_id"] = head["asked"]
            context = self._context(1, 1, node_config=self._config, state=state, run_config={})
            return parts_of(self._app(message, context).content)

    def _try_answer(self, head: dict[str, Any], blobs: list[bytes], state: Any) -> tuple[bytes, ...] | None:
        """Return the answer, None where memory ran out."""
        from torch import OutOfMemoryError  # noqa: PLC0415

        try:
            return self._answer(head, blobs, state)
        except (OutOfMemoryError, MemoryError):
            return None

    def _make_room(self) -> None:
        import torch  # noqa: PLC0415

        self.warm.clear()
        gc.collect()
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use

    def _tick(self, share: float) -> None:
        """Hear from the work how far it is; stop it where that is wanted."""
        from protocol.errors import Cancelled  # noqa: PLC0415

        if self._wanted in self._cancelled:
            self._cancelled.discard(self._wanted)
            raise Cancelled("the server no longer wants it")
        if time.monotonic() > self._told_at + _TELL_S:
            self._told_at = time.monotonic()
            self._say({"op": "progress", "asked": self._wanted, "share": min(1.0, max(0.0, share))})

    def _counters(self) -> dict[str, Any]:
        from clients.warm import process_counters  # noqa: PLC0415

        return {"counters": asdict(self.warm.counters) | asdict(process_counters()) | {"pid": os.getpid()}}

    def _say(self, head: dict[str, Any], blobs: list[bytes] | None = None) -> None:
        from clients import frames  # noqa: PLC0415

        with self._lock, suppress(OSError):  # an agent that is gone ends this process by its lifeline
            frames.send(self._sock, head, blobs or [])


def main() -> None:
    """Work for the agent that started this process."""
    given, _ = inherit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    Bench(socket.socket(fileno=given["fd"]), Path(given["site_toml"])).run()


if __name__ == "__main__":
    main()
