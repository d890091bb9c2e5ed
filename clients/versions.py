"""The versions of a site's memory of a run: each is what one work left behind, by whose name it goes.

A result's row says which version it started from, what it changed and what was there before. So the memory
goes back by undoing one result after the other, and forth again by redoing them: what it then holds is what
it held when the version was made. The first version, of the name b"", is the empty memory.

All functions work on a connection within a transaction of their caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from clients.ledger_form import split_keys
from protocol.errors import StateError

EMPTY = b""


def head(db: sqlite3.Connection, run: str) -> bytes:
    """Return the version that the memory of a run has."""
    row = db.execute("SELECT head FROM heads WHERE run = ?", (run,)).fetchone()
    return bytes(row[0]) if row else EMPTY


def set_head(db: sqlite3.Connection, run: str, version: bytes) -> None:
    """Note the version that the memory of a run has now."""
    db.execute("INSERT OR REPLACE INTO heads VALUES (?, ?)", (run, version))


def parent(db: sqlite3.Connection, run: str, asked: bytes) -> bytes | None:
    """Return the version that a work started from; None if its result is not kept."""
    row = db.execute("SELECT parent FROM results WHERE run = ? AND asked = ?", (run, asked)).fetchone()
    return None if row is None else bytes(row[0])


def line(db: sqlite3.Connection, run: str, version: bytes) -> Iterator[bytes]:
    """Yield a version, that from which it was made, and so on, as far as results are kept."""
    # It has an end: a result is never older than the one that its memory came from (``forget_line``).
    while True:
        yield version
        before = parent(db, run, version)
        if before is None:
            return
        version = before


def is_behind(db: sqlite3.Connection, run: str, version: bytes, later: bytes) -> bool:
    """Return whether ``later`` is ``version`` or came from it, as far as results are kept."""
    if version in (EMPTY, later):
        return True
    followed = db.execute("SELECT 1 FROM results WHERE run = ? AND parent = ? LIMIT 1", (run, version))
    return followed.fetchone() is not None and version in line(db, run, later)


def way(db: sqlite3.Connection, run: str, version: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the results to undo and then those to redo, in order, until the memory has a version.

    Raises:
        StateError: a result on the way is not kept any more, or the site never had that version.
    """
    now = head(db, run)
    if version == now:
        return [], []
    back = list(line(db, run, now))
    known, forth = set(back), list[bytes]()
    for step in line(db, run, version):
        if step in known:
            return back[: back.index(step)], forth[::-1]
        forth.append(step)
    raise StateError(
        f"run '{run}': asked to start from version {shown(version)} of the site's memory, which is not here: "
        f"it is of version {shown(now)}"
    )


def turn(db: sqlite3.Connection, run: str, version: bytes) -> None:
    """Have the memory of a run be of a version; raises as ``way``."""
    back, forth = way(db, run, version)
    for column, steps in (("undo", back), ("changes", forth)):
        for step in steps:
            change(db, run, _kept(db, run, step, column))
    if back or forth:
        set_head(db, run, version)


def changes_of(db: sqlite3.Connection, run: str, version: bytes) -> dict[str, bytes | None]:
    """Return what a result that is kept changed, as its row holds it."""
    return _kept(db, run, version, "changes")


def stored(db: sqlite3.Connection, run: str, keys: Iterable[str]) -> dict[str, bytes | None]:
    """Return what stands in the memory's rows for some keys, None for those that it does not have."""
    found = {}
    for key in keys:
        row = db.execute("SELECT value FROM memory WHERE run = ? AND key = ?", (run, key)).fetchone()
        found[key] = None if row is None else row[0]
    return found


def change(db: sqlite3.Connection, run: str, changes: Mapping[str, bytes | None]) -> None:
    """Put values into the memory's rows; None drops a key."""
    for key, value in changes.items():
        db.execute("DELETE FROM memory WHERE run = ? AND key = ?", (run, key))
        if value is not None:
            db.execute("INSERT INTO memory VALUES (?, ?, ?)", (run, key, value))


def forget_line(db: sqlite3.Connection, run: str, version: bytes) -> int:
    """Forget a result and all that started from what it left behind; return how many bytes were kept of them.

    A work that is done anew from another version leaves another memory behind, under the same name.
    """
    below = """
    WITH RECURSIVE below (name) AS (
        VALUES (:version) UNION SELECT asked FROM results JOIN below ON parent = name WHERE run = :run)
    """
    chosen, given = "run = :run AND asked IN (SELECT name FROM below)", {"run": run, "version": version}
    total = f"{below} SELECT COALESCE(SUM(bytes), 0) FROM results WHERE {chosen}"  # noqa: S608
    (size,) = db.execute(total, given).fetchone()
    db.execute(f"{below} DELETE FROM results WHERE {chosen}", given)  # noqa: S608
    return int(size)


def shown(version: bytes) -> str:
    """Return a version for people: the beginning of its name."""
    return version.hex()[:16] or "'' (the empty one)"


def _kept(db: sqlite3.Connection, run: str, version: bytes, column: str) -> dict[str, bytes | None]:
    query = f"SELECT {column} FROM results WHERE run = ? AND asked = ?"  # noqa: S608
    return split_keys(db.execute(query, (run, version)).fetchone()[0])
