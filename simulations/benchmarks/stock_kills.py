"""Stock Flower under kills of its processes: what becomes of a run, for each kind of kill, n = 3.

A SuperLink and three SuperNodes on loopback, with TLS, node authentication and Flower's default isolation,
``subprocess``, run FedAvg for four rounds; all of FedAvg's settings are Flower's defaults, and
``stock_kills_app`` says which. The SuperLink keeps its state in an SQLite file, for without one a SuperLink
that is started again knows of no run. In the kind called "own executor" the SuperLink has ``--isolation
process`` and a ``flower-superexec`` beside it.

In mid-run, at a moment drawn between the ends of rounds 1 and 3, a process is killed (SIGKILL), or stopped
for 90 s (SIGSTOP); a ClientApp, the next time that it trains after that moment. SuperLink and SuperNode are
started again 5 s later with the same database and key; a SuperNode that then ends is started again after 5,
10, 20, 20 ... s. What counts as completed: Flower lists the run as ``finished:completed`` and the ServerApp
has seen the end of round 4 within 240 s of the kill. Then each round either had the results of all three
nodes, or the run is said to be short. A run that has not ended by then hangs if no round has ended in its
last 120 s.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simulations.benchmarks.stock_kills_faults import BACK_OFF_S, PAUSE_S, RESTART_S, Kind
from simulations.benchmarks.stock_kills_found import STALL_S
from simulations.benchmarks.stock_kills_tables import shown
from simulations.benchmarks.stock_kills_trial import BOUND_S, FIRST, LAST, NODES, ROUNDS, drawn, run_trial

TRIALS, SEED = 3, 0
KINDS = (
    Kind("undisturbed"),
    Kind("ServerApp killed", ("server_app",)),
    Kind("SuperLink killed", ("link",)),
    Kind("SuperNode killed", ("node",)),
    Kind("ClientApp killed", ("client_app",)),
    Kind("SuperNode stopped 90 s", ("node",), pause=True),
    Kind("SuperLink and SuperNode killed", ("link", "node")),
    Kind("SuperLink killed, own executor", ("link",), own_executor=True),
)


def main() -> None:
    """Measure and print; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--first", type=int, default=1, help="the number of the first trial")
    parser.add_argument("--together", type=int, default=1, help="how many trials run at the same time")
    names = [kind.name for kind in KINDS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="KIND")
    parser.add_argument("--logs", type=Path, help="a folder to copy the processes' logs to")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # Each kind once, then each again: what is cut short has seen all kinds.
    cases = [
        (kind, index, number)
        for number in range(options.first - 1, options.trials)
        for index, kind in enumerate(KINDS)
        if kind.name in options.only
    ]
    rows: list[dict[str, Any]] = []
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def trial(case: tuple[Kind, int, int]) -> dict[str, Any]:
        kind, index, number = case
        return _trial(kind, index, number, options.logs, stopped)

    with ThreadPoolExecutor(options.together) as pool, _stopping(stopped, pool):
        for row in pool.map(trial, cases):
            rows.append(row)
            if options.json:
                options.json.write_text(
                    json.dumps(_summary(rows, options), indent=1) + "\n", encoding="utf-8"
                )
    print(shown(rows, names, NODES * ROUNDS))


@contextmanager
def _stopping(stopped: threading.Event, pool: ThreadPoolExecutor) -> Iterator[None]:
    """At the end, let the trials that still run end their processes and themselves, and start no more."""
    try:
        yield
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _trial(
    kind: Kind, index: int, number: int, logs: Path | None, stopped: threading.Event
) -> dict[str, Any]:
    """Run one trial in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="consilium-") as scratch:
        row = run_trial(kind, drawn(SEED, index, number), Path(scratch), stopped)
        if logs:
            kept = logs / f"{kind.name}-{number + 1}".replace(" ", "-")
            shutil.copytree(
                scratch, kept, ignore=shutil.ignore_patterns("*.db*", "*.pem", "*.key", "app", "node-*")
            )
    row = {"kind": kind.name, "trial": number + 1} | row
    print(f"{kind.name} {number + 1}: {row['outcome']}, {row['status']}", file=sys.stderr, flush=True)
    return row


def _summary(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    terms = {
        "flwr": version("flwr"),
        "nodes": NODES,
        "rounds": ROUNDS,
        "struck_between_rounds": [FIRST, LAST],
        "bound_s": BOUND_S,
        "stall_s": STALL_S,
        "restart_s": RESTART_S,
        "back_off_s": BACK_OFF_S,
        "pause_s": PAUSE_S,
        "seed": SEED,
        "together": options.together,
    }
    return {"at": time.strftime("%Y-%m-%d"), "terms": terms, "trials": list(rows)}


if __name__ == "__main__":
    main()
