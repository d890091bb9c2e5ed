"""Sealed messages: what was signed is opened once, by its recipient, in its time; all else is refused."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import MessageError, SealError
from protocol.header import MAX_HEADER_BYTES
from protocol.messages import Evaluation
from protocol.records import HEAD, SEAL, attach, pack, parts_of, take_seal, unpack, with_seal
from protocol.seal import MAX_VALID_S, SKEW_S, Header, Seal, decode, digest
from tests.protocol.seal_cases import ABOUT, PARTS, World

laws = settings(deadline=None, max_examples=100, derandomize=True)
HEADER = Header(
    federation="clinic",
    run="r1",
    task="r1/3/tumour/north/1",
    kind="train.weights",
    sender="server",
    recipient="north",
    epoch=3,
    sequence=7,
    nonce=bytes(range(16)),
    issued_at_ms=1_800_000_000_000,
    expires_at_ms=1_800_000_600_000,
    body_bytes=12,
    body_digest=bytes(range(32)),
    answers=b"",
)
GOLDEN = (
    "00080000000000000001"
    "0006636c696e6963"
    "00027231"
    "001372312f332f74756d6f75722f6e6f7274682f31"
    "000d747261696e2e77656967687473"
    "0006736572766572"
    "00056e6f727468"
    "00080000000000000003"
    "00080000000000000007"
    "0010000102030405060708090a0b0c0d0e0f"
    "0008000001a3185c5000"
    "0008000001a3186577c0"
    "0008000000000000000c"
    "0020000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "0000"
)
EVALUATION = Evaluation(run="r1", round=3, subtask="tumour", site="north", num_examples=50)


def reason(world: World, parts: Sequence[bytes], seal: Seal, **expected: Any) -> str:
    """Why a fresh verifier of north refuses."""
    with pytest.raises(SealError) as caught:
        world.verifier().open(parts, seal, **expected)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    return caught.value.reason


def test_the_form_is_frozen() -> None:
    """These bytes are what version 1 is, on every machine and in every release."""
    assert HEADER.encode().hex() == GOLDEN
    assert decode(bytes.fromhex(GOLDEN)) == HEADER
    assert digest([b"ab", b"c"])[1] == 3
    assert digest([b"ab", b""])[0].hex() == "8a8dd84be0ac81289d5876aeed03bf6a40f1dcddf46ac5837971a7b76c9bc581"


def test_the_signature_is_frozen() -> None:
    """Ed25519 is deterministic: this key signs this header so."""
    world = World()
    signature = world.key("server").sign(b"consilium/envelope/v1\0" + HEADER.encode())
    assert signature.hex() == (
        "e44897bbd36835c7db4da9ecb2514fb0add666f396a211c2ce661df70b82f6af"
        "b93045733e250002c47e8b2ec1bda062959978e4c61a50434ef654f0d47ece0b"
    )
    made = HEADER.model_copy(update={"body_bytes": digest(PARTS)[1], "body_digest": digest(PARTS)[0]})
    signature = world.key("server").sign(b"consilium/envelope/v1\0" + made.encode())
    assert world.verifier().open(PARTS, Seal(made.encode(), signature)) == made


@laws
@given(st.binary(max_size=400))
def test_foreign_bytes_are_no_header(data: bytes) -> None:
    """Bytes are refused, or are the one form of what they decode to."""
    with suppress(MessageError):
        assert decode(data).encode() == data


@laws
@given(st.integers(0, len(GOLDEN) // 2 - 1), st.integers(0, 255))
def test_a_changed_header_is_another_one(at: int, value: int) -> None:
    """No byte can be changed without changing a field, so nothing in a header is unsigned or ambiguous."""
    data = bytearray.fromhex(GOLDEN)
    data[at] = value
    try:
        assert decode(bytes(data)).encode() == data
    except MessageError:
        assert bytes(data) != HEADER.encode()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("federation", "../clinic"),
        ("federation", ""),
        ("run", "a b"),
        ("task", "x" * 401),
        ("task", "é"),
        ("task", "a\nb"),
        ("kind", ""),
        ("sender", "n" * 65),
        ("epoch", 0),
        ("sequence", -1),
        ("body_bytes", 2**63),
        ("nonce", b"short"),
        ("body_digest", b""),
        ("answers", b"x" * 31),
        ("version", 2),
    ],
)
def test_fields_have_bounds(field: str, value: object) -> None:
    """No header can be made, or read, with a field out of its bounds."""
    with pytest.raises(ValueError, match=field):
        Header.model_validate(HEADER.model_dump() | {field: value})
    if not isinstance(value, int):
        data = HEADER.model_copy(update={field: value})
        with pytest.raises((MessageError, UnicodeEncodeError)):
            decode(data.encode())


def test_the_longest_header_is_read() -> None:
    """Every header that can be made is short enough to be read."""
    name = "n" * 64
    names = dict.fromkeys(("federation", "run", "kind", "sender", "recipient"), name)
    longest = HEADER.model_copy(update={**names, "task": "t" * 400, "answers": b"a" * 32})
    assert decode(longest.encode()) == longest
    assert len(longest.encode()) < MAX_HEADER_BYTES


@laws
@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_other_parts_have_another_digest(one: list[bytes], other: list[bytes]) -> None:
    """Where a part ends matters: concatenation does not hide it."""
    assert (digest(one) == digest(other)) == (one == other)


def test_an_honest_message_is_opened_once() -> None:
    """The recipient learns who said what; again, it is a replay."""
    world = World()
    signer, verifier = world.signer(), world.verifier()
    for sequence in (1, 2, 3):
        seal = signer.seal(PARTS, **ABOUT, recipient="north")
        header = verifier.open(PARTS, seal, sender="server", answers=b"", **ABOUT)
        assert (header.sequence, header.sender, header.epoch) == (sequence, "server", 3)
        with pytest.raises(SealError) as caught:
            verifier.open(PARTS, seal)
        assert caught.value.reason == "replay"


def test_an_answer_is_bound_to_its_question() -> None:
    """What answers another question is refused."""
    world = World()
    asked = digest(PARTS)[0]
    seal = world.signer("north").seal([b"yes"], **ABOUT, recipient="server", answers=asked)
    verifier = world.verifier("server")
    with pytest.raises(SealError) as caught:
        verifier.open([b"yes"], seal, answers=digest([b"other"])[0])
    assert caught.value.reason == "answers"
    assert verifier.open([b"yes"], seal, answers=asked).answers == asked


def _flips(data: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield bytes(changed)


def _mutations(world: World, one: Seal) -> Iterator[tuple[str, Sequence[bytes], Seal]]:
    """More than 500 messages that nobody signed, made from two that the server did."""
    rng = random.Random(5)  # noqa: S311
    other_parts = (*PARTS[:2], b'{"round":4}', *PARTS[3:])
    two = world.sealed(other_parts, task="r1/4/tumour/north/1")
    yield from (("header bit", PARTS, Seal(h, one.signature)) for h in _flips(one.header, rng, 250))
    yield from (("signature bit", PARTS, Seal(one.header, s)) for s in _flips(one.signature, rng, 150))
    for i, part in enumerate(PARTS):
        for changed in _flips(part, rng, 20) if part else (b"\0",):
            yield "part bit", (*PARTS[:i], changed, *PARTS[i + 1 :]), one
        yield "part cut", (*PARTS[:i], part[:-1], *PARTS[i + 1 :]) if part else PARTS[:-1], one
        yield "part longer", (*PARTS[:i], part + b"\0", *PARTS[i + 1 :]), one
        yield "part gone", (*PARTS[:i], *PARTS[i + 1 :]), one
    for i, j in itertools.combinations(range(len(PARTS)), 2):
        swapped = list(PARTS)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        yield "parts swapped", swapped, one
    yield "parts joined", [b"".join(PARTS)], one
    yield from (("header cut", PARTS, Seal(one.header[:n], one.signature)) for n in range(len(one.header)))
    yield from (("signature cut", PARTS, Seal(one.header, one.signature[:n])) for n in range(64))
    for more in (b"\0", b"\0\0", b"\0" * 5000):
        yield "longer", PARTS, Seal(one.header + more, one.signature)
        yield "longer", PARTS, Seal(one.header, one.signature + more)
        yield "longer", PARTS, Seal(more + one.header, one.signature)
    yield "splice", PARTS, two
    yield "splice", other_parts, one
    yield "splice", PARTS, Seal(one.header, two.signature)
    yield "splice", PARTS, Seal(two.header, one.signature)
    yield from (("fields swapped", PARTS, seal) for seal in _field_swaps(one, two))
    yield "no signature", PARTS, Seal(one.header, bytes(64))
    yield "own key", PARTS, Seal(one.header, world.key("south").sign(one.header))
    yield "no domain", PARTS, Seal(one.header, world.key("server").sign(one.header))


def _field_swaps(one: Seal, two: Seal) -> Iterator[Seal]:
    """Headers with fields of another message, or changed to what an attacker would like them to be."""
    header, other = decode(one.header), decode(two.header)
    wanted: dict[str, object] = {
        "run": "r2",
        "task": "r1/9/tumour/north/1",
        "kind": "train.finish",
        "sender": "south",
        "sequence": 99,
        "nonce": b"n" * 16,
        "issued_at_ms": header.issued_at_ms + 1,
        "expires_at_ms": header.expires_at_ms + 1,
        "answers": b"a" * 32,
        "body_digest": digest([b"x"])[0],
        "body_bytes": 1,
    }
    for field in Header.model_fields:
        for value in (getattr(other, field), wanted.get(field)):
            if value not in (None, getattr(header, field)):
                yield Seal(header.model_copy(update={field: value}).encode(), one.signature)


def test_no_mutation_is_accepted() -> None:
    """Of more than 500 changed messages none is opened, and the honest one is afterwards."""
    world = World()
    verifier = world.verifier()
    honest = world.sealed()
    refused: dict[str, int] = {}
    for how, parts, seal in _mutations(world, honest):
        with pytest.raises(SealError):
            verifier.open(parts, seal)
        refused[how] = refused.get(how, 0) + 1
    assert sum(refused.values()) >= 800, refused
    verifier.open(PARTS, honest)


def test_a_changed_body_does_not_use_a_message_up() -> None:
    """Who sends an honest seal ahead with another body does not get the honest message refused."""
    world = World()
    seal, verifier = world.sealed(), world.verifier()
    with pytest.raises(SealError):
        verifier.open((*PARTS, b""), seal)
    assert verifier.open(PARTS, seal).sender == "server"


def test_who_and_what_are_checked() -> None:
    """A message of another federation, to another party, or other than expected has its own reason."""
    world = World()
    assert reason(world, PARTS, world.sealed(recipient="south")) == "recipient"
    foreign = world.signer(federation="other").seal(PARTS, **ABOUT, recipient="north")
    assert reason(world, PARTS, foreign) == "federation"
    wrong = {"sender": "south", "run": "r2", "kind": "train.finish", "task": "x", "answers": bytes(32)}
    for name, value in wrong.items():
        assert reason(world, PARTS, world.sealed(), **{name: value}) == name
    assert reason(world, PARTS, Seal(b"", b"")) == "form"


def test_the_roster_decides() -> None:
    """An older or a newer epoch is refused, and who is not in the roster; a bad key opens nothing."""
    world = World()
    seal = world.sealed()
    world.epoch = 4
    assert reason(world, PARTS, seal) == "old_epoch"
    world.epoch = 2
    assert reason(world, PARTS, seal) == "new_epoch"
    world.epoch = 3
    world.known.discard("server")
    assert reason(world, PARTS, seal) == "unknown_sender"
    world.key_of = lambda name: b"short"  # type: ignore[method-assign]
    assert reason(world, PARTS, seal) == "signature"


def test_the_time_decides() -> None:
    """A message holds from its time to its end, give or take the skew; none holds for longer than a week."""
    world = World()
    start = world.now
    seal = world.sealed(valid_s=600)
    for now, why in ((start + 600 + SKEW_S + 1, "expired"), (start - SKEW_S - 1, "early")):
        world.now = now
        assert reason(world, PARTS, seal) == why
    for now in (start + 600 + SKEW_S, start - SKEW_S):
        world.now = now
        world.verifier().open(PARTS, seal)
    for valid_s in (0, -1, MAX_VALID_S + 1, float("nan"), float("inf")):
        with pytest.raises(MessageError):
            world.sealed(valid_s=valid_s)
    header = decode(world.sealed().header)
    for expires in (header.issued_at_ms, header.issued_at_ms - 1, header.issued_at_ms + 8 * 86_400_000):
        data = header.model_copy(update={"expires_at_ms": expires}).encode()
        signed = Seal(data, world.key("server").sign(b"consilium/envelope/v1\0" + data))
        assert reason(world, PARTS, signed) == "validity"


def test_remembering_is_bounded() -> None:
    """A full book refuses, of that sender alone; room comes back when what it holds has expired."""
    world = World()
    verifier = world.verifier(capacity=2)
    signer, south = world.signer(), world.signer("south")
    for _ in range(2):
        verifier.open(PARTS, signer.seal(PARTS, **ABOUT, recipient="north", valid_s=60))
    with pytest.raises(SealError) as caught:
        verifier.open(PARTS, signer.seal(PARTS, **ABOUT, recipient="north"))
    assert caught.value.reason == "full"
    verifier.open(PARTS, south.seal(PARTS, **ABOUT, recipient="north"))
    world.now += 60 + SKEW_S + 1
    verifier.open(PARTS, signer.seal(PARTS, **ABOUT, recipient="north"))


def test_a_clock_set_back_opens_nothing_again() -> None:
    """What was forgotten because it had expired is not accepted when the clock is set back."""
    world = World()
    verifier = world.verifier()
    start, seal = world.now, world.sealed(valid_s=60)
    verifier.open(PARTS, seal)
    world.now += 1000
    verifier.open(PARTS, world.sealed())
    world.now = start
    with pytest.raises(SealError) as caught:
        verifier.open(PARTS, seal)
    assert caught.value.reason == "expired"


def test_nothing_shows_a_key() -> None:
    """Neither a signer's repr nor its attributes' text holds the private key."""
    world = World()
    shown = repr(world.signer()) + str(vars(world.signer()))
    assert world.key("server").private_bytes_raw().hex() not in shown
    assert "server---" not in shown


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
