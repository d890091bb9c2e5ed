"""Frames between an agent and its worker: whole or not at all, and nothing taken for one that is none."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from clients import frames
from protocol.errors import MessageError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a line; a test that waits for what never comes fails."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_frame_arrives_as_it_was_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    """Head and blobs: none, empty ones, views, and more than a socket holds at once."""
    ours, theirs = pair
    large = os.urandom(5 * 2**20 + 3)
    sent = [
        ({"op": "work", "asked": "ff", "share": 0.5, "none": None}, []),
        ({"op": "é"}, [b"", b"\x00", memoryview(b"view")]),
        ({}, [large, b"after"]),
    ]
    sender = threading.Thread(target=lambda: [frames.send(ours, head, blobs) for head, blobs in sent])
    sender.start()
    for head, blobs in sent:
        assert frames.receive(theirs) == (head, [bytes(blob) for blob in blobs])
    sender.join(10)
    assert not sender.is_alive()


def test_what_is_received_is_not_shared(pair: tuple[socket.socket, socket.socket]) -> None:
    """A blob is bytes: nothing can change it after its digest was taken."""
    frames.send(pair[0], {}, [b"blob"])
    assert type(frames.receive(pair[1])[1][0]) is bytes


@pytest.mark.parametrize("kept", [0, 2, 4, 10, -1])
def test_a_line_that_is_cut_is_no_frame(pair: tuple[socket.socket, socket.socket], kept: int) -> None:
    """Before it, in its length, before and in its head, and in its blob."""
    ours, theirs = pair
    text = b'{"blobs": [9]}'
    whole = struct.pack(">I", len(text)) + text + b"blob-blob"
    ours.sendall(whole[:kept])
    ours.close()
    with pytest.raises(EOFError):
        frames.receive(theirs)


@pytest.mark.parametrize(
    "text",
    [
        b"not JSON",
        b"[]",
        b"7",
        b"{}",
        b'{"blobs": 7}',
        b'{"blobs": ["1"]}',
        b'{"blobs": [-1]}',
        b'{"blobs": [1e400]}',
        b'{"blobs": [true]}',
        b'{"blobs": [17179869185]}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_frame_is_refused(pair: tuple[socket.socket, socket.socket], text: bytes) -> None:
    """With the one error that the agent expects; no memory is taken for lengths that cannot be."""
    pair[0].sendall(struct.pack(">I", len(text)) + text)
    with pytest.raises(MessageError):
        frames.receive(pair[1])


def test_a_head_that_is_too_long_is_not_read(pair: tuple[socket.socket, socket.socket]) -> None:
    """Its length alone is enough."""
    pair[0].sendall(struct.pack(">I", 2**24 + 1))
    with pytest.raises(MessageError, match="too long"):
        frames.receive(pair[1])


def test_a_line_that_falls_silent_has_ended(pair: tuple[socket.socket, socket.socket]) -> None:
    """With a time limit set, waiting ends as if the other side had gone."""
    pair[1].settimeout(0.02)
    with pytest.raises(EOFError):
        frames.receive(pair[1])


def test_sending_to_nobody_says_so(pair: tuple[socket.socket, socket.socket]) -> None:
    """The other side is gone."""
    pair[1].close()
    with pytest.raises(OSError, match=r"pipe|reset"):
        frames.send(pair[0], {"op": "work"}, [bytes(2**20)])
