"""A PostgreSQL server for the tests alone: on a socket in a folder of its own, gone with them. Not a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_USER = "consilium"
_NOBODY = 65534
_START_S = 120.0


@dataclass(frozen=True)
class Postgres:
    """A running server; all of it is in ``folder``."""

    folder: Path

    @property
    def url(self) -> str:
        """Its database, as ``--journal`` takes it."""
        return f"postgresql+psycopg://{_USER}@/postgres?host={self.folder}"

    def restart(self) -> None:
        """End every connection at once, as a crash does, and start again."""
        self.control("restart", "-m", "immediate")

    def control(self, *arguments: str) -> None:
        """Run ``pg_ctl``; raise ``AssertionError`` with the server's log if it fails."""
        data, log = str(self.folder / "data"), str(self.folder / "log")
        options = f"-c listen_addresses='' -k {self.folder} -c max_connections=30"
        # No line of pg_ctl's stays open in the server, or whoever reads it would wait for the server's end.
        given = ["-D", data, "-l", log, "-w", "-t", str(int(_START_S)), "-o", options]
        ended = run(self.folder, ["pg_ctl", *arguments, *given])
        assert ended == 0, (self.folder / "log").read_text()


def run(folder: Path, command: Sequence[str]) -> int:
    """Run a command as a user that is not root, which PostgreSQL refuses; return how it ended."""
    is_root = os.getuid() == 0
    user = _NOBODY if is_root else None
    with (folder / "commands").open("ab") as log:
        return subprocess.run(
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C"},
            user=user,
            group=user,
            extra_groups=[] if is_root else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=2 * _START_S,
            check=False,
        ).returncode


@contextmanager
def started() -> Iterator[Postgres]:
    """A server in a new folder; skips where there is none to start."""
    for program in ("initdb", "pg_ctl", "postgres"):
        if shutil.which(program) is None:
            pytest.skip(f"no PostgreSQL server to test with: {program} is not on the PATH")
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        if os.getuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)
        made = ["initdb", "-D", str(folder / "data"), "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        assert run(folder, made) == 0, (folder / "commands").read_text()
        server = Postgres(folder)
        server.control("start")
        try:
            yield server
        finally:
            server.control("stop", "-m", "immediate")
