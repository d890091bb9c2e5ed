"""Messages in Flower's records: what went in comes out, and what is not ours is refused in one line."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocol.bounds import Frozen
from protocol.codec import Limits, encode
from protocol.errors import ArraysError, MessageError, ProtocolError, VersionError
from protocol.messages import PROTOCOL_VERSION, Evaluation, Refusal
from protocol.records import (
    ARRAYS,
    BLOB,
    HEAD,
    MAX_BODY_BYTES,
    STYPE,
    attach,
    attached,
    detach,
    pack,
    pack_arrays,
    unpack,
    wire_bytes,
)
from tests.protocol.array_cases import named_arrays, same_bits
from tests.protocol.message_cases import CASES

laws = settings(deadline=None, max_examples=60, derandomize=True)
EVALUATION = Evaluation(run="r1", round=3, subtask="tumour", site="north", num_examples=50)
WEIGHTS = {"w": np.ones(3, np.float32)}


def record(**head: Any) -> RecordDict:
    """An evaluation's record in which parts of the head are replaced, or left out if None."""
    body = EVALUATION.model_dump_json().encode()
    parts = {"version": PROTOCOL_VERSION, "type": "Evaluation", "body": body, **head}
    return RecordDict({HEAD: ConfigRecord({k: v for k, v in parts.items() if v is not None})})


def refusal(content: RecordDict, kind: type[ProtocolError] = MessageError) -> str:
    """The one printable line that says why ``content`` is no evaluation."""
    with pytest.raises(kind) as caught:
        unpack(content, Evaluation)
    assert type(caught.value) is kind
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize(("message", "text"), CASES, ids=[type(m).__name__ for m, _ in CASES])
def test_every_message_comes_back(message: Frozen, text: str) -> None:
    """A message is packed with its version, type and JSON, and unpacked as it was, with or without arrays."""
    assert unpack(pack(message), type(message)) == (message, {})
    packed = pack(message, WEIGHTS)
    head = {"version": PROTOCOL_VERSION, "type": type(message).__name__, "body": text.encode()}
    assert dict(packed.config_records[HEAD]) == head
    found, arrays = unpack(packed, type(message))
    assert found == message
    assert same_bits(arrays, dict(WEIGHTS))


@laws
@given(named_arrays())
def test_arrays_come_back(arrays: dict[str, NDArray[Any]]) -> None:
    """Whatever arrays travel beside a message arrive with the same bits, none or many."""
    assert same_bits(unpack(pack(EVALUATION, arrays), Evaluation)[1], arrays)


@laws
@given(named_arrays())
def test_wire_bytes_are_what_is_sent(arrays: dict[str, NDArray[Any]]) -> None:
    """The size that is accounted is the body's and the blob's, to the byte, and nothing for no arrays."""
    body = len(EVALUATION.model_dump_json())
    assert wire_bytes(pack(EVALUATION)) == body
    assert wire_bytes(pack(EVALUATION, arrays)) == body + len(encode(arrays))


def test_a_foreign_record_has_a_size() -> None:
    """Bytes are accounted whatever a site sends, so a record that is not ours does not raise."""
    foreign = RecordDict({HEAD: MetricRecord({"a": 1}), ARRAYS: ConfigRecord({"body": b"123"})})
    assert wire_bytes(foreign) == 0
    assert wire_bytes(RecordDict({HEAD: ConfigRecord({"body": "text"})})) == 0
    assert wire_bytes(RecordDict()) == 0


@pytest.mark.parametrize("version", [0, 2, -1, 1.0, True, "1", b"1", [1], None])
def test_another_version_is_refused(version: Any) -> None:
    """Only this very version is read, not what merely equals it."""
    assert f"expected {PROTOCOL_VERSION}" in refusal(record(version=version), VersionError)


@pytest.mark.parametrize(
    "kind", ["evaluation", "Frozen", "Evaluation\n", "x" * 10**6, b"Evaluation", 1, None]
)
def test_another_type_is_refused(kind: Any) -> None:
    """A message of another type is refused, and the answer says which was expected."""
    assert refusal(record(type=kind)).endswith("expected Evaluation")


@pytest.mark.parametrize("body", [None, "{}", 1, b" " * (MAX_BODY_BYTES + 1)])
def test_a_missing_or_huge_body_is_refused(body: Any) -> None:
    """A body is bytes, and no more of them than any message needs."""
    assert "no body" in refusal(record(body=body))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "field 'body'"),
        (b"null", "field 'body'"),
        (b"[" * 100_000, "field 'body'"),
        (b"\xff\xfe", "field 'body'"),
        (b'{"run":"r"}', "field 'round': Field required"),
        (b'{"run":"r","round":-1}', "field 'round': Input should be greater"),
        (b'{"run":"r/../r"}', "field 'run'"),
        (
            b'{"s3cret\\n\\u001b[31m":0,"run":"r","round":0,"subtask":"s","site":"s","num_examples":1}',
            "not permitted",
        ),
    ],
)
def test_a_body_that_is_no_evaluation_is_refused(body: bytes, says: str) -> None:
    """The first field that is wrong is named in one printable line."""
    assert says in refusal(record(body=body))


def test_a_value_is_not_repeated() -> None:
    """What another party wrote into a field is not carried on into our log."""
    body = EVALUATION.model_dump_json().replace('"north"', '"patient Smith"').encode()
    assert "Smith" not in refusal(record(body=body))


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({HEAD: ArrayRecord()}),
        RecordDict({HEAD: MetricRecord({"version": 1})}),
        RecordDict({ARRAYS: pack_arrays(WEIGHTS)}),
        RecordDict({**pack(EVALUATION), "more": ConfigRecord()}),
    ],
)
def test_a_record_of_another_form_is_refused(content: RecordDict) -> None:
    """No head, a head of another kind, or a record beside ours."""
    assert refusal(content) == "not a Consilium message; expected Evaluation"


def array(stype: str = STYPE, data: bytes = b"", dtype: str = "uint8") -> Array:
    """One of Flower's arrays, as a site could build it."""
    return Array(dtype=dtype, shape=(len(data),), stype=stype, data=data)


@pytest.mark.parametrize(
    "arrays",
    [
        ConfigRecord({BLOB: b""}),
        ArrayRecord(),
        ArrayRecord({BLOB: array(stype="numpy.ndarray", data=encode(WEIGHTS))}),
        ArrayRecord({"other": array(data=encode(WEIGHTS))}),
        ArrayRecord({BLOB: array(data=encode(WEIGHTS)), "other": array()}),
        ArrayRecord([np.zeros(3)]),
    ],
)
def test_arrays_that_are_not_our_blob_are_refused(arrays: Any) -> None:
    """Flower's own arrays, which numpy would unpack, are never read."""
    assert refusal(RecordDict({**record(), ARRAYS: arrays})) == "arrays are not one Consilium blob"


def test_a_blob_is_checked_whatever_flower_says_of_it() -> None:
    """Dtype and shape in Flower's record mean nothing; the blob's own header does."""
    blob = encode(WEIGHTS)
    lying = ArrayRecord({BLOB: Array(dtype="O", shape=(10**9,), stype=STYPE, data=blob)})
    assert same_bits(unpack(RecordDict({**record(), ARRAYS: lying}), Evaluation)[1], dict(WEIGHTS))
    cut = ArrayRecord({BLOB: array(data=blob[:-1])})
    refusal(RecordDict({**record(), ARRAYS: cut}), ArraysError)


def test_the_receiver_bounds_the_arrays() -> None:
    """Arrays larger than the receiver allows are refused, to the byte."""
    packed, size = pack(EVALUATION, WEIGHTS), len(encode(WEIGHTS))
    unpack(packed, Evaluation, Limits(size))
    with pytest.raises(ArraysError, match="more than"):
        unpack(packed, Evaluation, Limits(size - 1))


@laws
@given(
    st.one_of(
        st.binary(), st.text().map(str.encode), st.from_regex(r'\{"[a-z]*":[0-9n"\[\]{}]*\}').map(str.encode)
    )
)
def test_no_body_surprises(body: bytes) -> None:
    """Bytes from anywhere in the body are a message or a ``MessageError``."""
    with suppress(MessageError):
        unpack(record(type="Refusal", body=body), Refusal)


def test_what_is_attached_stands_beside_the_message() -> None:
    """Upstream models are no arrays of the message itself; they count, and the unaware refuse them."""
    plain = pack(EVALUATION, WEIGHTS)
    whole = attach(plain, {"side/w": np.zeros(4, np.float32)})
    assert same_bits(attached(whole), {"side/w": np.zeros(4, np.float32)})
    assert attached(plain) == {}
    assert wire_bytes(whole) > wire_bytes(plain) == wire_bytes(detach(whole))
    found, arrays = unpack(detach(whole), Evaluation)
    assert found == EVALUATION
    assert same_bits(arrays, dict(WEIGHTS))
    assert "not a Consilium message" in refusal(whole)
    assert set(plain) == {HEAD, ARRAYS}
