"""Contributions on disk: each under its key, once, and nothing outside the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol.codec import encode
from protocol.errors import ArraysError
from server.spool import Spool

ARRAYS: dict[str, NDArray[Any]] = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "n": np.array(7, dtype=np.int64),
}


def test_what_is_put_is_taken_once(tmp_path: Path) -> None:
    """The arrays come back as they were, and their file is gone."""
    spool = Spool(tmp_path / "spool")
    spool.put("r/1/a/east/1", ARRAYS)
    found = spool.take("r/1/a/east/1")
    assert encode(found) == encode(ARRAYS)
    assert list((tmp_path / "spool").iterdir()) == []
    with pytest.raises(FileNotFoundError):
        spool.take("r/1/a/east/1")


def test_arrays_outlive_their_file(tmp_path: Path) -> None:
    """What was taken can be read after the folder is gone."""
    spool = Spool(tmp_path / "spool")
    spool.put("key", ARRAYS)
    found = spool.take("key")
    spool.close()
    assert found["w"].sum() == 15


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../outside", "/outside", "a" * 4000, "a\0b", "r/1/a/east/1", "R/1/A/EAST/1", "é"]
)
def test_a_key_is_no_path(tmp_path: Path, key: str) -> None:
    """Whatever a key is made of, its file is one in the folder, and another key's is another."""
    spool = Spool(tmp_path / "spool")
    spool.put("other", {})
    spool.put(key, ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]
    assert all(path.is_file() for path in (tmp_path / "spool").iterdir())
    assert spool.take(key).keys() == ARRAYS.keys()
    assert spool.take("other") == {}


def test_the_last_of_one_key_counts(tmp_path: Path) -> None:
    """Putting twice replaces, it does not add."""
    spool = Spool(tmp_path)
    spool.put("key", {"old": np.zeros(3)})
    spool.put("key", ARRAYS)
    assert spool.take("key").keys() == ARRAYS.keys()


def test_dropping_forgets_that_key_alone(tmp_path: Path) -> None:
    """Dropping an unknown key is nothing, and the others stay."""
    spool = Spool(tmp_path)
    spool.put("one", ARRAYS)
    spool.put("two", ARRAYS)
    spool.drop("one")
    spool.drop("never put")
    assert len(list(tmp_path.iterdir())) == 1
    assert spool.take("two").keys() == ARRAYS.keys()


def test_closing_leaves_nothing(tmp_path: Path) -> None:
    """What nobody took is deleted with the folder: no site's arrays stay behind."""
    spool = Spool(tmp_path / "deep" / "spool")
    spool.put("late", ARRAYS)
    spool.close()
    assert not (tmp_path / "deep" / "spool").exists()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """A file that was cut off is an error, not other arrays."""
    spool = Spool(tmp_path)
    spool.put("key", ARRAYS)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArraysError):
        spool.take("key")
