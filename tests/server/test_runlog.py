"""The events in a run's journal: what is written is read, and a run that was changed does not replay."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from collab.collaboration import Collaboration
from collab.events import Event, Instruction, Started
from collab.rounds import Rounds
from protocol.errors import DataError, RunError
from server.journal.store import JournalError
from server.journal.tables import FILE_NAME, ROWS
from server.open_record import open_record
from server.record import Record
from server.runlog import EVENT_ROW, begun, journal_of, read, replay, row_of, rows
from tests.collab.round_cases import RUN, arrived, evaluated, joined, lost, passed, rejected, terms
from tests.server.journal_cases import Database, forge

EVENTS: tuple[Event, ...] = (
    joined("east"),
    joined("north", a=250),
    Started(at_s=0.1, run=RUN, model_mib={"a": 1 / 3}),
    rejected(1 / 7, "east"),
    arrived(2, "north"),
    evaluated(3),
    lost("east", 4),
    passed(63),
    passed(123),
)
# The run begins with a row of its own, and answers stand between its events.
_FIRST, _EVERY = 2, 2
TERMS = {"collaboration": "rounds = 3"}


def row_number(event: int) -> int:
    """Return the number of the row of an event, counted from 1."""
    return _FIRST + _EVERY * (event - 1)


def terms_of_the_run() -> Collaboration:
    """Terms under which the events above send, discard, merge, measure, skip and wait."""
    return terms(rounds=3)


def write(folder: Path, url: str | None = None) -> list[tuple[Event, tuple[Instruction, ...]]]:
    """Write the journal of a run; return what was written."""
    machine, written = Rounds(terms_of_the_run(), RUN), []
    with open_record(folder, RUN, TERMS, url=url) as record:
        for event in EVENTS:
            found = machine.handle(event)
            _note(record, event, found)
            written.append((event, found))
    return written


def _note(record: Record, event: Event, instructions: tuple[Instruction, ...]) -> None:
    record.same(EVENT_ROW, event.type, row_of(event, instructions))
    record.note("received", "", {"replies": []})
    record.commit()


def test_what_is_written_is_read(tmp_path: Path, database: Database) -> None:
    """Events and instructions come back equal, floating-point times to the last bit, from each database."""
    assert write(tmp_path, database.url) == list(read(tmp_path))
    assert journal_of(tmp_path) == database.url
    assert begun(tmp_path) == TERMS


def test_a_run_replays(tmp_path: Path) -> None:
    """Replaying counts every event and instruction of the journal, and nothing else that stands in it."""
    written = write(tmp_path)
    assert replay(tmp_path, terms_of_the_run())[:2] == (len(EVENTS), sum(len(found) for _, found in written))


def test_an_event_is_there_once_it_is_committed(tmp_path: Path) -> None:
    """After each event another process can read it, while this one writes: a run that is killed has it."""
    with open_record(tmp_path, RUN, TERMS) as record:
        for count, event in enumerate(EVENTS, start=1):
            _note(record, event, ())
            assert [found for found, _ in read(tmp_path)] == list(EVENTS[:count])


def test_the_same_run_writes_the_same_rows(tmp_path: Path) -> None:
    """Two journals of one run differ in their times alone."""
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        found.append([(row.number, row.kind, row.key, row.body) for row in rows(tmp_path / name)])
    assert found[0] == found[1]


def test_a_run_that_goes_on_says_the_same(tmp_path: Path) -> None:
    """Run again, it adds nothing to what is there, and another event in its place is an error."""
    write(tmp_path)
    before = list(rows(tmp_path))
    machine = Rounds(terms_of_the_run(), RUN)
    with open_record(tmp_path, RUN, TERMS) as record:
        for event in EVENTS:
            record.same(EVENT_ROW, event.type, row_of(event, machine.handle(event)))
            record.replayed("received")
        record.commit()
    assert list(rows(tmp_path)) == before
    with (
        open_record(tmp_path, RUN, TERMS) as record,
        pytest.raises(JournalError, match="'event' of site_joined"),
    ):
        record.same(EVENT_ROW, EVENTS[1].type, row_of(EVENTS[1], ()))


@pytest.mark.parametrize("number", range(1, len(EVENTS) + 1))
def test_a_changed_instruction_is_found(tmp_path: Path, number: int) -> None:
    """An instruction that the machine did not give is found, also where somebody recomputed the chain."""
    write(tmp_path)
    extra = {"type": "skip", "round": 1, "subtask": "a", "reason": "put in"}
    forge(tmp_path, row_number(number), lambda b: {**b, "instructions": [*b["instructions"], extra]})
    assert len(list(rows(tmp_path))) == 1 + _EVERY * len(EVENTS)
    with pytest.raises(
        RunError, match=rf"event {number} \({EVENTS[number - 1].type}\): replay gives None.*put in"
    ):
        replay(tmp_path, terms_of_the_run())


def test_a_missing_instruction_is_found(tmp_path: Path) -> None:
    """An instruction that was taken out is found too, and the message shows it."""
    write(tmp_path)
    forge(tmp_path, row_number(3), lambda body: {**body, "instructions": body["instructions"][1:]})
    with pytest.raises(RunError, match=r"event 3 \(started\): replay gives Decided.*journal has Send.*east"):
        replay(tmp_path, terms_of_the_run())


def test_a_changed_event_is_found(tmp_path: Path) -> None:
    """An event that was changed leads to other instructions: here another site has the examples."""
    write(tmp_path)
    forge(tmp_path, row_number(5), lambda b: {**b, "event": {**b["event"], "assignment": "r1/1/a/east/1"}})
    with pytest.raises(RunError, match=r"event 5 \(arrived\)"):
        replay(tmp_path, terms_of_the_run())


def test_a_missing_event_is_found(tmp_path: Path) -> None:
    """An event that was taken out, its place closed: the next ones lead elsewhere."""
    write(tmp_path)
    forge(tmp_path, row_number(5), lambda b: {**b, "event": {"type": "time_passed", "at_s": 2.0}})
    with pytest.raises(RunError, match=r"event 5 \(time_passed\)"):
        replay(tmp_path, terms_of_the_run())


def test_a_broken_chain_is_found_first(tmp_path: Path) -> None:
    """A row that was changed by hand is named before anything is made of it."""
    write(tmp_path)
    with closing(Database(tmp_path)) as database:
        database.execute(ROWS.update().where(ROWS.c.number == row_number(5)).values(body="{}"))
    with pytest.raises(
        DataError, match=f"row {row_number(5)} of its journal is not the one that was written"
    ):
        replay(tmp_path, terms_of_the_run())


def test_a_run_replays_under_its_own_terms_alone(tmp_path: Path) -> None:
    """Other terms lead elsewhere, and the first event that differs is named."""
    write(tmp_path)
    match = r"event 3 \(started\): replay gives Wait.*50.*the journal has Wait.*60"
    with pytest.raises(RunError, match=match):
        replay(tmp_path, terms(rounds=3, deadline_s=50))


_PASSED = {"type": "time_passed", "at_s": 1}


@pytest.mark.parametrize(
    "garbage",
    [
        {},
        {"event": {}},
        {"event": {"type": "explosion", "at_s": 1}, "instructions": []},
        {"event": {"type": "time_passed", "at_s": -1}, "instructions": []},
        {"event": {"type": "time_passed", "at_s": 1e999}, "instructions": []},
        {"event": _PASSED, "instructions": [{"type": "run", "code": "x"}]},
        {"event": _PASSED, "instructions": 0},
        {"event": _PASSED},
        {"event": {**_PASSED, "more": 1}, "instructions": []},
        {"event": None, "instructions": None},
    ],
)
def test_a_row_that_is_no_event_is_named(tmp_path: Path, garbage: Mapping[str, Any]) -> None:
    """Whatever a row holds that no release wrote, the error is one line with its number."""
    write(tmp_path)
    forge(tmp_path, row_number(4), lambda _: garbage)
    with pytest.raises(DataError, match=rf"row {row_number(4)} of the journal cannot be read as an event"):
        replay(tmp_path, terms_of_the_run())


@pytest.mark.parametrize("text", ["\n", "not JSON", "[]", "null", '"event"', '{"event":', "[" * 100_000])
def test_a_row_that_is_no_body_is_named(tmp_path: Path, text: str) -> None:
    """Nor does it go further where the chain was recomputed over it."""
    write(tmp_path)
    with closing(Database(tmp_path)) as database:
        database.execute(ROWS.update().where(ROWS.c.number == row_number(4)).values(body=text))
    with pytest.raises(DataError, match=f"row {row_number(4)} of its journal"):
        replay(tmp_path, terms_of_the_run())


def test_a_journal_that_was_cut_off_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    """Fewer rows agree as far as they go, and the result says that the run's end is missing."""
    write(tmp_path)
    assert replay(tmp_path, terms_of_the_run()).ended
    with closing(Database(tmp_path)) as database:
        database.execute(ROWS.delete().where(ROWS.c.number >= row_number(len(EVENTS))))
    found = replay(tmp_path, terms_of_the_run())
    assert (found.events, found.ended) == (len(EVENTS) - 1, False)


def test_a_journal_without_a_run_is_refused(tmp_path: Path) -> None:
    """Nothing that could be replayed is not a success."""
    with open_record(tmp_path, RUN, TERMS):
        pass
    with pytest.raises(DataError, match="no run was started"):
        replay(tmp_path, terms_of_the_run())


def _nothing(folder: Path) -> None:
    """Leave the folder empty."""


def _no_database(folder: Path) -> None:
    (folder / FILE_NAME).write_bytes(b"no database" * 1000)


def _no_url(folder: Path) -> None:
    (folder / "journal.url").write_bytes(b"\xff\n")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_nothing, "no such file; give the folder of a run"),
        (_no_database, r"its journal cannot be read \(file is not a database\)"),
        (_no_url, "journal.url: cannot be read"),
    ],
)
def test_a_folder_without_journal_is_named(tmp_path: Path, make: Callable[[Path], None], why: str) -> None:
    """The error says what is there instead, and what to give."""
    make(tmp_path)
    for do in (lambda: replay(tmp_path, terms_of_the_run()), lambda: begun(tmp_path)):
        with pytest.raises(DataError, match=why):
            do()


def test_who_only_reads_leaves_nothing(tmp_path: Path) -> None:
    """Reading a folder without a journal makes none."""
    with pytest.raises(DataError):
        list(rows(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_terms_are_those_that_it_began_with(tmp_path: Path) -> None:
    """A journal whose first row says nothing of them is none of a run."""
    write(tmp_path)
    forge(tmp_path, 1, lambda body: {**body, "terms": {"collaboration": 3}})
    with pytest.raises(DataError, match="does not say what the run began with"):
        begun(tmp_path)


def test_a_journal_holds_no_array_and_no_row_of_data(tmp_path: Path) -> None:
    """A contribution's event is its digest and size: it stays small whatever the model is."""
    write(tmp_path)
    (row,) = [row for row in rows(tmp_path) if row.number == row_number(5)]
    assert row.body["event"].keys() == {"type", "at_s", "assignment", "num_examples", "digest"}
    assert len(json.dumps(row.body)) < 2000
