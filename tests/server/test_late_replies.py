"""A reply that comes late or twice is discarded under its site's name, and counted at most once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message

from clients.app import app as client_app
from collab.events import Discard
from protocol.arrays import Arrays
from protocol.errors import RunError
from server.federation import Terms, federate, to_toml
from server.flwr_adapter import task_identity
from server.runlog import read, replay
from server.spool import Spool
from tests.fault_cases import app_with, fails
from tests.small import NAMES, RecordingGrid, Small, run, scenario, sites, tables


class TwiceGrid(RecordingGrid):
    """Hands each answer to a message of some types over twice."""

    twice: tuple[str, ...] = ("train.weights",)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return each reply, and some once more."""
        found = list(super().pull_messages(message_ids))
        return [m for m in found for _ in range(2 if m.metadata.message_type in self.twice else 1)]


class AllTwiceGrid(TwiceGrid):
    """Hands every answer of the rounds over twice."""

    twice = ("train.weights", "evaluate.model")


def _discards(folder: Path) -> list[tuple[str, str]]:
    return [(i.assignment, i.code) for _, given in read(folder) for i in given if isinstance(i, Discard)]


def _on_a_wall_clock(folder: Path, grid: type[RecordingGrid]) -> Small:
    """Run as real sites do: answers are taken as they come, and nothing puts messages in turn."""
    collaboration = scenario(tables(rounds=2))
    over = grid(client_app, len(NAMES), {"collaboration": to_toml(collaboration)})
    with task_identity(over.run.run_id):
        summary = federate(over, collaboration, Terms("r", folder, "wall"))
    return Small(summary, folder, over)


def test_a_second_answer_is_discarded(tmp_path: Path) -> None:
    """Each contribution that comes twice is merged once: the models are those of a run without seconds."""
    found = _on_a_wall_clock(tmp_path / "twice", TwiceGrid)
    once = _on_a_wall_clock(tmp_path / "once", RecordingGrid)
    assert found.models() == once.models()
    expected = {f"r/{n}/iris/{site}/1" for n in (1, 2) for site in NAMES}
    discarded = _discards(found.folder)
    assert sorted(discarded) == sorted((key, "duplicate") for key in expected)
    assert all(found.outcomes(site) == ["contributed"] * 2 for site in NAMES)


def test_a_second_evaluation_is_not_added_twice(tmp_path: Path) -> None:
    """Validation rows count once, whatever comes twice, and no note calls an evaluation a contribution."""
    found = _on_a_wall_clock(tmp_path / "twice", AllTwiceGrid)
    once = _on_a_wall_clock(tmp_path / "once", RecordingGrid)
    ours, theirs = (
        [p["num_examples"] for p in s.summary["subtasks"]["iris"]["curve"]] for s in (found, once)
    )
    assert ours == theirs
    assert found.models() == once.models()
    assert "rejected" not in found.notes


def test_seconds_do_not_disturb_a_simulation(tmp_path: Path) -> None:
    """On simulated time a second answer changes no byte of the models or of the log."""
    found = run(tables(rounds=2), tmp_path / "twice", grid=AllTwiceGrid)
    once = run(tables(rounds=2), tmp_path / "once")
    assert found.models() == once.models()
    assert found.log() == once.log()


def _slow(folder: Path, rounds: int = 3, **profile: float) -> Small:
    """Run with a site whose profile lets it miss the deadline of 10 s."""
    made = tables(rounds=rounds, sites=sites(beta=profile))
    made["coordination"] |= {"deadline_s": 10}
    return run(made, folder)


@pytest.mark.parametrize("profile", [{"bandwidth_mbit": 0.0005}, {"examples_per_s": 2}, {"latency_s": 6}])
def test_a_late_contribution_is_not_merged(profile: dict[str, float], tmp_path: Path) -> None:
    """What comes after the deadline is discarded as late, and the round is one without that site."""
    found = _slow(tmp_path, rounds=1, **profile)
    silent = run(tables(), tmp_path / "s", app=app_with(fails, "train.weights"))
    name = "models/iris/final.safetensors"
    assert found.models()[name] == silent.models()[name]
    assert [(c["asked"], c["contributed"]) for c in found.summary["coverage"]] == [(3, 2)]
    assert found.outcomes("beta")[0] in {"late", "silent"}  # silent: the run was over before it came


def test_late_is_late_under_its_name(tmp_path: Path) -> None:
    """A contribution that comes in the next round is late: outcome, note and log say so, each once."""
    found = _slow(tmp_path, latency_s=6)
    late = [row for row in found.summary["allocations"] if row["outcome"] == "late"]
    assert {row["site"] for row in late} == {"beta"}
    assert [row["round"] for row in late] == [1, 2]
    discarded = [(f"r/{row['round']}/iris/beta/1", "late") for row in late]
    assert _discards(found.folder) == discarded
    for key, _ in discarded:
        assert found.notes.count(f"{key}: not used: late") == 1
    assert "rejected" not in found.notes


def test_what_is_late_is_not_even_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late contribution never reaches the disk: only what will be merged is written."""
    stored: list[str] = []
    put = Spool.put

    def spy(self: Spool, key: str, arrays: Arrays) -> None:
        stored.append(key)
        put(self, key, arrays)

    monkeypatch.setattr(Spool, "put", spy)
    found = _slow(tmp_path, latency_s=6)
    assert "late" in found.outcomes("beta")
    assert sorted(stored) == sorted(f"r/{n}/iris/{site}/1" for n in (1, 2, 3) for site in ("alpha", "gamma"))


def test_the_deadline_is_kept(tmp_path: Path) -> None:
    """No round waits longer than its deadline for contributions, nor as long again for the validation."""
    found = _slow(tmp_path, examples_per_s=1)
    seconds = [p["simulated_s"] for p in found.summary["subtasks"]["iris"]["curve"]]
    assert len(seconds) == 3
    assert all(after - before <= 20 + 1e-6 for before, after in itertools.pairwise(seconds))
    waits = [i for line in found.log() for i in line["instructions"] if i["type"] == "wait"]
    assert waits


def test_a_run_with_late_replies_replays(tmp_path: Path) -> None:
    """The log of a run with late contributions gives the same instructions again."""
    found = _slow(tmp_path, latency_s=6)
    events, _, ended = replay(found.folder, scenario(_terms()))
    assert ended
    assert events == len(found.log())


def _terms() -> dict[str, object]:
    made = tables(rounds=3, sites=sites(beta={"latency_s": 6}))
    made["coordination"] |= {"deadline_s": 10}
    return made


def test_too_little_in_time_ends_the_run(tmp_path: Path) -> None:
    """Where less than min_coverage came in time, the run ends and names who is missing."""
    made = tables(sites=sites(beta={"latency_s": 60}, gamma={"latency_s": 60}))
    made["coordination"] |= {"deadline_s": 10, "min_coverage": 0.5}
    with pytest.raises(RunError, match=r"round 1, iris: only 3\d% .*missing: beta, gamma"):
        run(made, tmp_path)
    assert list((tmp_path / "r").glob("content/*")) == []
