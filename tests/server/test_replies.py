"""What a site answered comes back from the record as it was, as far as it is used again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from protocol.errors import LimitError, MessageError, ProtocolError, SealError
from protocol.messages import Refusal
from protocol.records import HEAD, attach, pack, parts_of, unpack
from server.journal.content import FOLDER, Content
from server.journal.disk import Disk
from server.journal.store import JournalError
from server.pulling import Reply
from server.replies import from_json, keepable, refs_of, to_json

ARRAYS = {"w": np.arange(6000, dtype=np.float32).reshape(2, 3000), "n": np.array(7)}
SHORT = {"w": np.ones(3, dtype=np.float32)}
MESSAGE = Refusal(code="no", detail="é why\0 not")


def content(folder: Path) -> Content:
    """Return the content of a run in a folder, as a new process has it."""
    return Content(folder / FOLDER, Disk())


def kept(reply: Reply, folder: Path) -> dict[str, Any]:
    """Return what a row holds of a reply, through JSON as a row goes."""
    found: dict[str, Any] = json.loads(json.dumps(to_json(reply, content(folder)), allow_nan=False))
    return found


@pytest.mark.parametrize("arrays", [None, {}, SHORT, ARRAYS])
def test_a_message_comes_back(tmp_path: Path, arrays: Any) -> None:
    """With its arrays, short or long or none; the same parts to the byte."""
    record = pack(MESSAGE, arrays)
    reply = Reply(record, None, 1234, 1e12, "ab" * 32, "cd" * 32)
    assert keepable(reply) is reply
    found = from_json(kept(reply, tmp_path), content(tmp_path))
    assert found.content is not None
    assert parts_of(found.content) == parts_of(record)
    assert (found.failure, found.size, found.work) == (None, 1234, 1e12)
    assert (found.asked, found.signature) == ("ab" * 32, "cd" * 32)
    said, came = unpack(found.content, Refusal)
    assert said == MESSAGE
    assert came.keys() == (arrays or {}).keys()


def test_an_answer_carries_no_upstream_models() -> None:
    """Only questions do: what a site puts beside its own arrays is not even kept."""
    reply = keepable(Reply(attach(pack(MESSAGE), SHORT)))
    assert isinstance(reply.failure, MessageError)
    assert reply.content is None


def test_an_answer_that_is_too_long_is_not_kept() -> None:
    """What was asked for says how long it can be."""
    record = pack(MESSAGE, ARRAYS)
    assert keepable(Reply(record, size=100), 100).content is record
    reply = keepable(Reply(record, size=101), 100)
    assert isinstance(reply.failure, LimitError)
    assert "an answer of 101 bytes, at most 100" in str(reply.failure)


@pytest.mark.parametrize(
    "failure", [ProtocolError("why"), MessageError("no message"), SealError("no seal", "missing"), None]
)
def test_a_failure_comes_back(tmp_path: Path, failure: ProtocolError | None) -> None:
    """With its text and its code: by those a run decides, and tells."""
    found = from_json(kept(Reply(failure=failure, size=3, work=0.5), tmp_path), content(tmp_path))
    assert found.content is None
    assert found.failure is not None
    assert found.failure.code == (failure or ProtocolError("")).code
    assert str(found.failure) == str(failure or "the site failed")
    assert (found.size, found.work) == (3, 0.5)


def _body(data: object, **more: Any) -> RecordDict:
    head: dict[str, Any] = {"version": 1, "type": "Refusal", "body": data, **more}
    return RecordDict({HEAD: ConfigRecord(head)})


HOSTILE: dict[str, RecordDict] = {
    "empty": RecordDict(),
    "metrics": RecordDict({HEAD: MetricRecord({"loss": 1.0})}),
    "no body": RecordDict({HEAD: ConfigRecord({"version": 1, "type": "Refusal"})}),
    "text as body": _body("text"),
    "more in the head": _body(b"{}", more=1),
    "another record": RecordDict({**_body(b"{}"), "more": ConfigRecord({"x": 1})}),
    "huge version": _body(b"{}", version=2**40),
    "version as text": _body(b"{}", version="1"),
    "long type": _body(b"{}", type="R" * 100),
    "long body": _body(b"x" * (8 * 2**20 + 1)),
    "arrays of another kind": RecordDict(
        {**_body(b"{}"), "arrays": ArrayRecord({"w": Array("float32", (1,), "numpy.ndarray", b"1234")})}
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_message_is_its_sites_failure(tmp_path: Path, name: str) -> None:
    """Whatever a site put into a record: it is kept as a failure, with what it cost, and comes back so."""
    reply = keepable(Reply(HOSTILE[name], None, 99, 5.0))
    assert reply.content is None
    assert isinstance(reply.failure, ProtocolError)
    found = from_json(kept(reply, tmp_path), content(tmp_path))
    assert (found.content, found.size, found.work) == (None, 99, 5.0)
    assert str(found.failure) == str(reply.failure)


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"\0" * 40_000, b"x" * 2**20, "é".encode() * 9000, b"{" * 10]
)
def test_any_body_is_kept(tmp_path: Path, body: bytes) -> None:
    """What no reader will understand is kept to the byte; a long one, or one JSON makes long, in a file."""
    row = kept(keepable(Reply(_body(body))), tmp_path)
    assert len(json.dumps(row)) < 40_000
    found = from_json(row, content(tmp_path))
    assert found.content is not None
    assert found.content[HEAD]["body"] == body


def test_a_long_body_lasts_as_long_as_its_use(tmp_path: Path) -> None:
    """A process that goes on counts its use: so does the one after that find it."""
    row = kept(Reply(_body(b"x" * 2**20)), tmp_path)
    for _ in range(3):
        here = content(tmp_path)
        assert from_json(row, here).content is not None
        here.check()
        here.sweep_all()
    for ref in refs_of(row):
        here.drop(ref)
    here.sweep()
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_of_what_was_judged_the_head_is_left(tmp_path: Path) -> None:
    """A contribution's arrays go once it was judged; its message comes back without, and nothing is amiss."""
    row = kept(Reply(attach(pack(MESSAGE, ARRAYS), {"u": ARRAYS["w"]}), None, 5, 6.0), tmp_path)
    here = content(tmp_path)
    first, second = refs_of(row)
    (tmp_path / FOLDER / first).unlink()
    found = from_json(row, here, may_be_gone=True)
    assert found.content is not None
    assert unpack(found.content, Refusal) == (MESSAGE, {})
    assert (found.size, found.work) == (5, 6.0)
    for ref in (first, second):  # it was judged, as the next row says
        here.drop(ref)
    here.check()
    here.sweep_all()
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_what_was_not_judged_must_be_there(tmp_path: Path) -> None:
    """An answer whose arrays are gone before they were used is not taken for one without."""
    row = kept(Reply(pack(MESSAGE, ARRAYS)), tmp_path)
    (tmp_path / FOLDER / refs_of(row)[0]).unlink()
    here = content(tmp_path)
    with pytest.raises(JournalError, match="cannot be read"):
        from_json(row, here)
    here = content(tmp_path)
    from_json(row, here, may_be_gone=True)
    with pytest.raises(JournalError, match="is gone"):
        here.check()


def test_what_another_holds_is_not_dropped(tmp_path: Path) -> None:
    """Two sites send the same bytes; that one of them was judged, with others gone, takes nothing away."""
    honest = kept(Reply(pack(MESSAGE, ARRAYS)), tmp_path)
    hostile = kept(Reply(attach(pack(MESSAGE, {"x": ARRAYS["w"] + 1}), ARRAYS)), tmp_path)
    gone, shared = refs_of(hostile)
    assert refs_of(honest) == [shared]
    (tmp_path / FOLDER / gone).unlink()
    here = content(tmp_path)
    from_json(honest, here)
    from_json(hostile, here, may_be_gone=True)
    for ref in (gone, shared):
        here.drop(ref)
    here.check()
    here.sweep_all()
    assert here.has(shared)


def test_damaged_arrays_are_an_error(tmp_path: Path) -> None:
    """Other bytes than came are not used."""
    row = kept(Reply(pack(MESSAGE, ARRAYS)), tmp_path)
    (tmp_path / FOLDER / refs_of(row)[0]).write_bytes(b"damage")
    with pytest.raises(JournalError, match="is damaged"):
        from_json(row, content(tmp_path))
