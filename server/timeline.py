"""The allocation timeline: who was asked to do what, round by round, and what came of it."""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.reading import at, names
from server.units import duration, number

Allocation = Mapping[str, Any]

_PAGE, _LABELS, _TOP = 1040, 128, 22
_WIDEST, _NARROWEST = 40.0, 7.0
_LETTER_NEEDS = 13.0


@dataclass(frozen=True)
class Cell:
    """One assignment: a box at (x, y), its subtask's colour and letter, its outcome and its tooltip."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    letter: str
    outcome: str
    title: str


@dataclass(frozen=True)
class Timeline:
    """Sites down, rounds across."""

    width: float
    height: float
    rows: list[tuple[float, float, str]]
    columns: list[tuple[float, str]]
    cells: list[Cell]


def letters(subtasks: Sequence[str]) -> dict[str, str]:
    """Return a short mark for each subtask, A to Z, then A1 ...: what colour says, said without colour."""
    alphabet = string.ascii_uppercase
    return {name: alphabet[i % 26] + (str(i // 26) if i >= 26 else "") for i, name in enumerate(subtasks)}


def timeline(summary: Mapping[str, Any]) -> Timeline | None:
    """Lay out every assignment of the run, or return None if there was none."""
    allocations: list[Allocation] = list(at(summary, "allocations") or [])
    if not allocations:
        return None
    boxes = _boxes(allocations)
    sites = list(dict.fromkeys([*names(at(summary, "sites")), *(a["site"] for a in allocations)]))
    lanes = max(len(box) for box in boxes.values())
    rounds = max(a["round"] for a in allocations)
    wide = max(_NARROWEST, min(_WIDEST, (_PAGE - _LABELS - 12) / rounds))
    high = max(18.0 if len(sites) <= 24 else 14.0, 9.0 * lanes)
    every = next(step for step in (1, 2, 5, 10, 20, 50, rounds) if step * wide >= 22 or step == rounds)
    labelled = [r for r in range(1, rounds + 1) if r == 1 or r % every == 0]
    return Timeline(
        width=_LABELS + rounds * wide + 12,
        height=_TOP + len(sites) * high + 2,
        rows=[(_TOP + i * high, high, site) for i, site in enumerate(sites)],
        columns=[(_LABELS + (r - 0.5) * wide, str(r)) for r in labelled],
        cells=_cells(summary, boxes, sites, (wide, high)),
    )


def _boxes(allocations: Sequence[Allocation]) -> dict[tuple[str, int], list[Allocation]]:
    """Group the assignments by site and round."""
    boxes: dict[tuple[str, int], list[Allocation]] = defaultdict(list)
    for allocation in allocations:
        boxes[allocation["site"], allocation["round"]].append(allocation)
    return boxes


def _cells(
    summary: Mapping[str, Any],
    boxes: Mapping[tuple[str, int], Sequence[Allocation]],
    sites: Sequence[str],
    size: tuple[float, float],
) -> list[Cell]:
    wide, high = size
    subtasks = list(dict.fromkeys([*names(at(summary, "subtasks")), *_asked(boxes)]))
    mark, order = letters(subtasks), {name: i for i, name in enumerate(subtasks)}
    row = {site: i for i, site in enumerate(sites)}
    gap = 1.0 if wide > 10 else 0.5
    cells = []
    for (site, number_of_round), box in boxes.items():
        slot = high / len(box)
        for i, one in enumerate(sorted(box, key=lambda a: order[a["subtask"]])):
            fits = min(wide, slot) >= _LETTER_NEEDS
            cells.append(
                Cell(
                    x=round(_LABELS + (number_of_round - 1) * wide + gap, 2),
                    y=round(_TOP + row[site] * high + i * slot + gap, 2),
                    width=round(wide - 2 * gap, 2),
                    height=round(slot - 2 * gap, 2),
                    colour=order[one["subtask"]] % 8,
                    letter=mark[one["subtask"]] if fits else "",
                    outcome=one["outcome"],
                    title=_title(one),
                )
            )
    return cells


def _asked(boxes: Mapping[tuple[str, int], Sequence[Allocation]]) -> list[str]:
    return [one["subtask"] for box in boxes.values() for one in box]


def _title(one: Allocation) -> str:
    """Return what the tooltip says: the assignment, its outcome, and why the allocator chose it."""
    again = f", attempt {one['attempt']}" if (one.get("attempt") or 1) > 1 else ""
    took = f" in {duration(one['seconds'])}" if one.get("seconds") is not None else ""
    detail = f" ({one['detail']})" if one.get("detail") else ""
    why = f" Chosen: {one['reason']}" if one.get("reason") else ""
    score = f" Score {number(one['score'])}." if one.get("score") is not None else ""
    head = f"Round {one['round']}{again}: {one['site']}, {one['subtask']}: {one['outcome']}{took}{detail}."
    return f"{head}{score}{why}"
