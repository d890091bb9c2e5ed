"""The rows of a journal, in both databases: in order and whole, chained, and of one writer at a time."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from protocol.errors import DataError
from server.journal.disk import Disk
from server.journal.store import FencedError, JournalError, Row
from server.journal.tables import ROWS
from tests.server.journal_cases import Database, rechain

BODIES: tuple[dict[str, Any], ...] = (
    {},
    {"a": 1, "b": [1 / 3, 1e-310, -0.0, 2**53 + 1], "c": None, "d": {"e": True}},
    {"text": "é\0\u2028\U0001f600\ud800 '; DROP TABLE journal; --"},
    {"long": "x" * 100_000},
)


def numbers(rows: list[Row]) -> list[int]:
    """Return the rows' numbers."""
    return [row.number for row in rows]


def test_rows_come_back_in_order_and_equal(database: Database) -> None:
    """Every number to the last bit, whatever a text holds; what append returned is what is read."""
    times = iter([1e9 / 7, 0.1 + 0.2, 5e-324, 1.5])
    journal = database.journal(clock=lambda: next(times))
    database.written()  # another run's, or an earlier lease: it is not in the way
    journal.take_lease()
    said = [journal.append("kind", f"key-{n}", body) for n, body in enumerate(BODIES[:2])]
    journal.commit()
    assert said == list(BODIES[:2])
    found = list(database.journal().rows())
    assert [row.body for row in found] == said
    assert [(row.number, row.lease, row.kind, row.key) for row in found] == [
        (1, 2, "kind", "key-0"),
        (2, 2, "kind", "key-1"),
    ]
    assert [row.at for row in found] == [0.1 + 0.2, 5e-324]


def test_any_text_and_length(database: Database) -> None:
    """No character and no length that a body may have is lost."""
    database.written(*BODIES)
    assert [row.body for row in database.journal().rows()] == list(BODIES)


def test_pages_hold_all_rows(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the rows fall into pages, by number and by length, each comes once."""
    monkeypatch.setattr("server.journal.store._PAGE", 3)
    monkeypatch.setattr("server.journal.store._PAGE_LENGTH", 100)
    journal = database.journal()
    journal.take_lease()
    for number in range(11):
        journal.append("kind", "", {"x": "y" * (200 if number % 4 == 1 else 20)})
    journal.commit()
    assert numbers(list(database.journal().rows())) == list(range(1, 12))


def test_runs_of_one_database_do_not_meet(database: Database) -> None:
    """Neither rows nor leases of another run are in the way."""
    database.written({"mine": 1})
    other = Database(database.folder, database.url, run=f"{database.run}-2")
    other.written({"other": 1}, {"other": 2})
    other.close()
    assert [row.body for row in database.journal().rows()] == [{"mine": 1}]
    assert database.journal().last() == ("kind", {"mine": 1})
    assert [one["lease"] for one in database.journal().leases()] == [1]


def test_nothing_is_there_before_commit(database: Database) -> None:
    """What was appended alone is gone with the process."""
    journal = database.written({"n": 1})
    journal.append("kind", "", {"n": 2})
    assert journal.unwritten == 1
    assert [row.body for row in database.journal().rows()] == [{"n": 1}]
    journal.close()
    assert database.journal().last()[1] == {"n": 1}


def test_commit_is_all_or_nothing(database: Database) -> None:
    """Of rows that are committed together none is there if one cannot be written."""
    journal = database.written({"n": 1})
    for number in (2, 3, 4):
        journal.append("kind", "", {"n": number})
    journal._pending[-1]["number"] = 1  # there already
    with pytest.raises(JournalError, match="cannot be written"):
        journal.commit()
    assert [row.body for row in database.journal().rows()] == [{"n": 1}]


def test_an_empty_journal(database: Database) -> None:
    """Before any lease there are no rows, no leases, no last one; nothing need be there."""
    journal = database.journal()
    assert list(journal.rows()) == []
    assert journal.leases() == []
    journal.take_lease({"pid": 3})
    journal.commit()
    assert journal.last() == ("", {})
    assert journal.leases() == [{"lease": 1, "at": 1.5, "pid": 3}]


TAMPERINGS: dict[str, tuple[int, Callable[[], sa.Executable]]] = {
    "body": (3, lambda: ROWS.update().where(ROWS.c.number == 3).values(body='{"n":9}')),
    "space": (3, lambda: ROWS.update().where(ROWS.c.number == 3).values(body='{"n": 3}')),
    "key": (1, lambda: ROWS.update().where(ROWS.c.number == 1).values(key="other")),
    "kind": (6, lambda: ROWS.update().where(ROWS.c.number == 6).values(kind="other")),
    "lease": (2, lambda: ROWS.update().where(ROWS.c.number == 2).values(lease=2)),
    "time": (2, lambda: ROWS.update().where(ROWS.c.number == 2).values(at=1.6)),
    "chain": (4, lambda: ROWS.update().where(ROWS.c.number == 4).values(chain=b"\1" * 32)),
    "first removed": (1, lambda: ROWS.delete().where(ROWS.c.number == 1)),
    "middle removed": (4, lambda: ROWS.delete().where(ROWS.c.number == 4)),
    "two removed": (2, lambda: ROWS.delete().where(ROWS.c.number.in_([2, 3]))),
    "put before all": (0, lambda: ROWS.update().where(ROWS.c.number == 6).values(number=0)),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_changed_row_is_named(database: Database, name: str) -> None:
    """Whatever field of a row was changed, or row taken out, the first that is not right is named."""
    database.written(*({"n": n} for n in range(1, 7)))
    first, statement = TAMPERINGS[name]
    database.execute(statement().where(ROWS.c.run == database.run))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=rf"row {max(1, first)} of its journal is not the one"):
        list(database.journal().rows())


def test_rows_that_changed_places_are_named(database: Database) -> None:
    """Two rows whose numbers were swapped are no longer what followed from the one before."""
    database.written(*({"n": n} for n in range(1, 7)))
    for old, new in ((2, 99), (4, 2), (99, 4)):
        here = (ROWS.c.run == database.run) & (ROWS.c.number == old)
        database.execute(ROWS.update().where(here).values(number=new))
    with pytest.raises(DataError, match="row 2 of its journal"):
        list(database.journal().rows())


def test_a_row_that_was_put_in_between_is_named(database: Database) -> None:
    """Also where those after it were numbered anew."""
    database.written(*({"n": n} for n in range(1, 5)))
    for old in (4, 3):
        here = (ROWS.c.run == database.run) & (ROWS.c.number == old)
        database.execute(ROWS.update().where(here).values(number=old + 1))
    row = {"run": database.run, "number": 3, "lease": 1, "at": 1.5, "kind": "kind", "key": ""}
    database.execute(ROWS.insert().values(**row, body="{}", chain=b"\2" * 32))
    with pytest.raises(DataError, match="row 3 of its journal"):
        list(database.journal().rows())


def test_rows_before_a_changed_one_are_good(database: Database) -> None:
    """What was read up to there was checked: whoever reads may say how far the journal holds."""
    database.written(*({"n": n} for n in range(1, 7)))
    database.execute(ROWS.delete().where((ROWS.c.run == database.run) & (ROWS.c.number == 4)))
    rows, found = database.journal().rows(), list[Row]()
    with pytest.raises(DataError, match="row 4 of its journal"):
        _read_into(found, rows)
    assert numbers(found) == [1, 2, 3]


def _read_into(found: list[Row], rows: Iterator[Row]) -> None:
    for row in rows:
        found.append(row)  # noqa: PERF402  what came before an error is wanted


def test_a_tail_that_was_cut_off_is_not_found(database: Database) -> None:
    """A chain says what came before, not what came after: a shorter journal is a run killed earlier."""
    database.written(*({"n": n} for n in range(1, 7)))
    database.execute(ROWS.delete().where((ROWS.c.run == database.run) & (ROWS.c.number > 4)))
    journal = database.journal()
    assert numbers(list(journal.rows())) == [1, 2, 3, 4]
    journal.take_lease()
    journal.append("kind", "", {"n": "on"})
    journal.commit()
    assert numbers(list(database.journal().rows())) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("body", ["", "[]", "null", "{", "1" * 5000, "[" * 100_000, '{"a":'])
def test_a_forged_row_that_is_no_body_is_named(database: Database, body: str) -> None:
    """Also where somebody recomputed the chain: a body is an object, whatever the hash says."""
    database.written({"n": 1}, {"n": 2}, {"n": 3})
    database.execute(
        ROWS.update().where((ROWS.c.run == database.run) & (ROWS.c.number == 2)).values(body=body)
    )
    rechain(database.engine(), database.run)
    with pytest.raises(DataError, match="row 2 of its journal"):
        list(database.journal().rows())


def test_a_forged_chain_is_another_chain(database: Database) -> None:
    """Who may write the database may write another history: the chain finds mistakes, not its owner."""
    before = database.written({"n": 1}, {"n": 2})
    last = list(before.rows())[-1].chain
    database.execute(ROWS.update().where(ROWS.c.run == database.run).values(body='{"n":5}'))
    rechain(database.engine(), database.run)
    found = list(database.journal().rows())
    assert [row.body for row in found] == [{"n": 5}] * 2
    assert found[-1].chain != last


def test_a_later_lease_fences(database: Database) -> None:
    """A writer whose place was taken writes nothing more, not even in part; the new one goes on."""
    first = database.written({"n": 1})
    first.append("kind", "", {"n": 2})
    first.append("kind", "", {"n": 3})
    second = database.journal()
    assert second.take_lease() == 2
    with pytest.raises(FencedError, match="another process has taken over"):
        first.commit()
    with pytest.raises(FencedError):
        first.commit()
    assert [row.body for row in database.journal().rows()] == [{"n": 1}]
    second.append("kind", "", {"n": "second"})
    second.commit()
    assert [(row.lease, row.body) for row in second.rows()] == [(1, {"n": 1}), (2, {"n": "second"})]


def test_a_fenced_writer_may_take_a_lease_again(database: Database) -> None:
    """It begins where the other one is by then."""
    first = database.written({"n": 1})
    second = database.journal()
    second.take_lease()
    second.append("kind", "", {"n": 2})
    second.commit()
    again = database.journal()
    assert again.take_lease() == 3
    again.append("kind", "", {"n": 3})
    again.commit()
    first.append("kind", "", {})
    with pytest.raises(FencedError):
        first.commit()
    assert [row.lease for row in again.rows()] == [1, 2, 3]


def test_leases_never_come_twice(database: Database) -> None:
    """Who took them is told, in order, with the time: also where the clock goes back."""
    times = iter([100.0, 50.0, 75.0])
    taken = [database.journal(clock=lambda: next(times)).take_lease({"pid": n}) for n in range(3)]
    assert taken == [1, 2, 3]
    found = database.journal().leases()
    assert found == [{"lease": n + 1, "at": at, "pid": n} for n, at in enumerate([100.0, 50.0, 75.0])]


def test_a_clock_that_goes_back_breaks_nothing(database: Database) -> None:
    """The order is the rows' numbers, not their times."""
    times = iter([9e9, 5.0, 4.0, 3.0])
    journal = database.journal(clock=lambda: next(times))
    journal.take_lease()
    for number in range(3):
        journal.append("kind", "", {"n": number})
        journal.commit()
    assert [row.at for row in database.journal().rows()] == [5.0, 4.0, 3.0]


def test_what_a_database_cannot_hold_is_refused_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long a key, kind or body, or a number that JSON has not: the journal stays as it was."""
    journal = database.written({"n": 1})
    monkeypatch.setattr("server.journal.store._MOST", 1000)
    for kind, key, body in (("kind", "k" * 401, {}), ("k" * 65, "", {}), ("kind", "", {"x": "y" * 1000})):
        with pytest.raises(JournalError, match="too long for a row"):
            journal.append(kind, key, body)
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            journal.append("kind", "", {"x": value})
    journal.append("kind", "k" * 400, {"n": 2})
    journal.commit()
    assert [row.body for row in database.journal().rows()] == [{"n": 1}, {"n": 2}]


def test_no_error_holds_what_was_to_be_written(database: Database) -> None:
    """The message of a database may hold the row; only its first line, which does not, goes on."""
    journal = database.written({"n": 1})
    journal.append("kind", "", {"secret": "hunter2"})
    journal._pending[-1]["number"] = 1
    with pytest.raises(JournalError) as found:
        journal.commit()
    assert "hunter2" not in str(found.value)
    assert "\n" not in str(found.value)
    assert found.value.__suppress_context__


class _After(Disk):
    """Commits, and then says that it could not."""

    def commit(self, transaction: Callable[[], Any]) -> Any:
        transaction()
        raise OSError(5, "EIO")


def test_a_commit_that_failed_after_it_was_done(database: Database) -> None:
    """The writer stops; whoever goes on finds the rows, and their number is not given twice."""
    database.written({"n": 1})
    journal = database.journal()
    journal.take_lease()
    journal._disk = _After()
    journal.append("kind", "", {"n": 2})
    with pytest.raises(JournalError, match="EIO"):
        journal.commit()
    with pytest.raises(JournalError):
        journal.commit()
    assert [row.body for row in database.journal().rows()] == [{"n": 1}, {"n": 2}]


_WRITER = """
import sys
from pathlib import Path
from tests.server.journal_cases import Database
database = Database(Path(sys.argv[1]), sys.argv[2] or None, run=sys.argv[3])
journal = database.journal()
journal.take_lease()
print("lease", flush=True)
for number in range(10**6):
    journal.append("kind", "", {"n": number})
    journal.append("kind", "", {"n": number})
    journal.commit()
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_was_told_is_there(database: Database) -> None:
    """SIGKILL at any moment: all that a commit had returned for is there, and of no commit a half."""
    command = [sys.executable, "-c", _WRITER, str(database.folder), database.url or "", database.run]
    writer = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert writer.stdout is not None
    try:
        for line in writer.stdout:
            if line.strip() == "40":
                break
    finally:
        writer.kill()
        rest = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
    told = int(rest[-1]) if rest else 40
    found = [row.body["n"] for row in database.journal().rows()]
    assert found == [n for n in range(len(found) // 2) for _ in range(2)]
    assert found[-1] in {told, told + 1}
