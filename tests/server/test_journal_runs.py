"""Whole runs with their journal in either database: killed at a step, they go on to the same models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collab.collaboration import Collaboration
from protocol.errors import RunError
from server.federation import Terms
from server.journal.content import FOLDER
from server.journal.disk import Disk
from server.journal.store import JournalError
from server.runlog import replay, rows
from simulations import simulate as engine_room
from simulations.chaos.disks import FailingDisk, WatchedDisk
from tests.command import Command, command, file_of
from tests.server.journal_cases import Database
from tests.server.postgres_cases import Postgres
from tests.small import scenario, tables

# At the beginning, in preparation, between two rounds, at the end.
_PLACES = (0.1, 0.4, 0.7, 0.95)


@pytest.fixture(name="command")
def a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The ``consilium`` command."""
    return command(monkeypatch, capsys)


def carry_out(folder: Path, disk: Disk, url: str | None) -> dict[str, bytes]:
    """Carry the run out in a folder, or go on with it; return the bytes of its models."""
    terms = Terms("r", folder, "simulated", "local", baselines=False, journal=url)
    engine_room._run(_collaboration(), terms, lambda _: None, disk)
    return models(folder)


def step_at(undisturbed: WatchedDisk, place: float) -> int:
    """Return the number of a step at that part of a run, of those that it cannot do without."""
    needed = [number for number, step in enumerate(undisturbed.steps) if step != "remove"]
    return needed[int(place * len(needed))]


def models(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every safetensors file, by its path in the folder."""
    found = sorted(folder.rglob("*.safetensors"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def _collaboration() -> Collaboration:
    return scenario(tables(rounds=2))


def test_a_run_goes_on_in_either_database(database: Database, tmp_path: Path) -> None:
    """Whichever step fails, it ends with the models that it has undisturbed, and replays."""
    watched = WatchedDisk(tmp_path / "undisturbed" / "r")
    undisturbed = carry_out(watched.folder, watched, database.url)
    assert undisturbed
    for place in _PLACES:
        at = step_at(watched, place)
        folder = tmp_path / f"at-{at}" / "r"
        with pytest.raises(JournalError):
            carry_out(folder, FailingDisk(folder, at=at), database.url)
        assert carry_out(folder, Disk(), database.url) == undisturbed
        assert replay(folder, _collaboration()).ended
        assert [row.lease for row in rows(folder)] == sorted(row.lease for row in rows(folder))
        assert not list((folder / FOLDER).iterdir())
        shutil.rmtree(folder)


def test_a_run_that_ended_is_not_run_again(database: Database, tmp_path: Path) -> None:
    """The same summary comes back, and not a row is added."""
    folder = tmp_path / "ended" / "r"
    carry_out(folder, Disk(), database.url)
    before = list(rows(folder))
    carry_out(folder, Disk(), database.url)
    assert list(rows(folder)) == before


def test_the_server_restarts_during_a_run(postgres: Postgres, tmp_path: Path) -> None:
    """Between two commits it goes on; nothing that was committed is lost."""
    folder = tmp_path / "r"
    undisturbed = carry_out(tmp_path / "undisturbed" / "r", Disk(), None)
    disk = _Restarting(folder, server=postgres, at=3)
    assert carry_out(folder, disk, postgres.url) == undisturbed
    assert disk.commits > disk.at
    assert replay(folder, _collaboration()).ended


class _Restarting(WatchedDisk):
    """The database's server is restarted, as after a crash, before a commit of the run."""

    def __init__(self, folder: Path, server: Postgres, at: int) -> None:
        super().__init__(folder)
        self.server, self.at, self.commits = server, at, 0

    def commit(self, transaction: Any) -> Any:
        self.commits += 1
        if self.commits == self.at:
            self.server.restart()
        return super().commit(transaction)


def test_the_command_simulates_with_a_journal_in_postgresql(
    postgres: Postgres, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off at a step, it is resumed by its folder alone, and ends as one that was not."""
    file = file_of(tmp_path, tables(rounds=2))
    given = ("simulate", file, "--no-baselines", "--json", "--run", "r")
    undisturbed = command(*given, "--out", tmp_path / "undisturbed")
    assert undisturbed.code == 0, undisturbed.err
    folder = tmp_path / "runs" / "r"
    with monkeypatch.context() as patch:
        patch.setattr("server.federation.Disk", lambda: FailingDisk(folder, at=61, fault="EIO"))
        failed = command(*given, "--out", tmp_path / "runs", "--journal", postgres.url)
    assert failed.code == 1, failed.err
    assert "EIO" in failed.err or "cannot be" in failed.err
    assert not (folder / "journal.db").exists()
    resumed = command("resume", folder, "--json")
    assert resumed.code == 0, resumed.err
    assert models(folder) == models(tmp_path / "undisturbed" / "r")
    assert json.loads(resumed.out)["processes"] == 2
    assert postgres.url in (folder / "journal.url").read_text()


_KILLED = """
import os, sys
from pathlib import Path
from server.journal.disk import Disk
from tests.server.test_journal_runs import carry_out
class Killed(Disk):
    left = int(sys.argv[2])
    def commit(self, transaction):
        Killed.left -= 1
        if not Killed.left:
            os.kill(os.getpid(), 9)
        return transaction()
carry_out(Path(sys.argv[1]), Killed(), sys.argv[3] or None)
"""


@pytest.mark.slow
def test_a_killed_process_is_followed_by_another(database: Database, tmp_path: Path) -> None:
    """With SIGKILL nothing is tidied up: neither lock nor database is in the way of who comes next."""
    undisturbed = carry_out(tmp_path / "undisturbed" / "r", Disk(), None)
    folder = tmp_path / "killed" / "r"
    command = [sys.executable, "-c", _KILLED, str(folder), "7", database.url or ""]
    ended = subprocess.run(command, check=False, timeout=250, cwd=Path(__file__).parents[2])
    assert ended.returncode == -9
    assert carry_out(folder, Disk(), database.url) == undisturbed


def test_content_that_is_gone_is_not_worked_around(tmp_path: Path) -> None:
    """A run whose answers were deleted by somebody stops with their name; it does not end otherwise."""
    folder = tmp_path / "r"
    watched = WatchedDisk(tmp_path / "undisturbed" / "r")
    carry_out(watched.folder, watched, None)
    with pytest.raises(JournalError):
        carry_out(folder, FailingDisk(folder, at=step_at(watched, 0.7)), None)
    for path in (folder / FOLDER).iterdir():
        path.unlink()
    with pytest.raises(RunError, match=r"is gone|cannot be read"):
        carry_out(folder, Disk(), None)
    assert not models(folder)
