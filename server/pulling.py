"""Replies are taken one at a time, inside a guard: one that cannot be taken is its site's failure alone."""

from __future__ import annotations

import json
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from protocol.errors import ProtocolError, ReplyError
from protocol.records import HEAD, MAX_BODY_BYTES, wire_bytes
from server.flwr_adapter import is_link_failure
from server.gate import guarded

# What a contribution may say at most that it processed; more is refused when it is opened.
_MOST_EXAMPLES = 10**12


@dataclass(frozen=True)
class Reply:
    """One reply as it was taken, or the ``failure`` in its place; ``work`` is what it says it processed.

    With sealed ones come ``asked``, the digest of the question, the ``signature`` of the answer, and the
    ``version`` of the site's memory after it, in hex.
    """

    content: RecordDict | None = None
    failure: ProtocolError | None = None
    size: int = 0
    work: float = 0.0
    asked: str = ""
    signature: str = ""
    version: str = ""


def pull(grid: Grid, message_id: str) -> list[Reply]:
    """Return the replies to one message that have come, the answer first.

    A failure beside an answer is left out: what was answered was answered.

    Raises:
        ConsiliumError: the run cannot go on.
        Exception: the link to Flower failed, which says nothing of the site.
    """
    try:
        with guarded():
            messages = list(grid.pull_messages([message_id]))
    except ReplyError as error:
        if error.__context__ is not None and is_link_failure(error.__context__):
            raise error.__context__ from None
        return [Reply(failure=error)]
    return _answers_first([taken(message) for message in messages])


def taken(message: Message) -> Reply:
    """Return what is used of a message that has come."""
    try:
        with guarded():
            if message.has_error():
                # Flower's reason may hold a traceback of the site, and with it data: only the code goes on.
                why = f"the site failed (Flower error code {message.error.code}); its own log says why"
                return Reply(failure=ProtocolError(why))
            content = message.content
            return Reply(content, None, wire_bytes(content), _work(content))
    except ProtocolError as error:
        return Reply(failure=error)


def _answers_first(replies: list[Reply]) -> list[Reply]:
    answers = [reply for reply in replies if reply.failure is None]
    return answers or replies[:1]


def _work(content: RecordDict) -> float:
    """Return the examples that the answer says it processed; 0 where it says nothing."""
    head = content.get(HEAD)
    body = head.get("body") if isinstance(head, ConfigRecord) else None
    if not isinstance(body, bytes) or len(body) > MAX_BODY_BYTES:
        return 0.0
    try:
        value = json.loads(body).get("examples_processed", 0)
    except (ValueError, AttributeError, RecursionError):
        return 0.0
    return float(value) if type(value) is int and 0 <= value <= _MOST_EXAMPLES else 0.0
