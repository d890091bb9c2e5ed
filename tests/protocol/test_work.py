"""The short messages about long work: their bounds, and that they travel as any message."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from protocol.errors import MessageError
from protocol.records import pack, unpack
from protocol.work import CANCEL, HOLD_S, POLL, RECEIPT, REFUSAL, START, Cancel, Poll, Receipt

ASKED = "0f" * 32


@pytest.mark.parametrize(
    "message",
    [
        Poll(asked=ASKED),
        Poll(asked=ASKED, hold_s=0),
        Cancel(asked=ASKED),
        Receipt(asked=ASKED, state="unknown"),
        Receipt(asked=ASKED, state="working", share=0.25, eta_s=30, worked_s=10, detail="epoch 1 of 4"),
    ],
)
def test_they_travel(message: Any) -> None:
    """What is packed comes out the same."""
    assert unpack(pack(message), type(message)) == (message, {})


def test_they_are_told_apart() -> None:
    """A cancellation is no poll, though both name work in one way."""
    with pytest.raises(MessageError, match="type 'Cancel'; expected Poll"):
        unpack(pack(Cancel(asked=ASKED)), Poll)


@pytest.mark.parametrize(
    "asked", ["", "0f" * 31, "0f" * 33, "0F" * 32, "zz" * 32, ASKED + "\n", "../" + ASKED]
)
@pytest.mark.parametrize("kind", [Poll, Cancel])
def test_work_is_named_by_a_digest(kind: Any, asked: str) -> None:
    """Sites look work up by it: nothing but 64 hexadecimal digits is taken."""
    with pytest.raises(ValidationError, match="asked"):
        kind(asked=asked)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "done"},
        {"state": "working", "share": 1.01},
        {"state": "working", "share": -0.01},
        {"state": "working", "share": float("nan")},
        {"state": "working", "eta_s": -1},
        {"state": "working", "eta_s": float("inf")},
        {"state": "working", "worked_s": -1},
        {"state": "working", "detail": "x" * 501},
        {"state": "working", "more": 1},
    ],
)
def test_receipts_have_bounds(fields: dict[str, Any]) -> None:
    """What a site says of its progress is bounded before anybody shows it."""
    with pytest.raises(ValidationError):
        Receipt(asked=ASKED, **fields)


def test_how_long_a_site_may_hold() -> None:
    """A hold is bounded, and below the 30 s after which Flower's own calls give up."""
    assert Poll(asked=ASKED).hold_s == HOLD_S < 30
    for hold_s in (-1, 61, float("nan")):
        with pytest.raises(ValidationError, match="hold_s"):
            Poll(asked=ASKED, hold_s=hold_s)


def test_flower_takes_the_types() -> None:
    """The three types are ones that Flower knows to route, and the kinds stand in no result's way."""
    from flwr.app import Message, RecordDict

    from server.flwr_adapter import task_identity

    assert len({START, POLL, CANCEL, RECEIPT, REFUSAL}) == 5
    with task_identity(1):
        for kind in (START, POLL, CANCEL):
            assert Message(RecordDict(), dst_node_id=2, message_type=kind).metadata.message_type == kind
