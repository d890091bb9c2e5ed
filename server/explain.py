"""Why a run did what it did: a round's decision from the log, and the question asked again.

The log is replayed up to the round, so the request to the policy is the one that it had then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from collab.allocation.contract import Request
from collab.allocation.explain import Why, why
from collab.collaboration import Collaboration
from collab.events import Decided, Grouped, Send, Started
from collab.rounds import Rounds
from protocol.errors import DataError, UserError
from server.families import said
from server.family_view import affinity_table
from server.journal.tables import FILE_NAME
from server.runlog import read

MOST_ANSWERS = 12


@dataclass(frozen=True)
class Round:
    """One round as it was decided: the request, the decision, and who was asked."""

    request: Request
    decided: Decided
    sent: tuple[Send, ...]
    grouped: tuple[Grouped, ...] = ()


def decision(folder: Path, collaboration: Collaboration, number: int) -> Round:
    """Return the decision of round ``number``; of the first allocation, not of what was handed on later.

    Raises:
        DataError: there is no log, or no run in it.
        UserError: the run has no such round.
    """
    run = next((e.run for e, _ in read(folder) if isinstance(e, Started)), None)
    if run is None:
        raise DataError(f"{folder / FILE_NAME}: no run was started in this log")
    machine, grouped = Rounds(collaboration, run), list[Grouped]()
    for event, _ in read(folder):
        if isinstance(event, Grouped):
            grouped.append(event)
        given = machine.handle(event)
        made = next((i for i in given if isinstance(i, Decided)), None)
        if made is not None and made.round == number and machine.request is not None:
            sent = tuple(i for i in given if isinstance(i, Send))
            return Round(machine.request, made, sent, tuple(grouped))
    raise UserError(f"{folder}: the run has no round {number}; its last is {machine.round}")


def explain(found: Round, collaboration: Collaboration, site: str | None, subtask: str | None) -> list[Why]:
    """Return why the assigned pairs of a round were; with ``site`` and ``subtask`` why that one was or not.

    Each takes dozens of allocations: of more than ``MOST_ANSWERS`` pairs none is explained, say whose.
    """
    policy = collaboration.allocation.policy
    if site is not None and subtask is not None:
        return [why(policy.rule, policy.options, found.request, site, subtask)]
    pairs = [
        (s.site, s.subtask)
        for s in found.sent
        if (site is None or s.site == site) and (subtask is None or s.subtask == subtask)
    ]
    if len(pairs) > MOST_ANSWERS:
        return []
    return [why(policy.rule, policy.options, found.request, *pair) for pair in pairs]


def as_json(found: Round, answers: list[Why]) -> dict[str, Any]:
    """Return what ``explain --json`` prints."""
    return {
        "decision": found.decided.model_dump(mode="json"),
        "grouped": [g.model_dump(mode="json") for g in found.grouped],
        "assigned": [s.model_dump(mode="json") for s in found.sent],
        "why": [asdict(answer) for answer in answers],
    }


def shown(found: Round, answers: list[Why], site: str | None, subtask: str | None) -> RenderableType:
    """Return what ``explain`` shows a person."""
    d = found.decided
    return Group(
        f"Round {d.round}: policy {d.policy}, seed {d.seed}, objective Σ λ f^α with α = {d.alpha:g}",
        _subtasks(found),
        *(line for one in found.grouped for line in _grouped(one)),
        *(_answer(answer) for answer in answers),
        "" if answers or not found.sent else "name --site or --subtask to read why",
        _passed_over(d, site, subtask),
    )


def _subtasks(found: Round) -> Table:
    table = Table("subtask", "importance λ", "loss f", "weight f^(α-1)", "sites", box=None, pad_edge=False)
    for view in found.request.subtasks:
        sites = [s.site for s in found.sent if s.subtask == view.name]
        table.add_row(
            " + ".join(view.together or (view.name,)),
            f"{view.importance:g}",
            f"{view.loss:.3f}",
            f"{view.weight:.3f}",
            ", ".join(sites) or "nobody",
        )
    return table


def _grouped(one: Grouped) -> tuple[RenderableType, ...]:
    exact = "no groups are worth more" if one.exact else "better groups were not found"
    return f"\n{said(one)}: {exact}", affinity_table(one.family, one.model_dump(mode="json"))


def _answer(answer: Why) -> str:
    verb = "does" if answer.assigned else "does not do"
    lines = [f"\n{answer.site} {verb} {answer.subtask}: {answer.reason}"]
    if answer.turned_by:
        lines.append("  it would have been otherwise with any one of these:")
        lines += [f"  - {one.change}" for one in answer.turned_by]
    else:
        lines.append("  no single change up to a factor of 1,000 would have turned it")
    return "\n".join(lines)


def _passed_over(decided: Decided, site: str | None, subtask: str | None) -> RenderableType:
    table = Table("passed over", "subtask", "score", "because", box=None, pad_edge=False)
    for one in _chosen(decided, site, subtask):
        table.add_row(one.site, one.subtask, f"{one.score:.3g}" if one.score else "", one.reason)
    more = f"and {decided.more:,} more" if decided.more else ""
    return Group("", table, more) if table.row_count else ""


def _chosen(decided: Decided, site: str | None, subtask: str | None) -> Iterator[Any]:
    for one in decided.passed_over:
        if (site is None or one.site == site) and (subtask is None or one.subtask == subtask):
            yield one
