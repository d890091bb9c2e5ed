"""Contributions on disk: each under its key, once, in the content of the run's record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol.codec import encode
from server.journal.content import FOLDER
from server.journal.store import JournalError
from server.open_record import open_record
from server.record import Record
from server.spool import Spool

ARRAYS: dict[str, NDArray[Any]] = {
    "w": np.arange(6000, dtype=np.float32).reshape(2, 3000),
    "n": np.array(7, dtype=np.int64),
}
SMALL = {"w": np.zeros(3)}


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    """The record of a run."""
    with open_record(tmp_path, "r", {}) as made:
        yield made


def files(folder: Path) -> list[Path]:
    """Return the files that hold content."""
    return list((folder / FOLDER).iterdir()) if (folder / FOLDER).exists() else []


def commit(record: Record) -> None:
    """Have what was dropped removed, as a run does with its next step."""
    record.note("step", "", {})
    record.commit()


@pytest.mark.parametrize("arrays", [ARRAYS, SMALL, {}])
def test_what_is_put_is_taken_once(tmp_path: Path, record: Record, arrays: dict[str, NDArray[Any]]) -> None:
    """The arrays come back as they were, and with the next commit their file is gone."""
    spool = Spool(record)
    spool.put("r/1/a/east/1", arrays)
    found = spool.take("r/1/a/east/1")
    assert encode(found) == encode(arrays)
    commit(record)
    assert files(tmp_path) == []
    with pytest.raises(KeyError):
        spool.take("r/1/a/east/1")


def test_a_file_stays_until_the_journal_says_why_not(tmp_path: Path, record: Record) -> None:
    """A crash between taking and the commit must find it: then it is taken again."""
    spool = Spool(record)
    spool.put("key", ARRAYS)
    commit(record)
    spool.take("key")
    assert len(files(tmp_path)) == 1
    commit(record)
    assert files(tmp_path) == []


def test_arrays_outlive_their_file(record: Record) -> None:
    """What was taken can be read after the file is gone."""
    spool = Spool(record)
    spool.put("key", ARRAYS)
    found = spool.take("key")
    record.end({})
    assert found["w"].sum() == ARRAYS["w"].sum()


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../outside", "/outside", "a" * 4000, "a\0b", "r/1/a/east/1", "R/1/A/EAST/1", "é"]
)
def test_a_key_is_no_path(tmp_path: Path, record: Record, key: str) -> None:
    """Whatever a key is made of, its file is one in the folder, and another key's is another."""
    before = sorted(tmp_path.iterdir())
    spool = Spool(record)
    spool.put("other", {"w": ARRAYS["w"] + 1})
    spool.put(key, ARRAYS)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / FOLDER])
    assert all(path.is_file() for path in files(tmp_path))
    assert spool.take(key)["w"][0, 0] == 0
    assert spool.take("other")["w"][0, 0] == 1


def test_the_last_of_one_key_counts(tmp_path: Path, record: Record) -> None:
    """Putting twice replaces, it does not add."""
    spool = Spool(record)
    spool.put("key", {"old": np.zeros(3000)})
    spool.put("key", ARRAYS)
    commit(record)
    assert len(files(tmp_path)) == 1
    assert spool.take("key").keys() == ARRAYS.keys()


def test_dropping_forgets_that_key_alone(tmp_path: Path, record: Record) -> None:
    """Dropping an unknown key is nothing, and the others stay: also where they are the same arrays."""
    spool = Spool(record)
    spool.put("one", ARRAYS)
    spool.put("two", ARRAYS)
    spool.drop("one")
    spool.drop("one")
    spool.drop("never put")
    commit(record)
    assert len(files(tmp_path)) == 1
    assert spool.take("two").keys() == ARRAYS.keys()


def test_the_next_process_takes_it_up(tmp_path: Path) -> None:
    """What was accepted before a crash lies where its row says; what no row speaks of is gone."""
    with open_record(tmp_path, "r", {}) as record:
        spool = Spool(record)
        spool.put("key", ARRAYS)
        record.note("judged", "key", {"arrays": spool.ref("key")})
        record.commit()
        spool.put("not noted", {"w": ARRAYS["w"] + 1})
    with open_record(tmp_path, "r", {}) as record:
        spool = Spool(record)
        said = record.replayed("judged", "key")
        assert said is not None
        spool.again("key", said["arrays"])
        record.go_live()
        assert len(files(tmp_path)) == 1
        assert encode(spool.take("key")) == encode(ARRAYS)
        commit(record)
    assert files(tmp_path) == []


def test_the_end_leaves_nothing(tmp_path: Path, record: Record) -> None:
    """What nobody took is deleted with the run's end: no site's arrays stay behind."""
    spool = Spool(record)
    spool.put("late", ARRAYS)
    record.end({})
    assert files(tmp_path) == []


def test_a_damaged_file_is_refused(tmp_path: Path, record: Record) -> None:
    """A file that was cut off is an error, not other arrays."""
    spool = Spool(record)
    spool.put("key", ARRAYS)
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(JournalError, match="is damaged"):
        spool.take("key")
