"""A site's memory as bytes and back: nothing is lost, and nothing is kept that cannot come back."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from clients.memory_records import changes, freeze, thaw
from clients.state import SiteState
from protocol.errors import MessageError
from protocol.records import BLOB, STYPE

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([1], dtype=np.int64)}


def test_what_a_site_keeps_comes_back() -> None:
    """All that ``SiteState`` writes, through bytes and back, is what it reads."""
    records = RecordDict()
    SiteState(records).put("risk", "mlp_small", ARRAYS)
    back = RecordDict({key: thaw(freeze(record)) for key, record in records.items()})
    kept = SiteState(back).get("risk")
    assert kept is not None
    assert kept.model == "mlp_small"
    assert {name: array.tolist() for name, array in kept.arrays.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
    for key, record in records.items():
        assert freeze(back[key]) == freeze(record)


@pytest.mark.parametrize(
    "table", [{}, {"model": "é"}, {"a": 1, "b": 1.5, "c": True, "d": [1, 2], "e": [0.1], "f": ["x"]}]
)
def test_a_table_keeps_its_types(table: dict[str, object]) -> None:
    """1 stays an integer, 1.0 a float, True a truth value."""
    back = thaw(freeze(ConfigRecord(table)))  # type: ignore[arg-type]
    assert isinstance(back, ConfigRecord)
    assert dict(back) == table
    assert [type(value) for value in back.values()] == [type(value) for value in table.values()]


def test_the_same_table_has_the_same_bytes() -> None:
    """Whatever the order of its keys."""
    one, other = ConfigRecord({"a": 1, "b": 2}), ConfigRecord({"b": 2, "a": 1})
    assert freeze(one) == freeze(other)


def _array(stype: str) -> Array:
    return Array(dtype="uint8", shape=(1,), stype=stype, data=b"x")


@pytest.mark.parametrize(
    "record",
    [
        MetricRecord({"a": 1.0}),
        ConfigRecord({"a": b"bytes"}),
        ArrayRecord({"other": _array(STYPE)}),
        ArrayRecord({BLOB: _array("numpy.ndarray")}),
        ArrayRecord({BLOB: _array(STYPE), "more": _array(STYPE)}),
        "text",
    ],
)
def test_what_would_not_come_back_is_refused(record: object) -> None:
    """A record of another kind, or with more in it."""
    with pytest.raises(MessageError):
        freeze(record)


@pytest.mark.parametrize("data", [b"", b"X", b"c{}"])
def test_other_bytes_are_no_record(data: bytes) -> None:
    """Neither a table nor arrays."""
    with pytest.raises(MessageError):
        thaw(data)


def test_only_what_was_put_anew_has_changed() -> None:
    """The same record object is the same; a new one counts, also with the same content; None is gone."""
    state = RecordDict({name: ConfigRecord({"n": name}) for name in ("same", "gone", "anew")})
    before = dict(state)
    assert list(changes(before, state)) == []
    del state["gone"]
    state["anew"] = ConfigRecord({"n": "anew"})
    state["new"] = ConfigRecord({"n": "new"})
    assert dict(changes(before, state)) == {
        "gone": None,
        "anew": freeze(state["anew"]),
        "new": freeze(state["new"]),
    }
