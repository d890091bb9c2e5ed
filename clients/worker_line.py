"""The agent's line to its worker: it starts one, and says and hears frames, never without an end."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients import frames
from protocol.children import Child

WORKER = "clients.worker"
_READY_S = 300.0  # importing torch from a cold disk
_TURN_S = 0.5
# A worker that takes or gives no byte for this long in the middle of a frame is hung: its reading thread too.
_STUCK_S = 30

Frame = tuple[dict[str, Any], list[bytes]]


class WorkerLine:
    """One worker at a time. One thread uses the line; ``pid`` and ``close`` are for others too.

    Args:
        site_toml: the site's file, for the worker.
        logs: the folder of its log.
    """

    def __init__(self, site_toml: Path, logs: Path) -> None:
        self._site_toml, self._logs = site_toml, logs
        self._child: Child | None = None
        self._sock: socket.socket | None = None
        self._closed = False
        self.starts = 0
        self.counters: dict[str, Any] = {}

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        child = self._child
        return child.pid if child is not None else None

    def open(self) -> None:
        """See to it that there is a worker.

        Raises:
            OSError, EOFError, MessageError: none can be started, or it does not say that it is ready.
        """
        if self._child is not None and self._child.code is None and self._sock is not None:
            return
        self.drop()
        if self._closed:
            raise EOFError
        ours, theirs = socket.socketpair()
        given = {"fd": theirs.fileno(), "site_toml": str(self._site_toml)}
        try:
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _STUCK_S, 0))
            self._child = Child("worker", WORKER, given, self._logs, fds=[theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._sock = ours
        self.starts += 1
        until = time.monotonic() + _READY_S
        while (found := self.hear(_TURN_S)) is None:
            if time.monotonic() > until:
                raise TimeoutError("it does not become ready")
        self.counters = found[0].get("counters", {})

    def say(self, head: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        """Send a frame; raises ``OSError`` if the worker is gone, or takes nothing for a while."""
        if self._sock is None or self._closed:
            raise BrokenPipeError
        frames.send(self._sock, head, blobs)

    def hear(self, within_s: float) -> Frame | None:
        """Return the next frame; None if none begins in time.

        Raises:
            EOFError: the worker is gone, or has stopped in the middle of a frame.
            MessageError: it is no frame.
        """
        if self._sock is None or self._closed:
            raise EOFError
        there = select.poll()
        there.register(self._sock, select.POLLIN)
        return frames.receive(self._sock) if there.poll(within_s * 1000) else None

    def drop(self) -> None:
        """End the worker, if there is one."""
        if self._child is not None:
            self._child.end(1.0)
        if self._sock is not None:
            self._sock.close()
        self._child = self._sock = None

    def close(self) -> None:
        """End the worker, whatever it does, and start no other."""
        self._closed = True
        child = self._child
        if child is not None:
            child.end(2.0)
