"""The record: a run that goes on is told what it was told before, in order, and then finds out itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protocol.errors import ConfigError, DataError
from server.journal.content import FOLDER
from server.journal.disk import Disk
from server.journal.elsewhere import find
from server.journal.place import OpenElsewhereError
from server.journal.store import FencedError, JournalError
from server.journal.tables import FILE_NAME, ROWS
from server.open_record import holds_record, open_record
from server.record import DivergedError, Record
from simulations.chaos.disks import FAULTS, FailingDisk, WatchedDisk
from tests.server.journal_cases import Database, forge

TERMS: dict[str, Any] = {"clock": "simulated", "collaboration": "name = 'x'"}
LONG = b"long" * 5000


def opened(database: Database, **more: Any) -> Record:
    """Open the record of a run in the database's folder."""
    return open_record(database.folder, "r", more.pop("terms", TERMS), url=database.url, **more)


def begun(database: Database) -> None:
    """Write three rows of a run, and end without closing it."""
    with opened(database) as record:
        assert record.is_live
        for number in range(3):
            assert record.replayed("kind", f"key-{number}") is None
            record.note("kind", f"key-{number}", {"n": number})
        record.commit()


def files(database: Database) -> list[str]:
    """Return the names of the files that hold content."""
    folder = database.folder / FOLDER
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_what_came_out_otherwise_is_said_with_what_may_be_the_cause(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another kind of processor sums differ: who resumes there hears it."""
    begun(database)
    with opened(database) as record, pytest.raises(DivergedError) as caught:
        record.replayed("other")
    assert str(caught.value).endswith("on the same kind of machine")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ELSE")
    with opened(database) as record, pytest.raises(DivergedError) as caught:
        record.replayed("other")
    assert str(caught.value).endswith("(now with another instructions)")


def test_rows_are_handed_out_in_order(database: Database) -> None:
    """Then the run is live, and what it notes follows what was there."""
    begun(database)
    with opened(database) as record:
        assert not record.is_live
        assert record.lease == 2
        assert [record.replayed("kind", f"key-{n}") for n in range(3)] == [{"n": n} for n in range(3)]
        assert (record.next_kind, record.is_live, record.replayed_rows) == ("", False, 4)
        assert record.replayed("kind", "key-3") is None
        assert record.is_live
        record.note("kind", "key-3", {"n": 3})
        record.commit()
    with opened(database) as record:
        assert [record.replayed("kind", f"key-{n}") for n in range(4)] == [{"n": n} for n in range(4)]


@pytest.mark.parametrize(("kind", "key"), [("other", "key-1"), ("kind", "key-2"), ("kind", "")])
def test_another_question_is_named(database: Database, kind: str, key: str) -> None:
    """A run that comes to something else than its journal stops at that row, and writes nothing."""
    begun(database)
    with opened(database) as record:
        record.replayed("kind", "key-0")
        with pytest.raises(DivergedError, match=rf"row 3 .* is 'kind' of key-1, and now .*'{kind}' of"):
            record.replayed(kind, key)
    assert database_rows(database) == 4


def database_rows(database: Database) -> int:
    """Return how many rows the run in the folder has."""
    place = find(database.folder)
    name = place.name if place is not None else "r"
    with closing(Database(database.folder, database.url, run=name)) as other:
        return len(list(other.journal().rows()))


def test_another_consequence_is_named(database: Database) -> None:
    """What follows from the rows must be what followed: the message says where it differs."""
    begun(database)
    with opened(database) as record:
        record.same("kind", "key-0", {"n": 0})
        with pytest.raises(DivergedError, match=r"'kind' of key-1 .*n: the journal has 1, now it is 9"):
            record.same("kind", "key-1", {"n": 9})


@pytest.mark.parametrize("body", [{"n": 0.0}, {"n": (0,)}, {"n": {1: 2}}, {"n": 0.1 + 0.2}])
def test_a_consequence_is_compared_as_it_is_read(database: Database, body: dict[str, Any]) -> None:
    """Tuples, numbers as keys: what JSON makes of both."""
    with opened(database) as record:
        record.same("kind", "", body)
        record.commit()
    with opened(database) as record:
        record.same("kind", "", body)
        assert record.replayed_rows == 2


def test_nothing_of_what_was_not_committed_is_handed_out(database: Database) -> None:
    """The run comes to it again by itself."""
    begun(database)
    with opened(database) as record:
        for number in range(3):
            record.replayed("kind", f"key-{number}")
        assert record.replayed("lost") is None
        record.note("lost", "", {})
    assert database_rows(database) == 4


def test_going_live(database: Database) -> None:
    """What a crash left is swept, then who waits is called, once, in order; later ones at once."""
    begun(database)
    with opened(database) as record:
        record.content.put(LONG)
    told: list[tuple[str, list[str]]] = []

    def tell(what: str) -> Callable[[], None]:
        return lambda: told.append((what, files(database)))

    with opened(database) as record:
        record.when_live(tell("first"))
        record.when_live(tell("second"))
        for number in range(3):
            record.replayed("kind", f"key-{number}")
        assert told == []
        assert len(files(database)) == 1
        record.replayed("more")
        record.replayed("more")
        record.go_live()
        assert told == [("first", []), ("second", [])]
        record.when_live(tell("third"))
        assert told[2:] == [("third", [])]


def test_content_that_is_gone_stops_the_run_before_it_asks(database: Database) -> None:
    """A run that would go on with less than it had does not."""
    with opened(database) as record:
        record.note("kind", "", {"ref": record.content.put(LONG)})
        record.commit()
    (database.folder / FOLDER / files(database)[0]).unlink()
    with opened(database) as record:
        record.when_live(lambda: pytest.fail("it went on"))
        record.content.use((record.replayed("kind") or {})["ref"])
        with pytest.raises(JournalError, match="is gone"):
            record.replayed("more")


def test_content_goes_when_its_row_is_there(database: Database) -> None:
    """Not before: a crash in between must find it."""
    with opened(database) as record:
        kept = record.put_arrays({"w": np.arange(9000.0)})
        ref = kept["at"]
        record.note("kind", "", {"ref": ref})
        record.commit()
        assert record.arrays(kept)["w"].sum() == np.arange(9000.0).sum()
        record.content.drop(ref)
        record.note("kind", "", {})
        assert files(database) == [ref]
        record.commit()
        assert files(database) == []


def test_the_end(database: Database) -> None:
    """It is the last row; nothing else of the run is kept, and it is what the next process finds."""
    with opened(database) as record:
        record.content.put(LONG)
        assert record.outcome() is None
        record.end({"ended": "well"})
        assert record.outcome() == {"ended": "well"}
    assert files(database) == []
    with opened(database) as record:
        assert record.outcome() == {"ended": "well"}


def test_a_crash_right_after_the_end(database: Database) -> None:
    """What could not be removed any more is removed when the ended run is opened."""
    with opened(database) as record:
        record.content.put(LONG)
        record.note("ended", "", {"ended": "well"})
        record.commit()
    assert len(files(database)) == 1
    opened(database).close()
    assert files(database) == []


class _Told(Disk):
    """Remembers what it synced, and when it committed."""

    def __init__(self) -> None:
        self.told: list[Path | str] = []

    def sync(self, path: Path) -> None:
        super().sync(path)
        self.told.append(path)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.told.append(path)

    def commit(self, transaction: Callable[[], Any]) -> Any:
        self.told.append("commit")
        return super().commit(transaction)


def test_what_a_run_leaves_is_on_the_disk_before_it_has_ended(database: Database) -> None:
    """Once the journal says that it has, nothing can make it again: bytes and names are synced first."""
    disk, folder = _Told(), database.folder
    with opened(database, disk=disk) as record:
        disk.told.clear()
        target = folder / "models" / "a"
        record.make_folder(target)
        record.make_folder(target)
        record.write(target / "final.safetensors", b"x")
        record.end({})
    assert disk.told == [folder, folder / "models", target / ".final.safetensors.aside", target, "commit"]
    assert (target / "final.safetensors").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({**TERMS, "clock": "wall"}, "began with another clock;"),
        ({**TERMS, "clock": "wall", "collaboration": "y"}, "began with another clock and collaboration;"),
        ({**TERMS, "more": 1}, "began with another more;"),
    ],
)
def test_other_terms_are_refused(database: Database, terms: dict[str, Any], why: str) -> None:
    """A run goes on as it began, or not at all; to be refused changes nothing."""
    begun(database)
    with pytest.raises(ConfigError, match=why):
        opened(database, terms=terms)
    with opened(database) as record:
        assert record.replayed("kind", "key-0") == {"n": 0}


def test_a_folder_keeps_its_run(database: Database) -> None:
    """A journal is of the run that began it: under another name nothing is begun beside it."""
    begun(database)
    with pytest.raises(ConfigError, match="holds the journal of run 'r'"):
        open_record(database.folder, "other", TERMS, url=database.url)
    assert database_rows(database) == 4


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # where a test can forge a row
def test_a_journal_of_another_release(database: Database) -> None:
    """Is named as such."""
    begun(database)
    forge(database.folder, 1, lambda body: {**body, "form": 99})
    with pytest.raises(ConfigError, match="of another release"):
        opened(database)


def test_one_process_at_a_time(database: Database) -> None:
    """Whoever comes second is refused, and has fenced nobody."""
    with opened(database) as record:
        with pytest.raises(OpenElsewhereError, match="works on this run"):
            opened(database)
        record.note("kind", "", {})
        record.commit()
    opened(database).close()


def test_an_error_lets_go(database: Database) -> None:
    """A record that could not be opened holds no lock and no database."""
    begun(database)
    for _ in range(2):
        with pytest.raises(ConfigError):
            opened(database, terms={})
    opened(database).close()


def test_a_copied_folder_is_fenced_by_the_database(postgres: Any, tmp_path: Path) -> None:
    """Two machines with the same folder have two locks; of one database only the later one may write."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    with open_record(tmp_path / "here", "r", TERMS, url=postgres.url) as here:
        url = tmp_path / "here" / "journal.url"
        (tmp_path / "there" / "journal.url").write_bytes(url.read_bytes())
        with open_record(tmp_path / "there", "r", TERMS) as there:
            assert there.lease == 2
            here.note("kind", "", {})
            with pytest.raises(FencedError):
                here.commit()
            there.note("kind", "", {})
            there.commit()


def test_runs_of_one_name_in_two_folders(postgres: Any, tmp_path: Path) -> None:
    """Are two runs, also in one database: neither takes the other's place."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    with (
        open_record(tmp_path / "here", "r", TERMS, url=postgres.url) as here,
        open_record(tmp_path / "there", "r", TERMS, url=postgres.url) as there,
    ):
        for record in (here, there):
            assert record.lease == 1
            record.note("kind", "", {"folder": record is here})
            record.commit()
    with open_record(tmp_path / "here", "r", TERMS) as here:
        assert here.replayed("kind") == {"folder": True}


def test_a_journal_stays_where_it_began(postgres: Any, tmp_path: Path) -> None:
    """No second one is begun elsewhere; which one it is need not be said again."""
    (tmp_path / "file").mkdir()
    open_record(tmp_path / "file", "r", TERMS).close()
    with pytest.raises(ConfigError, match=r"its journal is .*journal\.db; give no URL"):
        open_record(tmp_path / "file", "r", TERMS, url=postgres.url)
    (tmp_path / "url").mkdir()
    open_record(tmp_path / "url", "r", TERMS, url=postgres.url).close()
    with pytest.raises(ConfigError, match="its journal is at postgresql"):
        open_record(tmp_path / "url", "r", TERMS, url="postgresql+psycopg:///other")
    with open_record(tmp_path / "url", "r", TERMS) as record:
        assert record.lease == 2
    assert not (tmp_path / "url" / FILE_NAME).exists()


def test_a_database_that_cannot_be_reached(tmp_path: Path) -> None:
    """Is named in one line, and not written down: with the right URL the run begins."""
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    with pytest.raises(JournalError, match="its journal cannot be opened") as found:
        open_record(tmp_path, "r", TERMS, url=f"postgresql+psycopg:///x?host={tmp_path}")
    assert "\n" not in str(found.value)
    open_record(tmp_path, "r", TERMS).close()


def test_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written."""
    monkeypatch.setattr("server.journal.place.file_system", lambda *_: "nfs4")
    with pytest.raises(ConfigError, match="lies on nfs4"):
        open_record(tmp_path, "r", TERMS)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    """The error is one line, and the lock is free again."""
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(JournalError, match=r"cannot be opened \(file is not a database\)"):
            open_record(tmp_path, "r", TERMS)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Is an error of the journal's, not of Python's."""
    with pytest.raises(JournalError, match=r"cannot be opened \(No such file or directory\)"):
        open_record(tmp_path / "missing", "r", TERMS)
    assert not holds_record(tmp_path)


def test_a_changed_row_stops_the_run(database: Database) -> None:
    """At the latest when it is its turn."""
    begun(database)
    place = find(database.folder)
    run = place.name if place is not None else "r"
    database.execute(ROWS.update().where((ROWS.c.run == run) & (ROWS.c.number == 3)).values(key="x"))
    with opened(database) as record, pytest.raises(DataError, match="row 3 of its journal"):
        record.replayed("kind", "key-0")


def test_who_worked_on_it_is_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with other releases is noted: the same bits are not promised then."""
    opened(database).close()
    with opened(database) as record:
        assert record.changes() == []
        assert [one["lease"] for one in record.leases()] == [1, 2]
    monkeypatch.setattr("server.open_record.platform.machine", lambda: "abacus")
    with opened(database) as record:
        (note,) = record.changes()
        assert "another machine:" in note


def test_without_a_journal_nothing_is_kept() -> None:
    """A rehearsal asks and notes as a run does."""
    with Record() as record:
        assert record.is_live
        assert not record.keeps
        assert record.replayed("kind") is None
        assert record.note("kind", "", {"n": 1}) == {"n": 1}
        record.same("kind", "", {})
        record.commit()
        assert (record.outcome(), record.leases(), record.changes(), record.lease) == (None, [], [], 1)
        record.end({})
        with pytest.raises(ValueError, match="keeps nothing"):
            _ = record.content


@pytest.mark.parametrize("fault", FAULTS)
def test_whichever_step_fails_the_next_process_goes_on(tmp_path: Path, fault: Any) -> None:
    """Opening, writing, sweeping, ending: each step is failed in turn, and stops the run."""
    watched = tmp_path / "watched"
    watched.mkdir()
    disk = WatchedDisk(watched)
    _work(watched, disk)
    assert len(disk.steps) > 10
    for at in range(len(disk.steps)):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        may_go_on = disk.steps[at] == "remove"  # what is left lying takes room and nothing else
        with nullcontext() if may_go_on else pytest.raises(JournalError):
            _work(folder, FailingDisk(folder, at=at, fault=fault))
        _work(folder, Disk())
        with open_record(folder, "r", TERMS) as record:
            assert record.outcome() == {"sum": 3}
            assert not list((folder / FOLDER).iterdir())


def _work(folder: Path, disk: Disk) -> None:
    """Carry a run of three steps out, each with content of which the next one has no use any more."""
    with open_record(folder, "r", TERMS, disk=disk) as record:
        if record.outcome() is not None:
            return
        before, total = "", 0
        for number in range(3):
            said = record.replayed("step", str(number))
            if said is None:
                ref = record.content.put(LONG * (number + 1))
                said = record.note("step", str(number), {"n": number, "ref": ref})
                assert not before or record.content.read(before) == LONG * number
            else:
                record.content.use(said["ref"])
            if before:
                record.content.drop(before)
            before, total = said["ref"], total + said["n"]
            record.commit()
        record.end({"sum": total})


def test_no_password_is_kept(tmp_path: Path) -> None:
    """Neither in the folder nor in the error."""
    with pytest.raises(ConfigError, match="holds a password") as found:
        open_record(tmp_path, "r", TERMS, url="postgresql+psycopg://u:hunter2@h/n")
    assert "hunter2" not in str(found.value)
    assert all(b"hunter2" not in path.read_bytes() for path in tmp_path.iterdir())
