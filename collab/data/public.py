"""The public set of a scenario: unlabelled rows that all parties know, drawn before the partition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collab.data.examples import Examples
from collab.data.units import units_of
from protocol.errors import DataError


def draw_public(
    examples: Examples, holdout: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the public rows and of all other rows, both ascending.

    No row that ``split_N`` names a test row is drawn. Groups are drawn whole, so that no patient
    stands on both sides; the public set may then have a few rows less than ``holdout``.

    Raises:
        DataError: ``holdout`` leaves no row for the sites, or no group is small enough.
    """
    allowed = np.arange(len(examples))
    if examples.split_N is not None:
        allowed = np.flatnonzero(examples.split_N != "test")
    if not 0 < holdout < len(allowed):
        raise DataError(f"a public set of {holdout} rows cannot be held out of {len(allowed)} rows")
    candidates = examples.take(allowed)
    units = units_of(candidates.y, candidates.group_N)
    order = rng.permutation(len(units.size_U))
    chosen_U = np.zeros(len(order), dtype=np.bool_)
    chosen_U[order[np.cumsum(units.size_U[order]) <= holdout]] = True
    public = allowed[chosen_U[units.unit_N]]
    if not len(public):
        raise DataError(f"a public set of {holdout} rows is smaller than the first group drawn for it")
    return public, np.setdiff1d(np.arange(len(examples)), public)
