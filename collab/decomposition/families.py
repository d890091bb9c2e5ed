"""What keeps the families of a collaboration from training together: one line a problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from collab.decomposition.affinity_terms import problems
from collab.plugins import unknown

if TYPE_CHECKING:
    from collab.collaboration import Collaboration
    from collab.data.config import DataConfig

# What of a block says what is predicted; all else shapes the inputs, by which a family's rows are split.
_OF_TARGETS: Final = frozenset({"target", "labels_path", "positive", "label_map", "abstain"})


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
        if member.part_of is not None:
            yield f"subtask '{name}' is a part of '{member.part_of}', split as the others: leave out family"
        elif family is None and c.families:  # a baseline of plain FedAvg has none, and the run's sides
            yield unknown(f"family '{member.family}' of subtask '{name}'", member.family, c.families)
        elif family is not None and name not in family.subtasks:
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
        yield from unlike({block: c.data[block] for block in known})


def unlike(blocks: Mapping[str, DataConfig]) -> Iterator[str]:
    """Yield which of one family's blocks read the same rows in unlike ways.

    Their rows are told by their inputs: read otherwise, a row that tests one subtask would be unknown to
    the other, and train it.
    """
    first: dict[tuple[object, ...], str] = {}
    for name, block in blocks.items():
        other = first.setdefault(block.source, name)
        own, others = _shapes(block), _shapes(blocks[other])
        key = next((key for key in own if own[key] != others[key]), None)
        if key is not None:
            yield (
                f"[data.{other}] and [data.{name}] are of one family and read the same rows: "
                f"give both the same {key}"
            )


def _shapes(block: DataConfig) -> dict[str, object]:
    """Return the keys that shape what a block's rows have as inputs."""
    kept = {key: value for key, value in block if key not in _OF_TARGETS | {"path", "files"}}
    if block.format == "csv" and block.features == "all":
        kept["drop"] = {*block.roles, *block.drop}
    return kept
