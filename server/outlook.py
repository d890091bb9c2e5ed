"""What a run would begin with: who could do each subtask, and a first allocation; nothing trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flwr.serverapp import Grid
from rich.console import Group, RenderableType
from rich.table import Table

from collab.allocation.feasibility import obstacles
from collab.collaboration import Collaboration
from collab.decomposition.dag import edges, levels
from collab.events import Abort, Decided, Instruction, Send, Skip
from collab.rounds import Rounds
from protocol.errors import RunError
from server.conductor import Conductor
from server.discovery import discover, joins_later
from server.families import alike
from server.federation import with_sets
from server.learners import make
from server.preparation import prepare
from server.record import Record
from server.simulated_courier import SimulatedCourier
from server.spool import Spool


@dataclass(frozen=True)
class Pair:
    """A site and a subtask: whether it could, with what and how fast, and whether it would begin with it."""

    site: str
    subtask: str
    examples: int
    model: str
    seconds: float
    obstacles: tuple[str, ...]
    assigned: bool
    reason: str


@dataclass(frozen=True)
class Outlook:
    """The first round's allocation, and all pairs that it chose from."""

    policy: str
    pairs: tuple[Pair, ...]
    unserved: Mapping[str, str]
    notes: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...] = ()
    """The subtasks that begin at once, those that come after them, and so on."""


def outlook(grid: Grid, collaboration: Collaboration) -> Outlook:
    """Ask every site what it has, and allocate the first round as a run would.

    Raises:
        RunError: too few sites joined, or none can take part.
        UserError: the collaboration or its data cannot be used.
    """
    notes: list[str] = []
    nodes, everybody = discover(grid, collaboration, notes)
    capabilities = {s: c for s, c in everybody.items() if not joins_later(collaboration, s)}
    courier = SimulatedCourier(grid, nodes, collaboration.sites, collaboration.seed)
    prepared = {
        name: with_sets(collaboration, one)
        for name, one in alike(collaboration, prepare(courier, collaboration, capabilities, notes)).items()
    }
    record = Record()
    learners = {name: make(collaboration, one, "plan", Spool(record)) for name, one in prepared.items()}
    conductor = Conductor(collaboration, "plan", courier, learners, record, lambda _: None, notes)
    given: tuple[Instruction, ...] = ()
    for event in conductor.opening(capabilities):
        given = conductor.machine.handle(event)
    return _outlook(collaboration, conductor.machine, given, notes)


def _outlook(
    collaboration: Collaboration, machine: Rounds, given: tuple[Instruction, ...], notes: list[str]
) -> Outlook:
    request = machine.request
    if request is None:
        aborted = next((i.reason for i in given if isinstance(i, Abort)), "no round could be opened")
        raise RunError(aborted)
    sent = {(i.site, i.subtask): i for i in given if isinstance(i, Send)}
    passed = {(w.site, w.subtask): w.reason for i in given if isinstance(i, Decided) for w in i.passed_over}
    pairs = []
    for subtask in request.subtasks:
        for site in request.sites:
            key = (site.name, subtask.name)
            models, group = machine.roster.sites[site.name].models, subtask.together or (subtask.name,)
            chosen = sent.get(key)
            pairs.append(
                Pair(
                    site.name,
                    subtask.name,
                    site.examples.get(subtask.name, 0),
                    next((models[name] for name in group if name in models), ""),
                    request.belief(*key).seconds if subtask.name in site.examples else 0.0,
                    tuple(obstacles(subtask, site, request.rules)),
                    chosen is not None,
                    chosen.reason if chosen else passed.get(key, ""),
                )
            )
    unserved = {i.subtask: i.reason for i in given if isinstance(i, Skip)}
    policy, found = collaboration.allocation.policy.rule, levels(edges(collaboration.subtasks))
    return Outlook(policy, tuple(pairs), unserved, tuple(notes), found)


def as_json(found: Outlook) -> dict[str, Any]:
    """Return what ``plan --json`` prints."""
    return {
        "policy": found.policy,
        "pairs": [asdict(pair) for pair in found.pairs],
        "unserved": dict(found.unserved),
        "levels": [list(level) for level in found.levels],
        "notes": list(found.notes),
    }


def shown(found: Outlook, collaboration: Collaboration) -> RenderableType:
    """Return what ``plan`` shows a person."""
    return Group(
        _subtasks(collaboration),
        *_families(collaboration),
        *_levels(found),
        *(_able(found, name) for name in dict.fromkeys(p.subtask for p in found.pairs)),
        *(f"{name}: nobody in the first round: {why}" for name, why in found.unserved.items()),
        *found.notes,
    )


def _subtasks(collaboration: Collaboration) -> Table:
    table = Table("subtask", "kind", "exchange", "metric", "importance", "rounds", box=None, pad_edge=False)
    for name, terms in sorted(collaboration.subtasks.items()):
        last = terms.until_round or collaboration.rounds
        rounds = (
            f"after {', '.join(terms.after)}, to {last}" if terms.after else f"{terms.from_round} to {last}"
        )
        table.add_row(name, terms.kind, terms.exchange, str(terms.metric), f"{terms.importance:g}", rounds)
    return table


def _families(collaboration: Collaboration) -> Iterator[str]:
    """Yield who trains together at first."""
    for name, terms in sorted(collaboration.families.items()):
        yield (
            f"{name}: {', '.join(terms.subtasks)} train together for {terms.merge_rounds} rounds, "
            f"led by {terms.subtasks[0]}; then in groups"
        )


def _levels(found: Outlook) -> Iterator[str]:
    """Yield which subtasks come in turn; nothing where none comes after another."""
    for number, names in enumerate(found.levels if len(found.levels) > 1 else (), start=1):
        when = "begins at once" if number == 1 else "once those are over, and on what they predict"
        start = "\n" if number == 1 else ""
        yield f"{start}level {number}, {when}: {', '.join(names)}"


def _able(found: Outlook, subtask: str) -> RenderableType:
    title = f"\n{subtask}: who could do it, and the first allocation by policy '{found.policy}'"
    table = Table("site", "examples", "model", "seconds", "first round", "why", box=None, pad_edge=False)
    for pair in found.pairs:
        if pair.subtask != subtask:
            continue
        could = not pair.obstacles
        table.add_row(
            pair.site,
            f"{pair.examples:,}" if pair.examples else "",
            pair.model if could else "",
            f"{pair.seconds:.3g}" if could else "",
            "does it" if pair.assigned else "could" if could else "cannot",
            "; ".join(pair.obstacles) if pair.obstacles else pair.reason,
        )
    return Group(title, table)
