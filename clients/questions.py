"""What a question says of itself: its header must say no other than its body, which the worker goes by."""

from __future__ import annotations

import json

from flwr.app import ConfigRecord, RecordDict

from protocol.errors import MessageError
from protocol.header import Header
from protocol.messages import Assignment
from protocol.records import HEAD, detach, unpack_message


def check_about(header: Header, record: RecordDict, site: str) -> None:
    """Check a question's run, site and, of an assignment, the id by which two contents of it are told.

    The server chooses both header and body. One that could name an assignment as it likes could ask for it
    twice with other contents, and nobody would see it.

    Raises:
        MessageError: the header speaks of something else than the body, or the body of another site.
    """
    run: object
    whose: object
    if header.kind.startswith("train."):
        assignment = unpack_message(detach(record), Assignment)
        if header.task != assignment.id:
            raise MessageError(
                f"a seal about {header.task[:200]!r} on the assignment {assignment.id[:200]!r}"
            )
        run, whose = assignment.run, assignment.site
    else:
        said = _body(record)
        run, whose = said.get("run", header.run), said.get("site", site)
    if run != header.run:
        raise MessageError(f"a seal of run '{header.run}' on a question of another")
    if whose != site:
        raise MessageError("the message is for another site")


def _body(record: RecordDict) -> dict[str, object]:
    head = record.get(HEAD)
    body = head.get("body") if isinstance(head, ConfigRecord) else None
    try:
        said = json.loads(body if isinstance(body, bytes) else b"")
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise MessageError("a question that is no message")
    return said
