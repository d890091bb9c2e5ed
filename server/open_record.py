"""To open the record of a run: its lock, its database, its lease, and that it began as it goes on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from protocol.bundle import bundle_digest, make_bundle
from protocol.errors import ConfigError
from server.journal.content import FOLDER, Content
from server.journal.database import at_url, in_file
from server.journal.disk import Disk
from server.journal.elsewhere import choose, find, keep
from server.journal.place import check_local, lock
from server.journal.store import FORM, Journal, JournalError, why
from server.journal.tables import FILE_NAME, only_run
from server.record import Json, Record, plain

BEGUN = "begun"
_LOCK_NAME = "journal.lock"


def open_record(
    folder: Path, run: str, terms: Mapping[str, Any], *, disk: Disk | None = None, url: str | None = None
) -> Record:
    """Open the record of a run to go on with it, or begin one.

    Args:
        folder: the run's, with its content and, unless there is a ``url``, its journal.
        run: the run.
        terms: what the run is carried out with; a run that goes on must have begun with the same.
        disk: the seam.
        url: a database to keep the journal in instead; see ``server.journal.database``. A run that goes on
            may leave it out.

    Raises:
        ConfigError: the run began with other terms, or with its journal elsewhere; or the folder lies on a
            network.
        OpenElsewhereError: another process works on the run.
        JournalError: the journal cannot be written.
        DataError: it is damaged.
    """
    disk = disk or Disk()
    check_local(folder)
    with ExitStack() as stack:
        try:
            held = stack.enter_context(lock(folder / _LOCK_NAME))
            engine, name = _database(folder, run, url, disk)
            stack.callback(engine.dispose)
            journal = Journal(engine, name, disk)
            journal.take_lease(environment())
            found = Record(Content(folder / FOLDER, disk), journal, journal.rows(), disk)
            _begin(found, run, terms)
            disk.sync_folder(folder)  # the journal's own name
        except (OSError, SQLAlchemyError) as error:
            raise JournalError(f"{folder}: its journal cannot be opened ({why(error)})") from None
        if found.outcome() is not None:
            found.content.clear()  # a crash may have come between the end and this
        found.hold(held)
        stack.pop_all()
    return found


def _database(folder: Path, run: str, url: str | None, disk: Disk) -> tuple[Engine, str]:
    """Return the database of a run's journal, and its name there; a folder keeps to the one it began with."""
    path, elsewhere = folder / FILE_NAME, find(folder)
    if elsewhere is not None:
        if url not in (None, elsewhere.url):
            raise ConfigError(f"{folder}: its journal is at {elsewhere.url}; give that URL, or none")
        return at_url(elsewhere.url), elsewhere.name
    if url is None:
        engine = in_file(path)
        if (other := only_run(engine)) not in ("", run):
            engine.dispose()
            raise ConfigError(f"{folder}: holds the journal of run '{other}'; give it that name again")
        return engine, run
    if path.exists():
        raise ConfigError(f"{folder}: its journal is {path}; give no URL")
    engine, place = at_url(url), choose(run, url)
    engine.connect().close()  # what cannot be reached is not written down
    keep(folder, place, disk)
    return engine, place.name


def _begin(record: Record, run: str, terms: Mapping[str, Any]) -> None:
    """Note what a run begins with; of one that goes on, check that it is the same."""
    said, now = record.replayed(BEGUN), plain(terms)
    if said is None:
        record.note(BEGUN, "", {"form": FORM, "run": run, "terms": now})
        record.commit()
    elif said.get("form") != FORM:
        raise ConfigError(f"run '{run}': its journal is of another release; resume it with that one")
    elif said["run"] != run:
        raise ConfigError(f"run '{run}': its folder holds the journal of run '{said['run']}'; rename it")
    elif said["terms"] != now:
        differs = " and ".join(sorted(k for k in now if said["terms"].get(k) != now[k]))
        raise ConfigError(f"run '{run}' began with another {differs}; give this one another name")


def holds_record(folder: Path) -> bool:
    """Return whether a folder is a run's: it holds the lock of a journal."""
    return (folder / _LOCK_NAME).is_file()


def environment() -> Json:
    """Return what the bits of a run depend on beside its terms, as far as one can tell."""
    cuda = torch.cuda.is_available()
    return {
        "pid": os.getpid(),
        "release": bundle_digest(make_bundle())[:16],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
    }
