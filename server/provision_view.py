"""What `consilium provision` says: what became of each party, and what to do next."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from server.provision import Provisioned

_NEXT = (
    "copy each kit to its party by a way that nobody else can read, then delete the private keys here",
    "have each site compare the fingerprint with you over the phone before it starts",
    "keep the authority's folder offline; it is needed again to renew, add or revoke",
)


def as_dict(made: Provisioned) -> dict[str, Any]:
    """Return what was written, for ``--json``; no secret is in it."""
    return {
        "federation": made.federation,
        "epoch": made.epoch,
        "fingerprint": made.fingerprint,
        "authority": str(made.authority),
        "kits": [
            {"name": kit.name, "folder": str(kit.folder), "state": kit.state, "certificate_until": kit.until}
            for kit in made.kits
        ],
        "notes": list(made.notes),
    }


def shown(made: Provisioned) -> RenderableType:
    """Return the table of kits and what to do next."""
    table = Table(box=box.SIMPLE, title=f"{made.federation}, roster epoch {made.epoch}", title_justify="left")
    for column in ("party", "kit", "certificate until", "state"):
        table.add_column(column, overflow="fold")
    for kit in made.kits:
        table.add_row(kit.name, Text(str(kit.folder)), kit.until or "", kit.state)
    notes = [Text(f"note: {note}") for note in made.notes]
    steps = [Text(f"next: {step}") for step in _NEXT]
    key = Text(f"authority's fingerprint (SHA-256):\n  {made.fingerprint[:39]}\n  {made.fingerprint[40:]}")
    return Group(table, key, Text(), *notes, *steps)
