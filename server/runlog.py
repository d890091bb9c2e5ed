"""The run's events with the instructions that followed, as its journal has them.

``replay`` feeds the events to a fresh state machine and must get the same instructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from collab.collaboration import Collaboration
from collab.events import EVENT, INSTRUCTION, Event, Instruction, Started
from collab.rounds import Rounds
from protocol.errors import DataError, RunError
from server.journal.database import at_url, in_file
from server.journal.disk import Disk
from server.journal.elsewhere import find, run_at
from server.journal.store import Journal, JournalError, Row, why
from server.journal.tables import FILE_NAME, only_run

EVENT_ROW: Final = "event"


def row_of(event: Event, instructions: Sequence[Instruction]) -> dict[str, Any]:
    """Return an event and what was decided, as the journal keeps them."""
    return {
        "event": EVENT.dump_python(event, mode="json"),
        "instructions": [INSTRUCTION.dump_python(i, mode="json") for i in instructions],
    }


def journal_of(folder: Path) -> str | None:
    """Return the URL of the database that keeps a run's journal; None where a file in its folder does."""
    elsewhere = find(folder)
    return elsewhere.url if elsewhere is not None else None


def rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of a run's journal, its chain checked; the run may go on meanwhile.

    Raises:
        DataError: there is no journal, or a row is not the one that was written.
    """
    with _opened(folder) as journal:
        yield from journal.rows()


def run_of(folder: Path) -> str:
    """Return the name of the run whose journal a folder has; raises as ``rows``."""
    with _opened(folder) as journal:
        return run_at(journal.run)


def leases(folder: Path) -> list[dict[str, Any]]:
    """Return the processes that have worked on a run (``Journal.leases``); raises as ``rows``."""
    with _opened(folder) as journal:
        return journal.leases()


@contextmanager
def _opened(folder: Path) -> Iterator[Journal]:
    path, elsewhere = folder / FILE_NAME, find(folder)
    if elsewhere is None and not path.is_file():
        raise DataError(f"{path}: no such file; give the folder of a run")
    engine = at_url(elsewhere.url) if elsewhere is not None else in_file(path, to_write=False)
    try:
        yield Journal(engine, elsewhere.name if elsewhere is not None else only_run(engine), Disk())
    except (SQLAlchemyError, JournalError) as error:
        raise DataError(f"{folder}: its journal cannot be read ({why(error)})") from None
    finally:
        engine.dispose()


def begun(folder: Path) -> dict[str, Any]:
    """Return the terms that a run began with (``federation.Terms.on_record``); raises as ``rows``."""
    for row in rows(folder):
        terms = row.body.get("terms")
        if isinstance(terms, dict) and isinstance(terms.get("collaboration"), str):
            return terms
        break
    raise DataError(f"{folder}: its journal does not say what the run began with")


def read(folder: Path) -> Iterator[tuple[Event, tuple[Instruction, ...]]]:
    """Yield the events and instructions of a run.

    Raises:
        DataError: there is no journal, or a row is not what this release writes; it names the row.
    """
    for row in rows(folder):
        if row.kind != EVENT_ROW:
            continue
        try:
            event = EVENT.validate_python(row.body["event"], strict=False)
            instructions = tuple(INSTRUCTION.validate_python(i) for i in row.body["instructions"])
        except (KeyError, TypeError, RecursionError, ValidationError):
            raise DataError(f"{folder}: row {row.number} of the journal cannot be read as an event") from None
        yield event, instructions


class Replayed(NamedTuple):
    """How many events gave how many instructions again, and whether the journal reaches the run's end."""

    events: int
    instructions: int
    ended: bool


def replay(folder: Path, collaboration: Collaboration) -> Replayed:
    """Feed the events to a fresh state machine; return how many events and instructions agreed.

    Raises:
        RunError: the first event whose instructions differ from the journal's.
        DataError: there is no journal, no run in it, or a row that is no event.
    """
    run = next((e.run for e, _ in read(folder) if isinstance(e, Started)), None)
    if run is None:
        raise DataError(f"{folder / FILE_NAME}: no run was started in it")
    machine, events, count = Rounds(collaboration, run), 0, 0
    for number, (event, logged) in enumerate(read(folder), start=1):
        given = machine.handle(event)
        if given != logged:
            raise RunError(
                f"{folder / FILE_NAME}: event {number} ({event.type}): {_difference(given, logged)}"
            )
        events, count = events + 1, count + len(given)
    return Replayed(events, count, machine.over)


def _difference(given: Sequence[Instruction], logged: Sequence[Instruction]) -> str:
    pairs = zip([*given, *[None] * len(logged)], [*logged, *[None] * len(given)], strict=False)
    now, then = next((a, b) for a, b in pairs if a != b)
    return f"replay gives {now!r:.300}, the journal has {then!r:.300}"
