"""A journal that is not in its run's folder: which database it is in, and under which name there."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final, NamedTuple

from protocol.errors import DataError
from server.journal.disk import Disk

FILE_NAME: Final = "journal.url"
_APART: Final = "~"  # in no run's name
_MAX_BYTES = 4096


class Elsewhere(NamedTuple):
    """A database, and the name that a run has there: runs of one name in two folders are two runs."""

    url: str
    name: str


def choose(run: str, url: str) -> Elsewhere:
    """Return a place for the journal of a new run."""
    return Elsewhere(url, f"{run}{_APART}{secrets.token_hex(8)}")


def run_at(name: str) -> str:
    """Return the run that has this name in a database."""
    return name.partition(_APART)[0]


def find(folder: Path) -> Elsewhere | None:
    """Return where a folder says that its journal is; None where it does not say.

    Raises:
        DataError: what it says cannot be read.
    """
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_BYTES).decode().splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        lines = []
    if len(lines) != 2 or not all(lines):
        raise DataError(f"{path}: cannot be read; it should be a URL and a name, each on a line")
    return Elsewhere(*lines)


def keep(folder: Path, place: Elsewhere, disk: Disk) -> None:
    """Write into a folder where its journal is."""
    disk.put(folder / FILE_NAME, f"{place.url}\n{place.name}\n".encode())
