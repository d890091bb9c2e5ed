"""Records with a seal beside them: all that is read is sealed, and nothing else travels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from protocol.errors import MessageError, SealError
from protocol.header import MAX_HEADER_BYTES
from protocol.messages import Evaluation
from protocol.records import HEAD, SEAL, attach, pack, parts_of, take_seal, unpack, with_seal
from protocol.seal import digest
from tests.protocol.seal_cases import World

EVALUATION = Evaluation(run="r1", round=3, subtask="tumour", site="north", num_examples=50)


def test_a_record_travels_with_its_seal() -> None:
    """What is sealed comes back as it was; a sealed record is not read as if it had no seal."""
    world = World()
    record = attach(pack(EVALUATION, {"w": np.ones(3, np.float32)}), {"t/w": np.zeros(2, np.float32)})
    sealed = with_seal(record, world.sealed(parts_of(record)))
    with pytest.raises(MessageError):
        unpack(sealed, Evaluation)
    with pytest.raises(MessageError):
        parts_of(sealed)
    bare, seal = take_seal(sealed)
    assert set(bare) == set(record)
    world.verifier().open(parts_of(bare), seal)


def test_parts_tell_records_apart() -> None:
    """An absent blob is not an empty one, arrays are not upstream arrays, and the type is bound."""
    arrays = {"w": np.ones(3, np.float32)}
    bare = pack(EVALUATION)
    records = [bare, pack(EVALUATION, arrays), attach(bare, arrays), attach(pack(EVALUATION, arrays), arrays)]
    records += [pack(EVALUATION, {}), attach(bare, {})]
    digests = {digest(parts_of(record))[0] for record in records}
    assert len(digests) == len(records)


@pytest.mark.parametrize(
    "change",
    [
        {"extra": ConfigRecord({"a": 1})},
        {HEAD: MetricRecord({"a": 1})},
        {HEAD: ConfigRecord({"version": 1, "type": "Evaluation", "body": b"{}", "more": b""})},
        {HEAD: ConfigRecord({"version": True, "type": "Evaluation", "body": b"{}"})},
        {HEAD: ConfigRecord({"version": 10**30, "type": "Evaluation", "body": b"{}"})},
        {HEAD: ConfigRecord({"version": 1, "type": "é", "body": b"{}"})},
        {HEAD: ConfigRecord({"version": 1, "type": "E" * 65, "body": b"{}"})},
        {HEAD: ConfigRecord({"version": 1, "type": "Evaluation", "body": "{}"})},
        {"arrays": ConfigRecord({"blob": b""})},
        {"upstream": ArrayRecord()},
    ],
)
def test_only_what_is_read_can_be_sealed(change: dict[str, Any]) -> None:
    """A record with anything that no signature would cover is refused."""
    with pytest.raises(MessageError):
        parts_of(RecordDict({**pack(EVALUATION), **change}))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "missing"),
        (MetricRecord({"header": 1}), "form"),
        (ConfigRecord({"header": b"h"}), "form"),
        (ConfigRecord({"header": b"h", "signature": b"s" * 64, "more": b""}), "form"),
        (ConfigRecord({"header": "h", "signature": b"s" * 64}), "form"),
        (ConfigRecord({"header": b"h", "signature": b"s" * 63}), "form"),
        (ConfigRecord({"header": b"h" * (MAX_HEADER_BYTES + 1), "signature": b"s" * 64}), "form"),
    ],
)
def test_a_seal_is_two_bounded_values(content: Any, why: str) -> None:
    """What is not exactly a header and a signature is no seal."""
    record = pack(EVALUATION)
    with pytest.raises(SealError) as caught:
        take_seal(record if content is None else RecordDict({**record, SEAL: content}))
    assert caught.value.reason == why
