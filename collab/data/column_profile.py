"""What the cells of one column look like, before anyone has said what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd

# Markers that stand for "not known" in the wild. A number such as -9 is none: it may be a value.
MARKERS: Final = frozenset({"?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "-", "."})
# Between texts these are read as missing too; "None" or "-" may be a category there.
TEXT_MARKERS: Final = frozenset({"?", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null"})

_ID_NAME: Final = re.compile(
    r"(.*[_ .-])?(id|uuid|guid|mrn|ssn|nr|patient|subject|index|rowid)|unnamed_\d+", re.IGNORECASE
)
_CAMEL_ID: Final = re.compile(r".*[a-z]I[Dd]")


@dataclass(frozen=True)
class Profile:
    """One column.

    Attributes:
        known: how many cells are not missing. distinct: how many different ones.
        markers: which cells mean "missing".
        is_number: all known cells are finite numbers. is_whole: and whole ones.
        span: of numbers, largest less smallest.
    """

    name: str
    rows: int
    known: int
    distinct: int
    markers: frozenset[str] = field(repr=False)
    is_number: bool
    is_whole: bool
    span: float = field(repr=False)

    @property
    def is_constant(self) -> bool:
        """No two known cells differ."""
        return self.distinct <= 1

    @property
    def is_named_id(self) -> bool:
        """Its name says identifier: id, patient_id, caseID, mrn."""
        return bool(_ID_NAME.fullmatch(self.name) or _CAMEL_ID.fullmatch(self.name))

    @property
    def is_unique(self) -> bool:
        """Its cells tell rows apart: all differ, and they are text or number the rows through."""
        all_differ = self.known >= 10 and self.distinct == self.known
        return all_differ and (not self.is_number or (self.is_whole and self.span == self.known - 1))

    @property
    def is_free_text(self) -> bool:
        """Text with too many different cells to be categories: names, dates, remarks."""
        return not self.is_number and self.distinct > 50 and self.distinct > self.known / 2


def profile(name: str, cells: pd.Series[str]) -> Profile:
    """Return what a column of stripped text cells looks like."""
    counts = cells.value_counts()
    texts = [str(text) for text in counts.index]
    without = frozenset(text for text in texts if text not in MARKERS and text)
    numbers = _numbers(without)
    is_number = numbers is not None and len(without) > 0
    missing = MARKERS if is_number else TEXT_MARKERS
    known = [text for text in texts if text and text not in missing]
    return Profile(
        name=name,
        rows=len(cells),
        known=int(counts[known].sum()),
        distinct=len(known),
        markers=missing & frozenset(texts),
        is_number=is_number,
        is_whole=numbers is not None and bool((numbers == np.floor(numbers)).all()),
        span=float(np.ptp(numbers)) if numbers is not None and len(numbers) else 0.0,
    )


def _numbers(texts: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    try:
        numbers = np.array([float(text) for text in texts], dtype=np.float64)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None
