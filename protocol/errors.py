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
  x RunError             the run itself cannot go on; the command exits with 1

Every message is one line that says what, where and what to do. None holds a value of
a data row, a label or an array element.
"""

from __future__ import annotations


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


class RunError(ConsiliumError):
    """The run cannot go on."""

    code = "run"
