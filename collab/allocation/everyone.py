"""Every site does every subtask that it can: full participation, the upper bound of what a round can get."""

from __future__ import annotations

import numpy as np

from collab.allocation.contract import Request, Suggestion
from collab.allocation.feasibility import able

IGNORES_CAPACITY = True


def allocate(request: Request, rng: np.random.Generator) -> list[Suggestion]:  # noqa: ARG001
    """Suggest every feasible pair; every score is 1."""
    return [
        Suggestion(
            site.name, subtask.name, 1.0, f"everyone takes part: {site.examples[subtask.name]} examples"
        )
        for site, subtasks in able(request)
        for subtask in subtasks
    ]
