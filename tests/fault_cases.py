"""Faults: each changes the honest answer of one site to one type of message. Not a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.app import app as client_app
from protocol.bounds import Frozen
from protocol.messages import Assignment, Contribution, Evaluation, Refusal
from protocol.records import pack, unpack
from tests.small import NAMES, Answerer, Named, Small

Fault = Callable[[Message, Message], Message]


def app_with(
    fault: Fault, message_type: str, site: str | None = "beta", names: tuple[str, ...] = NAMES
) -> Answerer:
    """Return the ClientApp, but that ``site`` (None: every site) answers that type as ``fault`` says."""

    def answer(message: Message, context: Context) -> Message:
        reply: Message = ClientApp.__call__(client_app, message, context)
        own = site is None or names.index(site) == context.node_config["partition-id"]
        chosen = own and message.metadata.message_type == message_type
        return fault(message, reply) if chosen else reply

    return answer


def in_round(number: int, fault: Fault) -> Fault:
    """Return a fault that happens in one round alone, to assignments."""

    def chosen(message: Message, reply: Message) -> Message:
        assignment, _ = unpack(message.content, Assignment)
        return fault(message, reply) if assignment.round == number else reply

    return chosen


def fails(message: Message, reply: Message) -> Message:
    """Be the fault of a site whose process died: Flower itself answers."""
    return Message(Error(code=2, reason="gone"), reply_to=message)


def refuses(message: Message, reply: Message) -> Message:
    """Be the fault of a site that says no."""
    return Message(pack(Refusal(code="policy", detail="not today")), reply_to=message)


def retold(change: Callable[[Any, Named], tuple[Frozen, Named]], expected: type[Frozen]) -> Fault:
    """Return a fault that changes message and arrays of an honest answer."""

    def fault(message: Message, reply: Message) -> Message:
        honest, arrays = unpack(reply.content, expected)
        told, given = change(honest, {name: np.array(array) for name, array in arrays.items()})
        return Message(pack(told, given), reply_to=message)

    return fault


def contribution(**fields: Any) -> Fault:
    """Return a fault that changes fields of a contribution and leaves its arrays."""
    return retold(lambda c, arrays: (c.model_copy(update=fields), arrays), Contribution)


def unreadable(message: Message, reply: Message) -> Message:
    """Be the fault of a site that answers with an empty record."""
    return Message(RecordDict(), reply_to=message)


def says(expected: type[Frozen], **fields: Any) -> Fault:
    """Return a fault that changes fields of any message."""
    return retold(lambda told, arrays: (told.model_copy(update=fields), arrays), expected)


def gives(change: Callable[[Named], Named], expected: type[Frozen] = Evaluation) -> Fault:
    """Return a fault that changes the arrays beside any message."""
    return retold(lambda told, arrays: (told, change(arrays)), expected)


def cut(name: str) -> Fault:
    """Return a fault that takes the last entry off one array of an evaluation."""
    return gives(lambda arrays: arrays | {name: arrays[name][:-1]})


def nan(name: str) -> Fault:
    """Return a fault that fills one array of an evaluation with NaN."""
    return gives(lambda arrays: arrays | {name: np.full_like(arrays[name], np.nan)})


def assert_as_without(found: Small, expected: Small, site: str) -> None:
    """All models and scores are those of a run in which that site gave no such answer; one note names it."""
    assert found.models() == expected.models()
    for key in ("collaboration", "fusion", "baselines", "gains", "models"):
        assert found.summary["subtasks"]["iris"][key] == expected.summary["subtasks"]["iris"][key]
    ours, theirs = (
        [(p["value"], p["num_examples"]) for p in s.summary["subtasks"]["iris"]["curve"]]
        for s in (found, expected)
    )
    assert ours == theirs
    assert {note.split(":")[0] for note in found.summary["notes"]} == {site}
    assert "Traceback" not in found.everything()
