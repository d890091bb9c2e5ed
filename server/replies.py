"""What a site answered, as the record keeps it: its head and where its arrays lie, or why it is no answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from protocol.errors import LimitError, MessageError, ProtocolError
from protocol.records import UPSTREAM, parts_of, record_of
from server.gate import guarded
from server.journal.content import Content
from server.pulling import Reply

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


def from_json(said: Mapping[str, Any], content: Content) -> Reply:
    """Return the reply that was kept, and count its uses of the content.

    Of a contribution that has been judged the arrays are gone: then its head alone comes back.

    Raises:
        JournalError: something of it is damaged.
    """
    bare = Reply(size=int(said["size"]), work=float(said["work"]), **{k: said.get(k, "") for k in _SEALED})
    if "failure" in said:
        failure = ProtocolError(said["failure"]["text"])
        failure.code = said["failure"]["code"]
        return replace(bare, failure=failure)
    head, there = said["head"], [bool(ref) and content.has(ref) for ref in said["blobs"]]
    for ref in refs_of(said, content):
        content.use(ref)
    text = head["body"].encode() if isinstance(head["body"], str) else content.read(head["body"]["ref"])
    if not isinstance(head["body"], str):
        content.use(head["body"]["ref"])  # the head stays as long as the journal
    found = zip(said["blobs"], there, strict=True)
    blobs = [content.read(ref) if is_there else b"" for ref, is_there in found]
    parts = (head["version"].encode(), head["type"].encode(), text, bytes(there), *blobs)
    return replace(bare, content=record_of(parts))


def refs_of(said: Mapping[str, Any], content: Content) -> list[str]:
    """Return where the arrays lie of a reply that was kept, as far as they are still there."""
    return [ref for ref in said.get("blobs", ()) if ref and content.has(ref)]


def _text(body: bytes, content: Content) -> Any:
    """Return a message's body as text, or where it lies if it is long, or is no text."""
    try:
        return body.decode() if len(body) <= content.longest_text else {"ref": content.put(body)}
    except UnicodeDecodeError:
        return {"ref": content.put(body)}


def _pairs(blobs: Sequence[bytes], present: bytes) -> Iterator[tuple[bytes, bool]]:
    yield from ((blob, bool(flag)) for blob, flag in zip(blobs, present, strict=True))
