"""What a run's journal says: who wrote it, whether it is whole, and what became of each assignment."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from protocol.errors import DataError
from server.journal.states import Standing, standings
from server.runlog import leases, rows, run_of
from server.units import plain

_MOST = 200


@dataclass(frozen=True)
class Audit:
    """A journal that was read to its end, each row being the one that was written.

    ``head`` is the chain value of its last row; who noted it can tell later that nothing was rewritten.
    """

    run: str
    head: str
    kinds: dict[str, int]
    processes: list[dict[str, Any]]
    standings: dict[str, Standing]
    ended: str

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return asdict(self)


def audit(folder: Path) -> Audit:
    """Read a run's journal and check each row.

    Raises:
        DataError: there is none, a row is not the one that was written, or says what cannot be.
    """
    run, found = run_of(folder), list(rows(folder))
    if not found:
        raise DataError(f"{folder}: its journal is empty")
    last = found[-1]
    ended = next(iter(last.body.values()), "") if last.kind == "ended" else ""
    kinds = dict(sorted(Counter(row.kind for row in found).items()))
    return Audit(run, last.chain.hex(), kinds, leases(folder), standings(found, run), str(ended))


def shown(found: Audit) -> RenderableType:
    """Return the audit for a terminal; of many assignments those that are not committed."""
    count = sum(found.kinds.values())
    end = f"it has ended: {found.ended}" if found.ended else "it has not ended"
    lines = [
        f"run {found.run}: {count} rows, each the one that was written; {end}",
        f"head of the chain: {found.head}",
        f"processes: {', '.join(_process(one) for one in found.processes)}",
    ]
    table = Table(box=None, pad_edge=False)
    for name in ("round", "subtask", "site", "state", "examples", "digest", "why"):
        table.add_column(name, overflow="fold")
    everything = list(found.standings.items())
    some = everything if len(everything) <= _MOST else [x for x in everything if x[1].state != "COMMITTED"]
    for _, one in some[-_MOST:]:
        examples = str(one.num_examples or "")
        table.add_row(
            str(one.round), one.subtask, one.site, one.state, examples, one.digest[:12], plain(one.why)
        )
    if len(some[-_MOST:]) < len(everything):
        lines.append(f"{len(some[-_MOST:])} of {len(everything)} assignments; all of them: --json")
    return Group("\n".join(lines), "", table)


def _process(one: dict[str, Any]) -> str:
    what = ", ".join(f"{key} {one[key]}" for key in ("pid", "torch", "device") if key in one)
    return f"{one['lease']} ({what})"
