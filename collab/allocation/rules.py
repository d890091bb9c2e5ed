"""Who does what is written down: ``[allocation.rules]``, in the order of the file.

A rule is a hard condition under every policy. Here it is also the priority: a site fills its
capacity with the subtasks whose rules it meets, in the order in which the rules are written,
and then with subtasks that have no rule, which are open to every site that can do them.
"""

from __future__ import annotations

import numpy as np

from collab.allocation.contract import Request, SiteView, Suggestion
from collab.allocation.feasibility import able


def allocate(request: Request, rng: np.random.Generator) -> list[Suggestion]:  # noqa: ARG001
    """Suggest each site's first subtasks; the score falls with the place in the file: 1, 1/2, 1/3 and on."""
    places = {name: place for place, name in enumerate(request.rules)}
    suggestions: list[Suggestion] = []
    for site, subtasks in able(request):
        # sorted() is stable: subtasks without a rule follow in the request's order
        names = sorted((s.name for s in subtasks), key=lambda name: places.get(name, len(places)))
        suggestions += [
            _suggest(request, site, name, rank) for rank, name in enumerate(names[: request.capacity])
        ]
    return suggestions


def _suggest(request: Request, site: SiteView, subtask: str, rank: int) -> Suggestion:
    rule = request.rules.get(subtask)
    reason = "no rule, open to every site that can do it" if rule is None else f"meets the rule {rule}"
    return Suggestion(site.name, subtask, 1.0 / (1 + rank), reason)
