"""The ledger's tables, and how several values stand in one of their cells."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

FORM = 3
# What is long stands last: SQLite does not read it for what stands before it. ``asked`` is the name of the
# work (``protocol.work.work_name``), ``parent`` the version of the memory that it started from; ``changes``
# are the keys of the memory with their values after it, ``undo`` the same keys with their values before.
# ``number`` rises with each result, whatever the clock says.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, asked BLOB NOT NULL, parent BLOB NOT NULL,
    kind TEXT, task TEXT, answer TEXT, bytes INTEGER, changes BLOB, undo BLOB, parts BLOB,
    UNIQUE (run, asked));
CREATE INDEX IF NOT EXISTS results_bytes ON results (bytes);
CREATE INDEX IF NOT EXISTS results_parent ON results (run, parent);
CREATE TABLE IF NOT EXISTS memory (run TEXT, key TEXT, value BLOB, PRIMARY KEY (run, key));
CREATE TABLE IF NOT EXISTS heads (run TEXT PRIMARY KEY, head BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS asks (run TEXT, kind TEXT, task TEXT, asked BLOB, PRIMARY KEY (run, kind, task));
CREATE TABLE IF NOT EXISTS leases (run TEXT PRIMARY KEY, lease INTEGER, heard REAL);
"""
# Beside the processes of the server: what an earlier form says of a memory does not name its version, so
# that nobody could say what to go on from. A run in progress is refused then, with code "state".
_UNUSABLE = ("results", "memory", "asks")


def opened(path: Path) -> sqlite3.Connection:
    """Return the book in a file, made if it is not there, in the form of this release."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    forget = ""
    if db.execute("PRAGMA user_version").fetchone() != (FORM,):
        forget = "".join(f"DROP TABLE IF EXISTS {table};" for table in _UNUSABLE)
    db.executescript(f"BEGIN IMMEDIATE; {forget}{_SCHEMA}PRAGMA user_version = {FORM}; COMMIT;")
    return db


def join(parts: Iterable[bytes]) -> bytes:
    """Return several values as one."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def split(joined: bytes) -> Sequence[bytes]:
    """Return the values that ``join`` was given."""
    found, at = [], 0
    while at < len(joined):
        end = at + 8 + int.from_bytes(joined[at : at + 8], "big")
        found.append(joined[at + 8 : end])
        at = end
    return found


def join_keys(kept: Mapping[str, bytes | None]) -> bytes:
    """Return keys of a memory with what stands in rows for their values, None for one that is not there."""
    return join(part for key, value in kept.items() for part in (key.encode(), value or b""))


def split_keys(joined: bytes) -> dict[str, bytes | None]:
    """Return what ``join_keys`` was given."""
    found = split(joined)
    return {key.decode(): value or None for key, value in zip(found[::2], found[1::2], strict=True)}
