"""How the process that works on a run ends: with any other code it died, and another takes its place."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
FAILED: Final = 1
USERS: Final = 2
STOPPED: Final = 3
# Something that nobody thought of, or a journal that cannot be written now: another process may go on.
BROKEN: Final = 70
# An earlier process still has the journal: one that was stopped, and whose supervisor has died.
WAIT: Final = 71
# Flower took the run away.
LOST: Final = 75
