"""The order book of a server: which runs were submitted, and how far each is. One small file a run.

The link process writes an order when it is submitted, and marks beside it that say that it is to stop or to
go on; all else about an order is the supervisor's to write. A file is written aside and renamed, so a reader
sees the old or the new.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from protocol.bounds import Frozen, Name
from protocol.errors import ConfigError
from protocol.files import sync_folder

State = Literal["queued", "running", "stopping", "finished", "failed", "stopped"]
LIVE: tuple[State, ...] = ("queued", "running", "stopping")
MAX_TEXT = 2**20
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Order(Frozen):
    """One submitted run. Times are seconds since 1970; ``flower_run`` is Flower's own id of it.

    ``baselines``: have each site train alone as well, so that the report can say whether collaborating paid.
    ``starts`` counts the processes that have worked on it since it was submitted or last resumed by hand.
    """

    run: Name
    state: State = "queued"
    submitted_at: float
    since: float
    flower_run: int | None = None
    starts: int = 0
    baselines: bool = True
    why: str = ""


class OrderBook:
    """The orders in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended: set[str] = set()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def submit(self, run: str, text: str, now_s: float, *, baselines: bool = True) -> Order:
        """Keep a collaboration to be run.

        Raises:
            ConfigError: the run has an order already, or the text is none or too long.
        """
        order = Order(run=run, submitted_at=now_s, since=now_s, baselines=baselines)
        if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT:
            raise ConfigError(f"the collaboration has more than {MAX_TEXT} bytes")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError("the collaboration is no text in UTF-8")
        if (self._folder / f"{run}.json").exists():
            raise ConfigError(f"run '{run}' is there already; give it another name")
        write_aside(self.text_path(run), text)  # a text without its order is one that was cut off
        self.put(order)
        return order

    def text_path(self, run: str) -> Path:
        """Return where the collaboration of a run lies."""
        return self._folder / f"{run}.toml"

    def put(self, order: Order) -> None:
        """Write an order in the place of what stood there."""
        write_aside(self._folder / f"{order.run}.json", order.model_dump_json())

    def get(self, run: str) -> Order | None:
        """Return the order of a run, None if there is none that can be read."""
        try:
            return Order.model_validate_json((self._folder / f"{run}.json").read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return None

    def next_live(self) -> Order | None:
        """Return the order that was submitted first of those that have not ended.

        Those that have ended are read once: a server keeps the orders of all its time.
        """
        self._take_up()
        found = []
        for path in self._folder.glob("*.json"):
            if path.stem in self._ended or (order := self.get(path.stem)) is None:
                continue
            if order.state in LIVE:
                found.append(order)
            else:
                self._ended.add(order.run)
        return min(found, key=lambda o: (o.submitted_at, o.run), default=None)

    def all(self) -> Iterator[Order]:
        """Yield all orders, in the order of their submission."""
        names = [path.stem for path in self._folder.glob("*.json")]
        found = [order for name in names if (order := self.get(name)) is not None]
        yield from sorted(found, key=lambda o: (o.submitted_at, o.run))

    def ask_stop(self, run: str) -> None:
        """Mark a run as one that is to stop."""
        self._stop_path(run).touch()

    def is_to_stop(self, run: str) -> bool:
        """Return whether a run is to stop."""
        return self._stop_path(run).exists()

    def ask_resume(self, run: str) -> None:
        """Mark a run that was stopped or has failed as one that is to go on."""
        self._resume_path(run).touch()

    def _take_up(self) -> None:
        """Put the orders of runs that are to go on back into the queue."""
        for path in self._folder.glob("*.resume"):
            order = self.get(path.stem)
            if order is not None and order.state in LIVE and self.is_to_stop(order.run):
                continue  # first it stops
            if order is not None and order.state not in LIVE:
                self._stop_path(order.run).unlink(missing_ok=True)
                changed = {
                    "state": "queued",
                    "since": time.time(),
                    "starts": 0,
                    "why": "",
                    "flower_run": None,
                }
                self.put(order.model_copy(update=changed))
                self._ended.discard(order.run)
            path.unlink(missing_ok=True)

    def _resume_path(self, run: str) -> Path:
        return self._folder / f"{run}.resume"

    def _stop_path(self, run: str) -> Path:
        return self._folder / f"{run}.stop"


def write_aside(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old text or the new one, and a power cut leaves either."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # the new text is there, if not for certain after a power cut
        sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Return the table in a JSON file; {} if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
