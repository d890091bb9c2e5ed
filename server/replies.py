"""What a site answered, as the record keeps it: its head and where its arrays lie, or why it is no answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from protocol.errors import LimitError, MessageError, ProtocolError
from protocol.records import UPSTREAM, parts_of, record_of
from server.gate import guarded
from server.journal.content import Content
from server.pulling import Reply

_LONG: Final = 32 * 2**10  # of the row that holds it
_SEALED: Final = ("asked", "signature", "version")


def keepable(reply: Reply, most_bytes: int | None = None) -> Reply:
    """Return the reply as it can be kept: one that is no message, or too long, is its site's failure."""
    if reply.content is None:
        return reply
    if most_bytes is not None and reply.size > most_bytes:
        failure = LimitError(f"an answer of {reply.size} bytes, at most {most_bytes} were asked for")
        return replace(reply, content=None, failure=failure)
    try:
        with guarded():
            parts_of(reply.content)
            if UPSTREAM in reply.content:
                raise MessageError("an answer carries no models of other subtasks")
    except ProtocolError as error:
        return replace(reply, content=None, failure=error)
    return reply


def to_json(reply: Reply, content: Content) -> dict[str, Any]:
    """Keep what is long of a reply that is ``keepable``; return the rest and where that lies."""
    said: dict[str, Any] = {"size": reply.size, "work": reply.work}
    said |= {key: found for key in _SEALED if (found := getattr(reply, key))}
    if reply.content is None:
        failure = reply.failure or ProtocolError("the site failed")
        return said | {"failure": {"code": failure.code, "text": str(failure)}}
    version, kind, body, present, *blobs = parts_of(reply.content)
    head = {"version": version.decode(), "type": kind.decode(), "body": _text(body, content)}
    return said | {"head": head, "blobs": [content.put(b) if p else None for b, p in _pairs(blobs, present)]}


def from_json(said: Mapping[str, Any], content: Content, *, may_be_gone: bool = False) -> Reply:
    """Return the reply that was kept, and count its uses of the content.

    Of a contribution that has been judged the arrays ``may_be_gone``: then its head alone comes back.

    Raises:
        JournalError: something of it is damaged.
    """
    bare = Reply(size=int(said["size"]), work=float(said["work"]), **{k: said.get(k, "") for k in _SEALED})
    if "failure" in said:
        failure = ProtocolError(said["failure"]["text"])
        failure.code = said["failure"]["code"]
        return replace(bare, failure=failure)
    head, refs = said["head"], refs_of(said)
    for ref in refs:
        content.use(ref)  # also of what is gone: whoever judged it has dropped it, and will again
    whole = not may_be_gone or all(content.has(ref) for ref in refs)
    blobs = [content.read(ref) if ref and whole else b"" for ref in said["blobs"]]
    present = bytes(bool(ref) and whole for ref in said["blobs"])
    body = head["body"]
    text = body.encode() if isinstance(body, str) else content.read(body["ref"]) if whole else b""
    parts = (head["version"].encode(), head["type"].encode(), text, present, *blobs)
    return replace(bare, content=record_of(parts))


def refs_of(said: Mapping[str, Any]) -> list[str]:
    """Return where that lies which is long of a reply that was kept."""
    body = said.get("head", {}).get("body", "")
    return [ref for ref in (*said.get("blobs", ()), None if isinstance(body, str) else body["ref"]) if ref]


def _text(body: bytes, content: Content) -> Any:
    """Return a message's body as text, or where it lies if it is long, or is no text."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return {"ref": content.put(body)}
    is_short = len(json.dumps(text)) <= min(_LONG, content.longest_text)
    return text if is_short else {"ref": content.put(body)}


def _pairs(blobs: Sequence[bytes], present: bytes) -> Iterator[tuple[bytes, bool]]:
    yield from ((blob, bool(flag)) for blob, flag in zip(blobs, present, strict=True))
