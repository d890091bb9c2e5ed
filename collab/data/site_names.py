"""A column of sites may hold any text; a site's name stands in paths, logs and keys."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import numpy as np

from collab.data.examples import Text
from protocol.errors import DataError

_MAX_CHARACTERS: Final = 64


def site_name(cell: str) -> str:
    """Return the site's name that ``cell`` stands for: "St. Mary's, Zürich" is "St.-Mary-s-Zurich"."""
    plain = unicodedata.normalize("NFKD", cell).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).lstrip("-_.")[:_MAX_CHARACTERS].rstrip("-")
    return name or "site"


def site_names(cells_N: Text, where: str) -> Text:
    """Return the name of each row's site.

    Raises:
        DataError: two different cells would become one site.
    """
    names = {cell: site_name(cell) for cell in set(cells_N.tolist())}
    if len(set(names.values())) < len(names):
        raise DataError(
            f"{where}: {len(names)} different sites would have {len(set(names.values()))} names: "
            f"they must differ in their first {_MAX_CHARACTERS} letters, digits, '_', '.' or '-'"
        )
    return np.array([names[cell] for cell in cells_N.tolist()], dtype=object)
