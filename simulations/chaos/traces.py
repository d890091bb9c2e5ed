"""What a run leaves behind: its models, how often its sites began to train, and when it came further."""

from __future__ import annotations

import ast
import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.orders import Order, OrderBook
from simulations.deployed import Deployed

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) consilium\.run: (\{.*\})")


@dataclass(frozen=True)
class Mark:
    """A point that a run has reached: a contribution was taken, or a round has ended.

    ``what`` is the assignment or the round, ``site`` whose contribution it was; ``at`` Unix seconds.
    """

    at: float
    what: str
    site: str = ""


def order_of(at: Deployed, run: str) -> Order | None:
    """Return the order of a run, read from its file: the server need not answer for it."""
    return OrderBook(at.server / "state" / "orders").get(run)


def model_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every model file of a run, by its path below the run's folder."""
    files = sorted(folder.glob("models/*/*.safetensors"))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def trainings(at: Deployed, run: str, sites: Iterable[str]) -> int:
    """Return how many assignments of a run workers have begun, by their logs; begun twice counts twice."""
    begins = re.compile(rf"consilium\.worker: train\.\S+ of run {re.escape(run)} begins$", re.MULTILINE)
    return sum(len(begins.findall(_text(at.kit(site) / "state" / "logs" / "worker.log"))) for site in sites)


def marks(at: Deployed, run: str) -> list[Mark]:
    """Return the points that a run has reached, as its log says, each the first time that it was."""
    found: dict[str, Mark] = {}
    for mark in _marks(_text(run_log(at, run))):
        found.setdefault(mark.what, mark)
    return list(found.values())


def run_log(at: Deployed, run: str) -> Path:
    """Return the log of the processes that have worked on a run."""
    return at.server / "state" / "logs" / f"run-{run}.log"


def recovered_after(reached: Iterable[Mark], struck_at: float, ended_at: float, sites: set[str]) -> float:
    """Return how many seconds after a blow a run came further than it ever was before.

    That is when the next contribution is taken, of these sites where some were struck, or the next round
    ends, or the run. What is done again counts as time that it takes.
    """
    later = [m.at for m in reached if m.at > struck_at and (not m.site or not sites or m.site in sites)]
    return max(0.0, min([*later, ended_at]) - struck_at)


def _marks(text: str) -> Iterator[Mark]:
    for line in text.splitlines():
        if (found := _LINE.fullmatch(line)) is None:
            continue
        said = _table(found[3])
        at = time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S")) + int(found[2]) / 1000
        if said.get("event") == "arrived":
            yield Mark(at, str(said["about"]), str(said["site"]))
        elif said.get("event") == "round":
            yield Mark(at, f"round {said['round']}")


def _table(text: str) -> dict[str, Any]:
    with suppress(ValueError, SyntaxError):
        found = ast.literal_eval(text)
        return found if isinstance(found, dict) else {}
    return {}


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text("utf-8", "replace")
    return ""
