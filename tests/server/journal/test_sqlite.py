"""The journal's file: synced, its owner's alone, and after any crash a prefix of what was committed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from server.journal.database import in_file
from server.journal.disk import Disk
from server.journal.store import Journal, JournalError
from server.journal.tables import FILE_NAME, only_run
from tests.server.journal_cases import Database

_NOBODY = 65534
_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user, or mount")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Database]:
    """A journal in a file."""
    made = Database(tmp_path, run="r")
    yield made
    made.close()


def read(folder: Path) -> list[int]:
    """Return what the rows in a folder say, as whoever only reads them finds it."""
    engine = in_file(folder / FILE_NAME, to_write=False)
    try:
        return [row.body["n"] for row in Journal(engine, "r", Disk()).rows()]
    finally:
        engine.dispose()


def go_on(folder: Path) -> list[int]:
    """Return what the rows in a folder say once one more has been added."""
    with closing(Database(folder, run="r")) as database:
        database.written({"n": -1})
        return [row.body["n"] for row in database.journal().rows()]


def as_nobody(do: Callable[[], object]) -> int:
    """Do something as a user that owns nothing, in a child; return 0 if it came back, 1 if it raised."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            do()
            os._exit(0)
        except BaseException:  # noqa: BLE001  the child ends here, whatever it was
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_every_commit_is_synced(here: Database) -> None:
    """The connection that writes has a write-ahead log and syncs it at every commit."""
    journal = here.written({"n": 1})
    with journal._engine.connect() as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_a_transaction_begins_with_the_lock(here: Database) -> None:
    """Else two writers could each read the same lease before either writes."""
    journal = here.written({"n": 1})
    with (
        journal._engine.begin(),
        closing(sqlite3.connect(here.folder / FILE_NAME, timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_files_are_their_owners_alone(here: Database, umask: int) -> None:
    """Whatever the umask, and also where a file was there with another mode."""
    before = os.umask(umask)
    try:
        (here.folder / FILE_NAME).touch(mode=0o666)
        here.written({"n": 1})
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in here.folder.iterdir()}
    assert modes == dict.fromkeys([FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"], 0o600)


def _frames(log: bytes) -> Iterator[int]:
    """Yield where each frame of a write-ahead log ends: a header of 32 bytes, then 24 and a page for each."""
    (page,) = struct.unpack(">I", log[8:12])
    yield from range(32, len(log) + 1, 24 + page)


def test_every_prefix_of_the_log_is_a_prefix_of_the_rows(here: Database, tmp_path: Path) -> None:
    """Wherever a power cut ends the log, in a frame or between two, what opens is what a commit had left."""
    journal = here.written()
    for number in range(1, 6):
        for _ in range(2):
            journal.append("kind", "", {"n": number, "long": "x" * 3000})
        journal.commit()
    log = (tmp_path / f"{FILE_NAME}-wal").read_bytes()
    ends = list(_frames(log))
    cuts = {0, 1, 31} | {end + more for end in ends for more in (0, 1, 24, 2000)} | {len(log)}
    found = set[int]()
    for cut in sorted(c for c in cuts if c <= len(log)):
        copy = tmp_path / f"cut-{cut}"
        copy.mkdir()
        shutil.copy(tmp_path / FILE_NAME, copy)
        (copy / f"{FILE_NAME}-wal").write_bytes(log[:cut])
        rows = read(copy)
        assert rows == [n for n in range(1, 1 + len(rows) // 2) for _ in range(2)]
        assert go_on(copy) == [*rows, -1]
        found.add(len(rows))
        shutil.rmtree(copy)
    assert found == {0, 2, 4, 6, 8, 10}


def test_a_damaged_log_ends_where_it_is_damaged(here: Database, tmp_path: Path) -> None:
    """A bit that turned over in the log is no row: SQLite's sums end it before that."""
    journal = here.written()
    for number in range(1, 6):
        journal.append("kind", "", {"n": number})
        journal.commit()
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / FILE_NAME, copy)
    log = bytearray((tmp_path / f"{FILE_NAME}-wal").read_bytes())
    log[-100] ^= 1
    (copy / f"{FILE_NAME}-wal").write_bytes(log)
    assert go_on(copy) == [1, 2, 3, 4, -1]


def test_who_reads_changes_nothing(here: Database, tmp_path: Path) -> None:
    """Reading while another process writes sees what is committed, and neither is in the other's way."""
    journal = here.written({"n": 1})
    rows = Journal(in_file(tmp_path / FILE_NAME, to_write=False), "r", Disk())
    reading = rows.rows()
    assert next(reading).body == {"n": 1}
    journal.append("kind", "", {"n": 2})
    journal.commit()
    assert read(tmp_path) == [1, 2]
    with rows._engine.connect() as db, pytest.raises(sa.exc.OperationalError, match="readonly"):
        db.exec_driver_sql("DELETE FROM journal")
    rows.close()
    assert read(tmp_path) == [1, 2]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="run-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@_ROOT
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_folder_that_cannot_be_written_is_read(open_folder: Path, is_closed: bool) -> None:
    """An archived run is replayed where it lies, and one that was killed too, if its log is there."""
    database = Database(open_folder, run="r")
    database.written({"n": 1}, {"n": 2})
    if is_closed:
        database.close()
    for path in (*open_folder.iterdir(), open_folder):
        os.chown(path, _NOBODY, _NOBODY)
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert (open_folder / f"{FILE_NAME}-wal").exists() is not is_closed
    assert as_nobody(lambda: _assert_rows(open_folder, [1, 2])) == 0
    assert as_nobody(lambda: Database(open_folder, run="r").written({"n": 3})) == 1
    database.close()


def _assert_rows(folder: Path, expected: list[int]) -> None:
    assert read(folder) == expected


@_ROOT
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_another_user_reads_nothing(open_folder: Path) -> None:
    """The journal holds what sites said: it is the server's own user's alone."""
    database = Database(open_folder, run="r")
    database.written({"n": 1})
    assert as_nobody(lambda: open_folder.joinpath(FILE_NAME).stat()) == 0
    assert as_nobody(lambda: read(open_folder)) == 1
    for end in ("", "-wal", "-shm"):
        assert as_nobody(open_folder.joinpath(f"{FILE_NAME}{end}").read_bytes) == 1
    database.close()


@pytest.mark.parametrize("data", [b"not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database(here: Database, data: bytes) -> None:
    """It is an error of one line, and the file stays as it is."""
    path = here.folder / FILE_NAME
    path.write_bytes(data)
    with pytest.raises(JournalError, match="cannot be written") as found:
        here.journal().take_lease()
    assert "\n" not in str(found.value)
    assert path.read_bytes() == data
    with pytest.raises(JournalError, match="cannot be read"):
        read(here.folder)
    with pytest.raises(sa.exc.DatabaseError):
        only_run(here.engine())


def test_a_database_of_something_else(here: Database) -> None:
    """Tables of another form are not written to."""
    with closing(sqlite3.connect(here.folder / FILE_NAME)) as other:
        other.execute("CREATE TABLE journal (something TEXT)")
        other.execute("CREATE TABLE leases (something TEXT)")
    with pytest.raises(JournalError, match="no such column"):
        here.journal().take_lease()
    with pytest.raises(JournalError):
        read(here.folder)


_FILLER = """
import resource, signal, sys
from pathlib import Path
from protocol.errors import ConsiliumError
from tests.server.journal_cases import Database
journal = Database(Path(sys.argv[1]), run="r").journal()
journal.take_lease()
if len(sys.argv) > 2:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
number = 0
try:
    while number < 10_000:
        number += 1
        journal.append("kind", "", {"n": number, "long": "x" * 5000})
        journal.commit()
except ConsiliumError as error:
    print(number, error.code, error)
"""


def _filled(folder: Path, *arguments: str) -> list[str]:
    """Write until nothing more can be written; return the number that could not, and the error."""
    command = [sys.executable, "-c", _FILLER, str(folder), *arguments]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": "."},
    )
    return ended.stdout.split(maxsplit=2)


def test_no_file_may_grow(tmp_path: Path) -> None:
    """Where the system lets no file grow, the run stops; what was committed is there, and goes on later."""
    last, code, error = _filled(tmp_path, str(2**20))
    assert code == "journal"
    assert "disk I/O error" in error or "full" in error
    assert read(tmp_path) == list(range(1, int(last)))
    assert go_on(tmp_path) == [*range(1, int(last)), -1]


@_ROOT
def test_a_full_disk(tmp_path: Path) -> None:
    """On a disk without room the run stops; when there is room it goes on from all that was committed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        last, code, error = _filled(disk)
        assert code == "journal"
        assert "full" in error or "I/O error" in error
        assert int(last) > 10
        kept = tmp_path / "kept"
        shutil.copytree(disk, kept)
    finally:
        subprocess.run(["/bin/umount", disk], check=True)
    assert read(kept) == list(range(1, int(last)))
    assert go_on(kept) == [*range(1, int(last)), -1]
