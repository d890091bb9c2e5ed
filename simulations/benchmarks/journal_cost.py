"""What the journal costs a run, and how long it takes to be back where a run was when it was killed.

A built-in scenario is carried out on the local engine with a disk that times its steps. Just before its last
transaction the folder is copied, as a kill there would leave it, and the run is resumed from the copy: all
of it is read again, and only the last step is done. Medians of several runs; seconds are of one machine, the
shares are what to compare.

    python simulations/benchmarks/journal_cost.py [--scenario clinic] [--rounds 10] [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.app import app as client_app
from collab.collaboration import Collaboration
from collab.settings import parse, parse_toml, read_text
from server.environment import be_quiet
from server.federation import Terms, federate, to_toml
from server.flwr_adapter import task_identity
from server.journal.disk import Disk, T
from server.runlog import rows
from simulations.local_engine import LocalGrid
from simulations.simulate import ready, scenario_path

RUN = "run"


@dataclass
class TimedDisk(Disk):
    """Times what a journal does to the disk, and copies the folder before each transaction."""

    folder: Path
    copy: Path | None = None
    seconds: float = 0.0
    steps: int = 0
    num_bytes: int = 0

    def write(self, path: Path, data: bytes) -> None:
        """Make a file anew."""
        self.num_bytes += len(data)
        self._timed(lambda: super(TimedDisk, self).write(path, data))

    def sync(self, path: Path) -> None:
        """Have a file's bytes on the disk."""
        self._timed(lambda: super(TimedDisk, self).sync(path))

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name."""
        self._timed(lambda: super(TimedDisk, self).rename(source, target))

    def sync_folder(self, path: Path) -> None:
        """Have a folder's names on the disk."""
        self._timed(lambda: super(TimedDisk, self).sync_folder(path))

    def remove(self, path: Path) -> None:
        """Remove a file."""
        self._timed(lambda: super(TimedDisk, self).remove(path))

    def commit(self, transaction: Callable[[], T]) -> T:
        """Carry a transaction out."""
        if self.copy is not None and (self.folder / "summary.json").exists():
            shutil.rmtree(self.copy, ignore_errors=True)
            shutil.copytree(self.folder, self.copy)
        return self._timed(transaction)

    def _timed(self, do: Callable[[], T]) -> T:
        began = time.perf_counter()
        found = do()
        self.seconds += time.perf_counter() - began
        self.steps += 1
        return found


def measure(collaboration: Collaboration, scratch: Path) -> dict[str, Any]:
    """Return the figures of one run and of its resumption."""
    folder, copy = scratch / "first" / RUN, scratch / "second" / RUN
    disk = TimedDisk(folder, copy)
    run_s = _federate(collaboration, folder, disk)
    journal = list(rows(folder))
    resumed = TimedDisk(copy)
    resume_s = _federate(collaboration, copy, resumed)
    for path in (folder.parent, copy.parent):
        shutil.rmtree(path)
    return {
        "run_s": run_s,
        "disk_s": disk.seconds,
        "disk_share": disk.seconds / run_s,
        "steps": disk.steps,
        "content_bytes": disk.num_bytes,
        "rows": len(journal),
        "row_bytes": sum(len(json.dumps(row.body)) for row in journal),
        "resume_s": resume_s,
        "resume_share": resume_s / run_s,
    }


def _federate(collaboration: Collaboration, folder: Path, disk: Disk) -> float:
    grid = LocalGrid(client_app, len(collaboration.sites), {"collaboration": to_toml(collaboration)})
    terms = Terms(RUN, folder, "simulated", "local", baselines=False)
    began = time.perf_counter()
    with task_identity(grid.run.run_id):
        federate(grid, collaboration, terms, None, grid, disk)
    return time.perf_counter() - began


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", default="clinic")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    be_quiet()
    path = scenario_path(options.scenario)
    tables = parse_toml(read_text(path), str(path)) | {"rounds": options.rounds}
    collaboration = ready(parse(tables, str(path), path.parent), path.resolve().parent)
    with tempfile.TemporaryDirectory() as scratch:
        found = [measure(collaboration, Path(scratch)) for _ in range(options.runs)]
    medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
    if options.json:
        said = {"scenario": options.scenario, "rounds": options.rounds, "medians": medians, "runs": found}
        options.json.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(_markdown(medians, options))


def _markdown(medians: dict[str, float], options: argparse.Namespace) -> str:
    cells = [
        f"{medians['run_s']:.2f} s",
        f"{medians['disk_s']:.2f} s ({medians['disk_share']:.1%})",
        f"{medians['steps']:.0f}",
        f"{medians['rows']:.0f} rows, {medians['row_bytes'] / 1e6:.2f} MB",
        f"{medians['content_bytes'] / 1e6:.2f} MB",
        f"{medians['resume_s']:.2f} s ({medians['resume_share']:.1%})",
    ]
    heads = ["a run", "of that on the disk", "steps", "journal", "content written", "resumed at its end in"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", "| " + " | ".join(cells) + " |"]
    about = f"{options.scenario}, {options.rounds} rounds, without baselines; medians of {options.runs} runs."
    return "\n".join([*lines, "", about]) + "\n"


if __name__ == "__main__":
    main()
