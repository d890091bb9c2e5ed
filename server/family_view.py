"""How a person sees a family: who trains together, and the affinities that spoke for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from server.reading import at
from server.units import MISSING, counted, plain, real, with_error

_WIDTH = 80


def families(decompositions: object) -> dict[str, Mapping[str, Any]]:
    """Return those of a summary's decompositions that are families; the others are wholes."""
    found = decompositions if isinstance(decompositions, Mapping) else {}
    return {name: one for name, one in found.items() if at(one, "by") == "affinity"}


def wholes(decompositions: object) -> dict[str, Mapping[str, Any]]:
    """Return those of a summary's decompositions whose parts answer together."""
    found = decompositions if isinstance(decompositions, Mapping) else {}
    return {name: one for name, one in found.items() if at(one, "by") != "affinity"}


def groups(family: Mapping[str, Any]) -> str:
    """Return the groups in one line: "shape + colour | speed"; all together where none were made."""
    found = at(family, "groups") or [at(family, "subtasks") or []]
    return " | ".join(" + ".join(plain(name) for name in group) for group in found)


def cell(family: Mapping[str, Any], row: int, column: int) -> str:
    """Return 100 Z of a step for ``row`` on ``column``, with its standard error."""
    value = _number(at(family, "affinity"), row, column)
    error = _number(at(family, "standard_errors"), row, column)
    return MISSING if value is None else with_error(100 * value, None if error is None else 100 * error)


def families_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return one row for each family."""
    table = _table("Families: who trains with a shared encoder")
    for heading in ("family", "groups", "split after", "measuring took"):
        table.add_column(heading, overflow="fold")
    for name, family in found.items():
        after = at(family, "split_after")
        when = "never" if after is None else f"round {after}"
        when += ": one group" if len(at(family, "groups") or ()) == 1 else ""
        row = [plain(name), groups(family), when]
        took = counted(int(at(family, "measuring_examples") or 0), "example")
        table.add_row(*(Text(text) for text in (*row, took)))
    return table


def affinity_table(name: str, family: Mapping[str, Any]) -> Table:
    """Return the affinities of one family: what a step for a row's subtask took off a column's loss."""
    subtasks = [plain(subtask) for subtask in at(family, "subtasks") or []]
    table = _table(f"{plain(name)}: % that a step for … takes off the loss of …")
    for heading in ("", *subtasks):
        table.add_column(Text(heading), justify="right" if heading else "left", overflow="fold")
    for row, subtask in enumerate(subtasks):
        table.add_row(Text(subtask), *(Text(cell(family, row, k)) for k in range(len(subtasks))))
    return table


def _number(table: object, row: int, column: int) -> float | None:
    try:
        return real(table[row][column]) if isinstance(table, Sequence) else None
    except (IndexError, TypeError):
        return None


def _table(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    table.min_width = min(len(title), _WIDTH)  # else a narrow table folds its title
    return table
