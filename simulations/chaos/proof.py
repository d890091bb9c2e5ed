"""``python -m simulations.chaos.proof``: fail every step of a run's journal (``simulations.chaos.journal``).

The pass rule, fixed before anything is run: from whatever is left, the run comes to the SHA-256 of every
model and to the events that it comes to undisturbed, and no contribution is merged twice; and no run goes on
past a write that failed, unless it was the removal of what nobody needs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from server.environment import be_quiet
from simulations.chaos.journal import Proof, Verdict
from simulations.chaos.plan import failure_bound


def main() -> None:
    """Try all steps, or some, and print what was found."""
    parser = argparse.ArgumentParser(prog="simulations.chaos.proof", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="try each step of so many")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    be_quiet()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="consilium-proof-") as scratch:
        proof = Proof(Path(scratch), every=options.every)
        found = proof.run(_tell)
    if options.json:
        options.json.write_text(json.dumps(as_json(found), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(markdown(found))
    sys.exit(1 if found.failures else 0)


def as_json(found: Verdict) -> dict[str, Any]:
    """Return all that was found."""
    return {
        "steps": dict(found.steps),
        "points": dict(found.points),
        "folders": found.folders,
        "failures": found.failures,
        "failure_bound_95": None if found.failures else failure_bound(found.folders),
    }


def markdown(found: Verdict) -> str:
    """Return a table of what was tried, and what it came to."""
    steps = ", ".join(f"{count} {name}" for name, count in sorted(found.steps.items()))
    tried, count = sum(found.points.values()), sum(found.steps.values())
    said = f"A run of {count} steps ({steps}). What these {tried} points leave are {found.folders} different "
    lines = [
        "| what happens at a step | points tried |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in sorted(found.points.items())),
        "",
        f"{said}folders; the run was resumed from each of them. {len(found.failures)} failed.",
    ]
    return "\n".join([*lines, *(f"- {failure}" for failure in found.failures)]) + "\n"


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
