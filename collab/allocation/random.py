"""Each site does subtasks drawn at random from those that it can: the baseline that a policy must beat."""

from __future__ import annotations

import numpy as np

from collab.allocation.contract import Request, Suggestion
from collab.allocation.feasibility import able


def allocate(request: Request, rng: np.random.Generator) -> list[Suggestion]:
    """Fill each site's capacity by a uniform draw without replacement; the score is the chance of a pair."""
    suggestions: list[Suggestion] = []
    for site, subtasks in able(request):
        count = min(request.capacity, len(subtasks))
        chance = count / len(subtasks)
        reason = f"drawn at random: {count} of the {len(subtasks)} that the site can do"
        drawn = rng.permutation(len(subtasks))[:count]
        suggestions += [Suggestion(site.name, subtasks[index].name, chance, reason) for index in drawn]
    return suggestions
