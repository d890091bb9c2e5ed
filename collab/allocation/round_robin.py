"""Sites take turns over the subtasks: nothing is learnt, and nobody waits longer than a full turn.

A site that can do f subtasks and holds c a round does each of them again within ceil(f / c)
rounds. Among sites that can do the same subtasks, the numbers of sites that two subtasks get
in a round differ by at most one.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from collab.allocation.contract import Request, Suggestion
from collab.allocation.feasibility import able


def allocate(request: Request, rng: np.random.Generator) -> list[Suggestion]:  # noqa: ARG001
    """Give each site the next stretch of its own list; every score is 1."""
    suggestions: list[Suggestion] = []
    peers: Counter[tuple[str, ...]] = Counter()
    for site, subtasks in able(request):
        names = tuple(subtask.name for subtask in subtasks)
        count = min(request.capacity, len(names))
        # Stretches of peers, and of one site's rounds, lie end to end around the list: hence
        # both laws. Places are counted among peers; counted over all sites, sites that can do
        # the same and stand at even places would move in step.
        start = count * (request.round + peers[names])
        peers[names] += 1
        for place in ((start + step) % len(names) for step in range(count)):
            reason = (
                f"its turn in round {request.round}: {place + 1} of the {len(names)} that the site can do"
            )
            suggestions.append(Suggestion(site.name, names[place], 1.0, reason))
    return suggestions
