"""A site's rows become train, validation and test rows: a function of the seed and the data alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.data.apportion import apportion
from collab.data.config import SplitConfig
from collab.data.content import sides
from collab.data.examples import Examples, Text
from collab.data.units import Units, units_of
from collab.rng import generator
from protocol.errors import DataError

SIDES: Final = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Indices of a site's rows, ascending; together each row once."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split(
    examples: Examples,
    config: SplitConfig,
    seed: int,
    site: str,
    data_name: str = "",
    family: str | None = None,
) -> Split:
    """Return which rows of ``site`` train, validate and test.

    Rows whose ``split_N`` names a side keep it; the others are drawn. Of n drawn rows
    round(test * n) test and round(validation * n) validate, as near to each class's share as whole
    numbers allow, but the first row of a class that is scarce trains. Rows of one group stay
    together, so the shares are then met within half a group. At least one row trains.

    Args:
        examples: all rows of the site.
        config: the shares.
        seed: the collaboration's; the draw depends on it, the names below and the data alone.
        site: whose rows these are.
        data_name: which rows these are; two subtasks on one data set share their splits.
        family: the name under which rows are split by their content (``content.sides``): for subtasks whose
            blocks read the same rows with different targets. The shares are then met on average.

    Raises:
        DataError: the site has no row, a side has an unknown name, or no row is left to train on.
    """
    side_N = _given(examples, config, site)
    drawn = np.flatnonzero(side_N == "")
    if len(drawn) and family is not None:
        side_N[drawn] = sides(examples.take(drawn), config, seed, family)
    elif len(drawn):
        rng = generator(seed, data_name, site, "split")
        side_N[drawn] = _draw(examples.take(drawn), config, rng)
    train, validation, test = (np.flatnonzero(side_N == side) for side in SIDES)
    if not len(train):
        raise DataError(f"site '{site}' has {len(examples)} rows but none to train on")
    return Split(train, validation, test)


def _given(examples: Examples, config: SplitConfig, site: str) -> Text:
    if examples.split_N is None:
        return np.full(len(examples), "", dtype=object)
    side_N = np.array([side.strip().lower() for side in examples.split_N], dtype=object)
    unknown_N = ~np.isin(side_N.astype(str), (*SIDES, ""))
    if unknown_N.any():
        raise DataError(
            f"site '{site}': {int(unknown_N.sum())} cells of split column '{config.column}' are none of "
            f"{', '.join(SIDES)}"
        )
    return side_N


def _draw(examples: Examples, config: SplitConfig, rng: np.random.Generator) -> Text:
    rows = len(examples)
    # Official test rows replace the drawn ones.
    num_test = min(_rounded(0.0 if config.has_official_test else config.test, rows), rows - 1)
    num_validation = min(_rounded(config.validation, rows), rows - 1 - num_test)
    units = units_of(examples.y, examples.group_N)
    side_U = _draw_units(units, num_test, num_validation, rng)
    return side_U[units.unit_N]


def _rounded(share: float, rows: int) -> int:
    return int(np.floor(share * rows + 0.5))


def _draw_units(units: Units, num_test: int, num_validation: int, rng: np.random.Generator) -> Text:
    """Give each unit a side: in each class a random order, cut where its share of the rows is full."""
    sizes_C = np.bincount(units.class_U, weights=units.size_U).astype(np.int64)
    test_C = _per_class(num_test, sizes_C, np.zeros_like(sizes_C))
    validation_C = _per_class(num_validation, sizes_C, test_C)
    side_U = np.full(len(units.class_U), "train", dtype=object)
    for c, size in enumerate(sizes_C):
        if not size:
            continue
        members = rng.permutation(np.flatnonzero(units.class_U == c))
        # A unit belongs where its middle lies: for single rows that is the exact count.
        middle = np.cumsum(units.size_U[members]) - units.size_U[members] / 2
        side_U[members[middle < test_C[c] + validation_C[c]]] = "validation"
        side_U[members[middle < test_C[c]]] = "test"
    if not (side_U == "train").any():  # one large group can cross every border
        side_U[int(np.argmax(units.size_U))] = "train"
    return side_U


def _per_class(total: int, sizes_C: NDArray[np.int64], used_C: NDArray[np.int64]) -> NDArray[Any]:
    """Deal ``total`` rows out over the classes; a class keeps one to train on while others have more."""
    room_C = sizes_C - used_C
    dealt_C = apportion(total, sizes_C, np.maximum(room_C - 1, 0))
    return dealt_C + apportion(total - int(dealt_C.sum()), room_C - dealt_C, room_C - dealt_C)
