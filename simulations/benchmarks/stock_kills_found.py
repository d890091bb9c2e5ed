"""What came of a trial of ``stock_kills``, from its progress, the work done, and what Flower wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STALL_S = 120.0  # a run without the end of a round for so long before the bound hangs
_COLOUR = re.compile(r"\x1b\[[0-9;]*m|\[\d+m")
_ROUND = re.compile(r"\[ROUND (\d+)/\d+\]")
_SAMPLED = re.compile(r"configure_(train|evaluate): Sampled (\d+) nodes")
_RECEIVED = re.compile(r"aggregate_(train|evaluate): Received (\d+) results and (\d+) failures")
_ERROR = re.compile(r"> Received error in reply from node \d+: (.*)")


@dataclass(frozen=True)
class Trace:
    """What is left of a trial; all times are Unix seconds.

    Attributes:
        progress: one line a round (``round``, ``at``, ``model``, ``done``), 0 before the first.
        work: one line when a client begins to train and one when it has (``node``, ``round``, ``phase``).
        log: what the strategy logged.
        status: what `flwr list` shows last, as ``finished:completed``.
    """

    begun: float
    ended: float
    struck_at: float
    progress: Sequence[dict[str, Any]]
    work: Sequence[dict[str, Any]]
    log: str
    status: str
    details: str


def found(trace: Trace, nodes: int, rounds: int) -> dict[str, Any]:
    """Return a trial's row."""
    short = short_rounds(trace.log, nodes)
    ends = {line["round"]: line["at"] for line in reversed(trace.progress) if line["round"]}
    models = [line["model"] for line in trace.progress if line["done"]]
    outcome = classify(trace, bool(short), rounds)
    after = [at for at in ends.values() if trace.struck_at and at > trace.struck_at]
    before = [at for at in ends.values() if not trace.struck_at or at <= trace.struck_at]
    return {
        "outcome": outcome,
        "status": trace.status,
        "details": trace.details,
        "took_s": ends.get(rounds, trace.ended) - trace.begun,
        "struck_s": trace.struck_at - trace.begun if trace.struck_at else None,
        "rounds_before": len(before),
        "rounds_done": len(ends),
        "rounds_lost": len(ends) if outcome == "failed" else 0,
        "short": short,
        "next_round_s": min(after) - trace.struck_at if after else None,
        "begun": sum(line["phase"] == "begun" for line in trace.work),
        "trained": sum(line["phase"] == "done" for line in trace.work),
        "model": models[-1] if models else None,
    }


def classify(trace: Trace, short: bool, rounds: int) -> str:
    """Return ``completed``, ``completed, short``, ``failed``, ``hangs`` or ``still running``.

    A run is completed when Flower lists it so and the app has seen the end of the last round; it is short
    when the strategy went on in some round without an answer from each node.
    """
    ended = max((line["at"] for line in trace.progress), default=trace.begun)
    last = max((line["round"] for line in trace.progress), default=0)
    if trace.status == "finished:completed" and last == rounds:
        return "completed, short" if short else "completed"
    if trace.status.startswith("finished"):
        return "failed"
    return "hangs" if trace.ended - ended >= STALL_S else "still running"


def short_rounds(log: str, nodes: int) -> list[dict[str, Any]]:
    """Return the exchanges of a run in which fewer than all nodes answered, as the strategy wrote them."""
    rows: list[dict[str, Any]] = []
    round_, sampled = 0, 0
    for line in clean(log).splitlines():
        if match := _ROUND.search(line):
            round_ = int(match[1])
        elif match := _SAMPLED.search(line):
            sampled = int(match[2])
        elif match := _RECEIVED.search(line):
            results, failures = int(match[2]), int(match[3])
            row = {"round": round_, "phase": match[1], "sampled": sampled, "results": results}
            rows.append(row | {"failures": failures, "why": []})
        elif (match := _ERROR.search(line)) and rows:
            rows[-1]["why"].append(match[1])
    return [row for row in rows if row["results"] < nodes]


def clean(log: str) -> str:
    """A log without the codes that colour it."""
    return _COLOUR.sub("", log)
