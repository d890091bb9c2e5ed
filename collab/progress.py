"""How long work says how far it is, and is stopped: a function that it calls between batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

# Is given the share of the work that is done, in [0, 1]; raises to stop the work.
Tick = Callable[[float], None]


class Watched(TypedDict, total=False):
    """The option of whatever takes long: ``tick`` is called after each batch, and changes no number."""

    tick: Tick


def nothing(done: float) -> None:
    """Do nothing: nobody watches."""


def within(tick: Tick, start: float, stop: float) -> Tick:
    """Return the tick of a part of the work, which begins at ``start`` of the whole and ends at ``stop``."""
    # Rounding must not carry it beyond the end.
    return lambda done: tick(min(stop, start + (stop - start) * done))
