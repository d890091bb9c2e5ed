"""The tables of a database of journals: rows, and who may write them."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

FILE_NAME: Final = "journal.db"
KEY, KIND = 400, 64

META = sa.MetaData()
ROWS = sa.Table(
    "journal",
    META,
    sa.Column("run", sa.String(100), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("lease", sa.BigInteger, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(KIND), nullable=False),
    sa.Column("key", sa.String(KEY), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("chain", sa.LargeBinary(32), nullable=False),
)
LEASES = sa.Table(
    "leases",
    META,
    sa.Column("run", sa.String(100), primary_key=True),
    sa.Column("lease", sa.BigInteger, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
)


def only_run(engine: sa.Engine) -> str:
    """Return the run whose journal is in a file of its own; "" if there is none."""
    with engine.connect() as db:
        if not sa.inspect(db).has_table(ROWS.name):
            return ""
        return str(db.execute(sa.select(ROWS.c.run).order_by(ROWS.c.number).limit(1)).scalar() or "")
