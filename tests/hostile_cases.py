"""Hostile contributions: each takes the honest answer and returns what a bad site sends. Not a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from protocol.arrays import digest
from protocol.codec import decode, encode
from protocol.messages import PROTOCOL_VERSION, Contribution
from protocol.records import ARRAYS, BLOB, HEAD, STYPE, unpack
from tests.fault_cases import Fault, contribution, fails, retold, unreadable
from tests.small import Named

WEIGHT, BIAS = "1.weight", "1.bias"
Header = dict[str, Any]


def given(change: Callable[[Named], Named]) -> Fault:
    """Change the arrays, with a digest that fits them: nothing but the arrays is wrong."""

    def changed(told: Contribution, arrays: Named) -> tuple[Contribution, Named]:
        new = change(arrays)
        return told.model_copy(update={"digest": digest(new)}), new

    return retold(changed, Contribution)


def value(name: str, number: float) -> Fault:
    """Put one number into an array."""

    def change(arrays: Named) -> Named:
        arrays[name].flat[0] = number
        return arrays

    return given(change)


def blob(change: Callable[[bytes], bytes]) -> Fault:
    """Change the bytes of the arrays and leave the message."""

    def fault(message: Message, reply: Message) -> Message:
        honest = reply.content[ARRAYS]
        assert isinstance(honest, ArrayRecord)
        return Message(
            RecordDict({HEAD: reply.content[HEAD], ARRAYS: record_of(change(honest[BLOB].data))}),
            reply_to=message,
        )

    return fault


def record_of(data: bytes) -> ArrayRecord:
    """Return the record of one blob."""
    return ArrayRecord({BLOB: Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)})


def header(change: Callable[[Header], Header | bytes], tail: bytes = b"") -> Fault:
    """Change the header of the arrays' container, and append ``tail`` to it."""

    def changed(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        new = change(json.loads(data[8 : 8 + length]))
        text = new if isinstance(new, bytes) else json.dumps(new, separators=(",", ":")).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :] + tail

    return blob(changed)


def entry(name: str, **fields: Any) -> Fault:
    """Change fields of one array's entry in the header."""
    return header(lambda h: h | {name: h[name] | fields})


def body(change: Callable[[Header], Header | bytes]) -> Fault:
    """Change the JSON of the message and leave the arrays."""

    def fault(message: Message, reply: Message) -> Message:
        told, _ = unpack(reply.content, Contribution)
        new = change(told.model_dump(mode="json"))
        text = new if isinstance(new, bytes) else json.dumps(new, separators=(",", ":")).encode()
        head = {"version": PROTOCOL_VERSION, "type": "Contribution", "body": text}
        return Message(RecordDict({**reply.content, HEAD: ConfigRecord(head)}), reply_to=message)

    return fault


def says(name: str, content: Any) -> Fault:
    """Say something else of one field, of whatever type."""
    return body(lambda told: told | {name: content})


def _twice(told: Header) -> bytes:
    text = json.dumps(told, separators=(",", ":"))
    return (text[:-1] + f',"num_examples":{told["num_examples"]}}}').encode()


def _typed(kind: str) -> Fault:
    def fault(message: Message, reply: Message) -> Message:
        head = ConfigRecord({**reply.content.config_records[HEAD], "type": kind})
        return Message(RecordDict({**reply.content, HEAD: head}), reply_to=message)

    return fault


def _amplified(message: Message, reply: Message) -> Message:
    """One chunk that many arrays refer to: small on the wire, large once it is opened."""
    chunk = reply.content.array_records[ARRAYS][BLOB]
    many = ArrayRecord({BLOB: chunk, **{f"{BLOB}{i}": chunk for i in range(1000)}})
    return Message(RecordDict({HEAD: reply.content[HEAD], ARRAYS: many}), reply_to=message)


def _overlapping(head: Header) -> Header:
    return {f"{i}": head[WEIGHT] for i in range(1000)}


def _crowd(count: int) -> Fault:
    return given(lambda arrays: arrays | {f"x{i}": np.zeros(0, np.float32) for i in range(count)})


def _beside(message: Message, reply: Message) -> Message:
    return Message(RecordDict({**reply.content, "more": ConfigRecord({"a": 1})}), reply_to=message)


def _upstream(message: Message, reply: Message) -> Message:
    more = record_of(encode({"a": np.zeros(10)}))
    return Message(RecordDict({**reply.content, "upstream": more}), reply_to=message)


ANY: Mapping[str, tuple[Fault, str]] = {
    "no message at all": (unreadable, "message"),
    "an error reply": (fails, "protocol"),
    "an unknown type": (_typed("Nonsense"), "message"),
    "a type with a line break": (_typed("Contribution\n"), "message"),
    "a record too many": (_beside, "message"),
    "arrays that nobody asked for": (_upstream, "message"),
    "another site's name": (contribution(site="alpha"), "message"),
    "another round": (contribution(round=10**6), "message"),
    "another subtask": (contribution(subtask="other"), "message"),
    "another attempt": (contribution(attempt=2), "message"),
    "a huge weight": (contribution(num_examples=10**12), "message"),
    "a smaller weight": (contribution(num_examples=1), "message"),
    "a negative weight": (says("num_examples", -1), "message"),
    "no weight": (says("num_examples", 0), "message"),
    "a weight that is NaN": (
        body(lambda t: json.dumps(t | {"num_examples": float("nan")}).encode()),
        "message",
    ),
    "a weight that is infinite": (says("num_examples", float("inf")), "message"),
    "a weight that is true": (says("num_examples", True), "message"),
    "a weight in quotes": (body(lambda t: t | {"num_examples": str(t["num_examples"])}), "message"),
    "a weight with a point": (body(lambda t: t | {"num_examples": float(t["num_examples"])}), "message"),
    "a weight of 5000 digits": (
        body(lambda t: json.dumps(t).encode()[:-1] + b',"examples_processed":1' + b"0" * 5000 + b"}"),
        "message",
    ),
    "a key twice": (body(_twice), "message"),
    "an unknown key": (says("more", 1), "message"),
    "a deep body": (body(lambda _: b"[" * 100_000 + b"]" * 100_000), "limit"),
    "a deep field": (
        body(lambda t: json.dumps(t).encode()[:-1] + b',"x":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        "limit",
    ),
    "a huge body": (body(lambda t: json.dumps(t).encode() + b" " * 2**20), "limit"),
    "another digest": (contribution(digest="f" * 64), "arrays"),
    "an 8 TB header": (blob(lambda d: (8 * 2**40).to_bytes(8, "little") + d[8:]), "arrays"),
    "a header beyond any number": (blob(lambda d: b"\xff" * 8 + d[8:]), "arrays"),
    "a bloated header": (header(lambda h: json.dumps(h).encode() + b" " * 2**17), "limit"),
    "a deep header": (header(lambda h: b"[" * 30_000 + b"]" * 30_000), "arrays"),
    "a chunk referred to many times": (_amplified, "limit"),
    "offsets that overlap": (header(_overlapping), "arrays"),
    "bytes that follow": (blob(lambda d: d + b"\0" * 100), "arrays"),
    "a huge blob": (blob(lambda d: d + b"\0" * 2**22), "limit"),
    "bytes that end early": (blob(lambda d: d[:-1]), "arrays"),
    "5000 arrays": (_crowd(5000), "limit"),
    "metadata": (header(lambda h: h | {"__metadata__": {"by": "me"}}), "arrays"),
}
WEIGHTS_ALONE: Mapping[str, tuple[Fault, str]] = {
    "NaN": (value(WEIGHT, np.nan), "arrays"),
    "infinity": (value(WEIGHT, -np.inf), "arrays"),
    "1e38": (given(lambda a: a | {WEIGHT: np.full_like(a[WEIGHT], 1e38)}), "limit"),
    "many large numbers": (given(lambda a: a | {WEIGHT: np.full_like(a[WEIGHT], 9e8)}), "limit"),
    "another shape": (given(lambda a: a | {WEIGHT: a[WEIGHT].T.copy()}), "arrays"),
    "a side of length 1": (given(lambda a: a | {WEIGHT: a[WEIGHT][None]}), "arrays"),
    "another dtype": (given(lambda a: a | {WEIGHT: a[WEIGHT].astype(np.float16)}), "arrays"),
    "a name less": (given(lambda a: {WEIGHT: a[WEIGHT]}), "arrays"),
    "a name more": (given(lambda a: a | {"more": np.zeros(1, np.float32)}), "arrays"),
    "negative offsets": (entry(BIAS, data_offsets=[-12, 0]), "arrays"),
    "offsets that go back": (entry(BIAS, data_offsets=[12, 0]), "arrays"),
    "the same bytes twice": (
        header(lambda h: h | {BIAS: h[BIAS] | {"data_offsets": h[WEIGHT]["data_offsets"]}}),
        "arrays",
    ),
    "an endless shape": (entry(BIAS, shape=[2**62, 2**62, 0], data_offsets=[0, 0]), "arrays"),
    "a dtype that runs code": (entry(BIAS, dtype="O"), "arrays"),
    "a shape that is true": (entry(BIAS, shape=[True, 3]), "arrays"),
}


def _of(change: Callable[[Any], Any]) -> Fault:
    return given(lambda a: {"probabilities": change(a["probabilities"])})


SOFT_LABELS_ALONE: Mapping[str, tuple[Fault, str]] = {
    "rows that do not sum to 1": (_of(lambda p: p * np.float32(0.99)), "arrays"),
    "negative": (_of(lambda p: p - np.float32(1e-3)), "arrays"),
    "NaN": (value("probabilities", np.nan), "arrays"),
    "logits": (_of(lambda p: np.log(p + np.float32(1e-6))), "arrays"),
    "a row less": (_of(lambda p: p[1:]), "arrays"),
    "a row more": (_of(lambda p: np.concatenate([p, p[:1]])), "arrays"),
    "another public set": (contribution(public_digest="0" * 64), "message"),
    "no public set": (contribution(public_digest=None), "message"),
}
NOTHING_WRONG: Mapping[str, Fault] = {
    "zero weights": given(lambda a: {name: np.zeros_like(array) for name, array in a.items()}),
}


def unchanged(message: Message, reply: Message) -> Message:
    """Give back what was sent: zero change."""
    told, _ = unpack(reply.content, Contribution)
    sent = message.content.array_records[ARRAYS][BLOB].data
    new = told.model_copy(update={"digest": digest(decode(sent, 10**6))})
    head = ConfigRecord({**reply.content.config_records[HEAD], "body": new.model_dump_json().encode()})
    return Message(RecordDict({HEAD: head, ARRAYS: record_of(sent)}), reply_to=message)


def mutated(content: RecordDict, rng: np.random.Generator) -> RecordDict:
    """Return ``content`` with bytes of its message or of its arrays flipped, cut, doubled or put in."""
    head = dict(content.config_records[HEAD])
    data = content.array_records[ARRAYS][BLOB].data
    if rng.random() < 0.5:
        head["body"] = _changed(bytes(content.config_records[HEAD]["body"]), rng)  # type: ignore[arg-type]
    else:
        data = _changed(data, rng)
    return RecordDict({HEAD: ConfigRecord(head), ARRAYS: record_of(data)})


def _changed(data: bytes, rng: np.random.Generator) -> bytes:
    place, other = sorted(int(i) for i in rng.integers(0, len(data), 2))
    match int(rng.integers(5)):
        case 0:
            return data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]
        case 1:
            return data[:place]
        case 2:
            return data[:place] + data[place:other] * 2 + data[other:]
        case 3:
            return data[:place] + rng.bytes(int(rng.integers(1, 9))) + data[place:]
        case _:
            return data[:place] + data[other:]
