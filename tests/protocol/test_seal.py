"""Sealed messages: what was signed is opened once, by its recipient, in its time; all else is refused."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from protocol.errors import MessageError, SealError
from protocol.seal import MAX_VALID_S, SKEW_S, Header, Seal, decode, digest
from tests.protocol.seal_cases import ABOUT, PARTS, World


def reason(world: World, parts: Sequence[bytes], seal: Seal, **expected: Any) -> str:
    """Why a fresh verifier of north refuses."""
    with pytest.raises(SealError) as caught:
        world.verifier().open(parts, seal, **expected)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    return caught.value.reason


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
        "previous": b"p" * 32,
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
