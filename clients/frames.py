"""What an agent and its worker say to each other: a table and some blobs, over a socket of their own."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

from protocol.errors import MessageError

_LENGTH = struct.Struct(">I")
_MAX_HEAD = 16 * 2**20
_MAX_BLOB = 16 * 2**30
_PIECE = 2**20


def send(sock: socket.socket, head: dict[str, Any], blobs: Sequence[bytes | memoryview] = ()) -> None:
    """Send one frame; raises ``OSError`` if the other side is gone."""
    text = json.dumps({**head, "blobs": [len(blob) for blob in blobs]}).encode()
    sock.sendall(_LENGTH.pack(len(text)) + text)
    for blob in blobs:
        sock.sendall(blob)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[bytes]]:
    """Return the next frame.

    Raises:
        EOFError: the other side is gone.
        MessageError: it is no frame.
    """
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
    if length > _MAX_HEAD:
        raise MessageError("a frame's head is too long")
    text = _exactly(sock, length)
    try:
        head = json.loads(text)
        lengths = head.pop("blobs")
        fits = all(type(n) is int and 0 <= n <= _MAX_BLOB for n in lengths)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise MessageError("a frame's head is none") from None
    if not fits:
        raise MessageError("a frame's blob is too long")
    return head, [bytes(_exactly(sock, n)) for n in lengths]


def _exactly(sock: socket.socket, length: int) -> bytearray:
    found = bytearray(length)
    view, at = memoryview(found), 0
    while at < length:
        try:
            got = sock.recv_into(view[at : at + _PIECE])
        except OSError as error:
            raise EOFError from error
        if not got:
            raise EOFError
        at += got
    return found
