"""What keeps the families of a collaboration from training together: one line a problem."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collab.decomposition.affinity_terms import problems
from collab.plugins import unknown

if TYPE_CHECKING:
    from collab.collaboration import Collaboration


def cross_references(c: Collaboration, inputs: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with families and their subtasks; ``inputs`` is what each subtask's kind reads."""
    for name, terms in c.families.items():
        yield from problems(name, terms, c.subtasks, inputs, c.rounds)
        if len({c.allocation.rules.get(member) for member in terms.subtasks}) > 1:
            yield f"decomposition '{name}': its subtasks are allocated as one: give all the same rule"
    for name, member in c.subtasks.items():
        if member.family is None:
            continue
        family = c.families.get(member.family)
        if family is None:
            yield unknown(f"family '{member.family}' of subtask '{name}'", member.family, c.families)
        elif name not in family.subtasks:
            yield f"subtask '{name}' is not in [decomposition.{member.family}] subtasks: leave out family"
    yield from _splits(c)


def _splits(c: Collaboration) -> Iterator[str]:
    """Yield families whose blocks are split otherwise: a row that tests one subtask would train another."""
    for family in sorted({str(t.family) for t in c.subtasks.values() if t.family is not None}):
        blocks = [str(t.data) for t in c.subtasks.values() if t.family == family]
        known = [block for block in blocks if block in c.data]
        other = next((b for b in known if c.data[b].split != c.data[known[0]].split), None)
        if other is not None:
            yield (
                f"[data.{known[0]}] and [data.{other}] are of one family and may hold the same rows: "
                "give both the same split"
            )
