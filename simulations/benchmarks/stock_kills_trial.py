"""One trial of ``stock_kills``: a run of stock Flower, a fault in the midst of it, and what came of it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protocol.errors import RunError
from simulations.benchmarks.stock_flower import (
    StockFlower,
    node_name,
    stock_flower,
    write_app,
    write_certificates,
)
from simulations.benchmarks.stock_kills_app import CLIENT, CONFIG, SERVER
from simulations.benchmarks.stock_kills_faults import CONNECTED, Faults, Kind
from simulations.benchmarks.stock_kills_found import Trace, found

NODES, ROUNDS = 3, 4
FIRST, LAST = 1, 3  # the fault comes at a moment between the ends of these rounds
BOUND_S = 240.0  # from the kill
UNTIL_S = 600.0  # from the submission of a run, if nothing is done to it
_CONNECT_S, _COMMAND_S, _ASK_S, _POLL_S = 180.0, 120.0, 10.0, 0.3


@dataclass(frozen=True)
class Plan:
    """What chance decides of a trial.

    Attributes:
        moment: 3.4 is when 0.4 of the time that round 3 took has gone by since its end.
        node: which SuperNode, or whose ClientApp.
        gap_s: seconds between the two kills of a double one.
    """

    moment: float
    node: int
    gap_s: float


def drawn(*seed: int) -> Plan:
    """Return the plan of a trial."""
    rng = np.random.default_rng(seed)
    return Plan(float(rng.uniform(FIRST, LAST)), int(rng.integers(NODES)), float(rng.uniform(0, 2)))


def run_trial(kind: Kind, plan: Plan, folder: Path, stopped: threading.Event) -> dict[str, Any]:
    """Run one trial in an empty folder; return what was found; raises RunError once ``stopped`` is set."""
    app = write_app(folder / "app", "kills", CONFIG, server=SERVER, client=CLIENT)
    certificates = write_certificates(folder / "certificates")
    database = folder / "state.db"
    with stock_flower(folder, certificates, NODES, database, own_executor=kind.own_executor) as at:
        _await_nodes(at, stopped)
        said = at.run(app, {"rounds": ROUNDS, "out": str(folder)}, "--format", "json")
        run, begun = str(json.loads(said)["run-id"]), time.time()
        faults = Faults(at, plan.node)
        state = _follow(run, begun, kind, plan, faults, stopped)
        ended = time.time()
    trace = Trace(
        begun=begun,
        ended=ended,
        struck_at=faults.struck_at,
        progress=_lines(folder / "progress.jsonl"),
        work=_lines(folder / "work.jsonl"),
        log=(folder / "strategy.log").read_text(encoding="utf-8"),
        status=str(state.get("status", "")),
        details=str(state.get("status-details", "")),
    )
    return found(trace, NODES, ROUNDS) | {
        "moment": plan.moment,
        "node": plan.node,
        "killed": [[target, at_s - begun] for target, at_s in faults.killed],
        "node_back_s": faults.back_at - faults.struck_at if faults.back_at else None,
        "node_starts": faults.starts,
        "link_back_s": faults.link_back_at - faults.struck_at if faults.link_back_at else None,
    }


def _follow(
    run: str, begun: float, kind: Kind, plan: Plan, faults: Faults, stopped: threading.Event
) -> dict[str, Any]:
    """Watch the run, strike at its moment, and return how Flower lists it at its end or at the bound."""
    at, asked = faults.at, begun
    state: dict[str, Any] = {}
    with ThreadPoolExecutor(1) as asker:  # an answer may take long, and what is due must not wait for it
        answer: Future[dict[str, Any]] | None = None
        while time.time() < (faults.struck_at + BOUND_S if faults.struck_at else begun + UNTIL_S):
            _sleep(stopped)
            progress = _lines(at.folder / "progress.jsonl")
            if kind.targets and not faults.struck_at and come(progress, plan.moment):
                faults.strike(kind, plan.gap_s)
            at.watch()
            faults.tick(NODES)
            done = bool(progress) and progress[-1]["done"]
            if answer and answer.done():
                state, answer = answer.result() or state, None
                if str(state.get("status", "")).startswith("finished"):
                    return state
            elif not answer and time.time() > asked + _ASK_S and (faults.struck_at or done):
                asked, answer = time.time(), asker.submit(_listed, at, run)
    return _listed(at, run) or state


def come(progress: list[dict[str, Any]], moment: float) -> bool:
    """Whether a moment has come, by the rounds that have ended."""
    ends = {line["round"]: line["at"] for line in progress}
    whole = int(moment)
    if whole not in ends:
        return False
    took = ends[whole] - ends[whole - 1]
    return bool(time.time() >= ends[whole] + (moment - whole) * took)


def _await_nodes(at: StockFlower, stopped: threading.Event) -> None:
    until = time.monotonic() + _CONNECT_S
    logs = [at.log(node_name(number)) for number in range(NODES)]
    while not all(CONNECTED in log.read_text("utf-8", "replace") for log in logs):
        if time.monotonic() > until:
            raise RunError(f"not all SuperNodes have connected within {_CONNECT_S:.0f} s")
        _sleep(stopped)


def _sleep(stopped: threading.Event) -> None:
    if stopped.wait(_POLL_S):
        raise RunError("stopped")


def _listed(at: StockFlower, run: str) -> dict[str, Any]:
    """How `flwr list` shows the run; {} while it does not answer."""
    with suppress(ValueError, KeyError, IndexError):
        listed: dict[str, Any] = json.loads(_asked(at, "list", "stock", "--run-id", run, "--format", "json"))
        return dict(listed["runs"][0])
    return {}


def _asked(at: StockFlower, *arguments: str) -> str:
    """What Flower's command says; "" if the SuperLink does not answer."""
    with suppress(RunError, subprocess.TimeoutExpired):
        return at.flwr(*arguments, timeout_s=_COMMAND_S)
    return ""


def _lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that a process still adds to."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
