"""What a ledger forgets: results that take more room than they may, and what is of runs that are over."""

from __future__ import annotations

import sqlite3

from protocol.seal import MAX_VALID_S

# A run that nothing was heard of for this long is over: no message of it is accepted any more.
OVER_S = MAX_VALID_S + 86_400.0
_ORDER = """
SELECT run, asked, bytes FROM results
JOIN (SELECT run, MAX(number) AS latest FROM results GROUP BY run) USING (run)
WHERE NOT (run = :run AND asked IN (SELECT head FROM heads WHERE run = :run))
ORDER BY run = :run, latest, run, number"""
_LATEST = "SELECT run FROM leases ORDER BY heard DESC, rowid DESC LIMIT 1"


def make_room(db: sqlite3.Connection, run: str, coming: int, max_bytes: int) -> bool:
    """Forget results until what is coming fits into ``max_bytes``; return whether any was forgotten.

    Whole other runs go first, then the oldest results of the run at hand: its memory can go back less far
    after that. The result that left its memory behind stays.
    """
    (total,) = db.execute("SELECT COALESCE(SUM(bytes), 0) FROM results").fetchone()
    if total + coming <= max_bytes:
        return False
    last = None
    for its_run, asked, size in db.execute(_ORDER, {"run": run}).fetchall():
        if total + coming <= max_bytes * 3 // 4 and (its_run == run or its_run != last):
            break
        db.execute("DELETE FROM results WHERE run = ? AND asked = ?", (its_run, asked))
        total, last = total - size, its_run
    return last is not None


def forget_over(db: sqlite3.Connection, now: float) -> bool:
    """Forget what is of runs that are over; return whether anything was.

    Of the last run that was heard of the memory and what tells two questions apart stay: a clock that is
    set wrong for a while must not cost a run that goes on its memory.
    """
    over = "run IN (SELECT run FROM leases WHERE heard < ?)"
    gone = db.execute(f"DELETE FROM results WHERE {over}", (now - OVER_S,)).rowcount  # noqa: S608
    for table in ("memory", "heads", "asks", "leases"):
        rest = f"DELETE FROM {table} WHERE {over} AND run <> ({_LATEST})"  # noqa: S608
        gone += db.execute(rest, (now - OVER_S,)).rowcount
    return gone > 0
