"""What the tests of the server share: a PostgreSQL server for a whole session, a database for one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.journal_cases import Database
from tests.server.postgres_cases import Postgres, started


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests that want it."""
    with started() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Each database that a journal may be in, in turn."""
    url = None
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.url
    made = Database(tmp_path, url)
    yield made
    made.close()
