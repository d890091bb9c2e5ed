"""The one exception family.

* ConsiliumError
  x UserError            what the user gave cannot be used; the command exits with 2
    + ConfigError        a key, value or name in a file or an option
    + DataError          a data file, column, row or label
  x ProtocolError        what another party sent cannot be used; that contribution is rejected
    + VersionError       it speaks another protocol version
    + MessageError       a message is not what its type allows
    + ArraysError        names, shapes, dtypes or finiteness of arrays
      - LimitError       more bytes, arrays or rows, or larger numbers, than were agreed
    + ReplyError         an answer that could not be taken or opened at all
    + UpstreamError      the models of the subtasks that this one comes after are not here
    + SealError          a message's seal is missing or does not hold; ``reason`` says why
    + EquivocationError  a party gave two answers to one question
    + RosterError        a roster is not the authority's, or not the current one
  x Cancelled            the work was stopped because nobody wants it any more
  x RunError             the run itself cannot go on; the command exits with 1
    + StateError         a site does not have the memory that it is to start from

Every message is one line that says what, where and what to do. None holds a value of
a data row, a label or an array element.
"""

from __future__ import annotations

from typing import Literal

SealReason = Literal[
    "missing",
    "form",
    "federation",
    "recipient",
    "sender",
    "run",
    "kind",
    "task",
    "answers",
    "previous",
    "old_epoch",
    "new_epoch",
    "validity",
    "expired",
    "early",
    "unknown_sender",
    "signature",
    "replay",
    "full",
    "body",
]


class ConsiliumError(Exception):
    """Base of every error that Consilium raises on purpose."""

    code = "error"


class UserError(ConsiliumError):
    """What the user gave cannot be used."""

    code = "user"


class ConfigError(UserError):
    """A key, a value or a name in a file or an option is wrong."""

    code = "config"


class DataError(UserError):
    """A data file, a column, a row or a label is missing or wrong."""

    code = "data"


class ProtocolError(ConsiliumError):
    """What another party sent cannot be used."""

    code = "protocol"


class VersionError(ProtocolError):
    """The other party speaks another protocol version."""

    code = "version"


class MessageError(ProtocolError):
    """A message is not what its type allows."""

    code = "message"


class ArraysError(ProtocolError):
    """Arrays have other names, shapes or dtypes than agreed, or are not finite."""

    code = "arrays"


class LimitError(ArraysError):
    """There are more bytes, arrays or rows, or larger numbers, than were agreed."""

    code = "limit"


class ReplyError(ProtocolError):
    """An answer could not be taken or opened at all."""

    code = "reply"


class UpstreamError(ProtocolError):
    """The models of the subtasks that this one comes after are not here."""

    code = "upstream"


class SealError(ProtocolError):
    """A message's seal is missing, or it does not hold.

    Attributes:
        reason: one of a fixed set, for logs and counts.
    """

    code = "seal"

    def __init__(self, message: str, reason: SealReason = "missing") -> None:
        super().__init__(message)
        self.reason: SealReason = reason


class EquivocationError(ProtocolError):
    """A party gave two answers to one question."""

    code = "equivocation"


class RosterError(ProtocolError):
    """A roster is not the authority's, is not well formed, or is not the current one."""

    code = "roster"


class Cancelled(ConsiliumError):  # noqa: N818 - an order, and nobody's error
    """The work was stopped between two batches: nobody wants its result any more."""

    code = "cancelled"


class RunError(ConsiliumError):
    """The run cannot go on."""

    code = "run"


class StateError(RunError):
    """A site does not have the memory that it is to start from, and does not go on from another."""

    code = "state"
