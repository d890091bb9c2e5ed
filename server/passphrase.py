"""The passphrase of the authority's key: from a file of its owner's alone, or asked for on the terminal."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

from protocol.errors import UserError
from protocol.files import read_private

MIN_LENGTH = 12
MAX_BYTES = 1024


def from_file(path: Path) -> bytes:
    """Return the passphrase in a file, without the line's end.

    Raises:
        UserError: others can read or write the file, or it holds no passphrase that is long enough.
    """
    data = read_private(path, MAX_BYTES)
    return _checked(data.removesuffix(b"\n").removesuffix(b"\r"), f"{path}: ")


def ask(*, new: bool) -> bytes:
    """Return the passphrase that a person types, a new one twice.

    Raises:
        UserError: there is no terminal, the two differ, or it is too short.
    """
    if not sys.stdin.isatty():
        raise UserError("no terminal to ask for the authority's passphrase: give --passphrase-file FILE")
    try:
        first = getpass.getpass("Passphrase of the authority's key: ")
        if new and getpass.getpass("The same again: ") != first:
            raise UserError("the two passphrases differ; nothing was written")
    except EOFError:
        raise UserError("no passphrase was given; nothing was written") from None
    return _checked(first.encode("utf-8", "surrogateescape"), "")


def _checked(passphrase: bytes, where: str) -> bytes:
    length = len(passphrase.decode("utf-8", "replace"))
    if length < MIN_LENGTH:
        raise UserError(f"{where}the passphrase has {length} characters; at least {MIN_LENGTH} are needed")
    if b"\n" in passphrase or b"\0" in passphrase:
        raise UserError(f"{where}the passphrase is to be one line")
    if len(passphrase) > MAX_BYTES:
        raise UserError(f"{where}the passphrase has more than {MAX_BYTES} bytes")
    return passphrase
