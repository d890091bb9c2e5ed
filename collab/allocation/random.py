"""Each site does subtasks drawn at random from those that it can: the baseline that a policy must beat."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from collab.allocation.budgets import Work, check, finish_together
from collab.allocation.contract import Request, Suggestion
from collab.allocation.feasibility import able


@dataclass(frozen=True)
class Options:
    """What a collaboration may set.

    Attributes:
        work, most: budgets with which the sites drawn finish together, as with ``consilium``; as they are,
            all do all their local epochs once.

    Raises:
        ConfigError: one of them is not in its range.
    """

    work: float = 1.0
    most: float = 1.0

    def __post_init__(self) -> None:
        check("random", self.work, self.most)


def allocate(request: Request, rng: np.random.Generator, options: Options | None = None) -> list[Suggestion]:
    """Fill each site's capacity by a uniform draw without replacement; the score is the chance of a pair."""
    suggestions: list[Suggestion] = []
    works: list[Work] = []
    for site, subtasks in able(request):
        count = min(request.capacity, len(subtasks))
        chance = count / len(subtasks)
        reason = f"drawn at random: {count} of the {len(subtasks)} that the site can do"
        drawn = [subtasks[index] for index in rng.permutation(len(subtasks))[:count]]
        suggestions += [Suggestion(site.name, subtask.name, chance, reason) for subtask in drawn]
        works += [
            Work(site.name, k.name, site.examples[k.name], request.seconds(site, k.name))
            for k in drawn
            if k.normalises
        ]
    chosen = options or Options()
    budgets = finish_together(works, chosen.work, chosen.most)
    return [replace(s, budget=budgets.get((s.site, s.subtask), 1.0)) for s in suggestions]
