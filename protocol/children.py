"""Processes that a server or a site starts: secrets go in by a pipe, words come out by another.

What stands in a command line or the environment can be read by other users and ends in crash reports, so
a child gets all it needs as one JSON line on its standard input. The parent keeps that pipe open for as
long as it lives: when the kernel closes it, the child ends itself, however the parent died.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

ORPHANED = 97  # the exit code of a child whose parent is gone
_WORDS_FD = "words_fd"
_MAX_LINE = 2**20
_POLL_S = 0.02
_LONG_LOG = 32 * 2**20
_GONE_S = 5.0  # how long a killed process may take

Words = Mapping[str, Any]


class Child:
    """A process of ours, started at once.

    Args:
        name: names its log, NAME.log in ``logs``.
        module: what ``python -m`` runs.
        given: what the child reads with ``inherit``; may hold secrets.
        logs: the folder of the logs.
        fds: open files that it inherits, at the same numbers.
        environment: variables beside this process's own.
    """

    def __init__(
        self,
        name: str,
        module: str,
        given: Words,
        logs: Path,
        *,
        fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.heard: dict[str, Any] = {}
        self.heard_at = self.started_at = time.monotonic()
        self._changed = threading.Condition()
        reader, writer = os.pipe()
        try:
            log = _open_log(logs / f"{name}.log")
            try:
                self.process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                    [sys.executable, "-m", module],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=[*fds, writer],
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                    start_new_session=True,  # Ctrl-C goes to the parent, which ends its children in order
                    text=True,
                )
            finally:
                os.close(log)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._lifeline: TextIO = self.process.stdin  # type: ignore[assignment]
        self._listener = threading.Thread(target=self._listen, args=[reader], daemon=True)
        self._listener.start()
        with suppress(BrokenPipeError):  # it died at once; whoever waits for it will see
            self._lifeline.write(json.dumps({**given, _WORDS_FD: writer}) + "\n")
            self._lifeline.flush()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it lives."""
        return self.process.poll()

    def wait_for(self, key: str, within_s: float) -> Any:
        """Return what the child says under ``key``; None if it ends or the time passes before."""
        until = time.monotonic() + within_s
        while key not in self.heard:
            if self.code is not None or time.monotonic() > until:
                self._listener.join(_POLL_S)
                break
            with self._changed:
                self._changed.wait(_POLL_S)
        return self.heard.get(key)

    def end(self, within_s: float = 10.0) -> int:
        """Ask it to end, end it if it does not, and return its exit code; raises nothing.

        One that has been killed and is still there waits in the kernel, for a disk or a device. It is left
        to it, and counts as killed.
        """
        for stop, bound_s in (
            (self.process.terminate, within_s),
            (self.process.kill, max(within_s, _GONE_S)),
        ):
            if self.code is not None:
                break
            with suppress(OSError, subprocess.TimeoutExpired):
                stop()
                self.process.wait(bound_s)
        with suppress(OSError):
            self._lifeline.close()
        self._listener.join(within_s)
        code = self.code
        return -signal.SIGKILL if code is None else code

    def _listen(self, reader: int) -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
            while line := lines.readline(_MAX_LINE):
                with suppress(ValueError):
                    words = json.loads(line)
                    with self._changed:
                        self.heard_at = time.monotonic()
                        self.heard.update(words if isinstance(words, dict) else {})
                        self._changed.notify_all()


def _open_log(path: Path) -> int:
    """Return a file to append to; a log that has grown long becomes NAME.log.1 first."""
    with suppress(FileNotFoundError):
        if path.stat().st_size > _LONG_LOG:
            path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)


def inherit() -> tuple[dict[str, Any], Callable[[Words], None]]:
    """Return, in a child, what its parent gave it, and a function that tells the parent something.

    From now on the process ends as soon as its parent has gone.
    """
    os.umask(0o077)
    given = json.loads(sys.stdin.readline(_MAX_LINE))
    fd = given.pop(_WORDS_FD)
    os.set_inheritable(fd, False)
    words = os.fdopen(fd, "w", encoding="utf-8")
    lock, lifeline = threading.Lock(), os.dup(sys.stdin.fileno())

    def tell(said: Words) -> None:
        with lock, suppress(OSError):  # a parent that has gone ends us by the other pipe
            words.write(json.dumps(dict(said)) + "\n")
            words.flush()

    def watch() -> None:
        with suppress(OSError):
            while os.read(lifeline, 4096):  # not by sys.stdin, whose lock would be held when Python ends
                pass
        os._exit(ORPHANED)

    threading.Thread(target=watch, daemon=True).start()
    return given, tell
