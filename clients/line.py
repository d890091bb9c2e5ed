"""How fast the line to the server was when the site last asked it: for what ``site.toml`` does not state."""

from __future__ import annotations

import json
from pathlib import Path

from protocol.errors import UserError
from protocol.files import read_bounded, replace

# Where nothing is stated and nothing was measured, as in a site without a kit.
ASSUMED_MBIT = 100.0
_FASTEST_MBIT = 1e6


def keep(kit: Path, mbit: float) -> None:
    """Keep what was measured, in Mbit/s, for the site's other processes."""
    replace(kit / "state" / "line.json", json.dumps({"mbit": round(min(mbit, _FASTEST_MBIT), 3)}).encode())


def mbit(kit: Path) -> float:
    """Return what was measured last, in Mbit/s."""
    try:
        found = json.loads(read_bounded(kit / "state" / "line.json", 1024))["mbit"]
    except (UserError, ValueError, KeyError, TypeError):
        return ASSUMED_MBIT
    is_rate = isinstance(found, int | float) and not isinstance(found, bool) and 0 < found <= _FASTEST_MBIT
    return float(found) if is_rate else ASSUMED_MBIT
