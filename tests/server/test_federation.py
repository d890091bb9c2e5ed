"""A whole run, small: the same bits again, time that follows from profiles, a summary that lacks nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.app import app as client_app
from collab.settings import parse, parse_toml
from protocol.errors import ConfigError
from protocol.messages import Assignment
from protocol.records import unpack
from server.federation import COLLABORATION, Terms, federate, to_toml
from server.flwr_adapter import task_identity
from server.runlog import replay
from tests.fault_cases import app_with, fails, in_round
from tests.small import NAMES, SOFT_LABELS, WEIGHTS, RecordingGrid, Small, run, scenario, sites, tables

BOTH = {"iris": WEIGHTS, "wine": SOFT_LABELS}
SUBTASK_KEYS = {"metric", "exchange", "collaboration", "baselines", "fusion", "rounds_to_target"}


def _comparable(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary without what may differ from run to run: its name and the real time it took."""
    kept = {key: value for key, value in summary.items() if key != "run_id"}
    kept["totals"] = {key: value for key, value in summary["totals"].items() if key != "wall_s"}
    return kept


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    """Twice the same file: the same bytes of all models and of the log, and the same summary."""
    first = run(tables(BOTH, rounds=2), tmp_path / "a", baselines=True)
    again = run(tables(BOTH, rounds=2), tmp_path / "b", baselines=True)
    assert len(first.models()) == 2 * 5
    assert first.models() == again.models()
    assert first.log() == again.log()
    assert _comparable(first.summary) == _comparable(again.summary)


def test_a_run_does_not_depend_on_its_name(tmp_path: Path) -> None:
    """Another name of the run: other ids in the log, the same models."""
    first = run(tables(BOTH), tmp_path, name="first")
    other = run(tables(BOTH), tmp_path, name="another-name")
    assert first.models() == other.models()


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    """Another seed deals out, begins and trains otherwise: no model is the same."""
    first, other = run(tables(BOTH), tmp_path / "a"), run(tables(BOTH, seed=4), tmp_path / "b")
    assert first.models().keys() == other.models().keys()
    models = [name for name in first.models() if "_fusion" not in name]
    assert all(first.models()[name] != other.models()[name] for name in models)


def test_the_log_replays_and_the_kept_file_gives_the_same_run(tmp_path: Path) -> None:
    """A run's folder is enough: its file parses to the same terms, its log gives the same instructions."""
    made = tables(BOTH, rounds=2, sites=sites(beta={"dropout": 0.5}))
    found = run(made, tmp_path)
    text = (found.folder / COLLABORATION).read_text(encoding="utf-8")
    kept = parse(parse_toml(text, "kept"), "kept")
    assert kept == scenario(made)
    events, instructions, ended = replay(found.folder, kept)
    assert ended
    assert events == len(found.log())
    assert instructions == sum(len(body["instructions"]) for body in found.log()) > events / 2


def _simulated_s(folder: Path, **profile: Any) -> float:
    found = run(tables(sites={name: {"device": "cpu", **profile} for name in NAMES}), folder)
    return float(found.summary["totals"]["simulated_s"])


def test_simulated_seconds_follow_from_the_profiles(tmp_path: Path) -> None:
    """Work over speed plus bytes over bandwidth plus latency: halving one part halves exactly that part."""
    base = {"examples_per_s": 10.0, "bandwidth_mbit": 0.1, "latency_s": 0.0}
    slow = _simulated_s(tmp_path / "slow", **base)
    compute = slow - _simulated_s(tmp_path / "fast", **base | {"examples_per_s": 20.0})
    wire = slow - _simulated_s(tmp_path / "wide", **base | {"bandwidth_mbit": 0.2})
    assert compute > 0
    assert wire > 0
    assert slow == pytest.approx(2 * compute + 2 * wire, rel=1e-3)


def test_a_site_has_what_it_cost(tmp_path: Path) -> None:
    """Totals are the sums over the sites, and each site's seconds follow from its bytes and its work."""
    found = run(tables(BOTH, sites=sites(alpha={"bandwidth_mbit": 0.5})), tmp_path).summary
    for key in ("bytes_up", "bytes_down"):
        assert found["totals"][key] == sum(site[key] for site in found["sites"].values()) > 0
    assert found["totals"]["bytes"] == found["totals"]["bytes_up"] + found["totals"]["bytes_down"]
    alpha = found["sites"]["alpha"]
    assert alpha["simulated_s"] > (alpha["bytes_up"] + alpha["bytes_down"]) * 8 / 0.5e6


def test_who_drops_out_is_silent_and_not_covered(tmp_path: Path) -> None:
    """A site that vanished has outcome "silent" in exactly those rounds, and the coverage lacks its rows."""
    made = tables(rounds=6, sites=sites(beta={"dropout": 0.5}))
    made["coordination"] |= {"quorum": 0.5, "grace_s": 1}
    found = run(made, tmp_path)
    outcomes = found.outcomes("beta")
    assert set(outcomes) == {"silent", "contributed"}
    assert found.outcomes("alpha") == found.outcomes("gamma") == ["contributed"] * 6
    for covered, outcome in zip(found.summary["coverage"], outcomes, strict=True):
        assert covered["contributed"] == 3 - (outcome == "silent")
        assert (covered["examples_share"] == 1.0) == (outcome == "contributed")


@pytest.mark.parametrize(("chance", "outcome"), [(1e-9, "contributed"), (1 - 1e-9, "silent")])
def test_the_chance_to_drop_out_is_the_profiles(chance: float, outcome: str, tmp_path: Path) -> None:
    """With next to no chance a site never vanishes, with next to certainty always."""
    found = run(tables(rounds=3, sites=sites(beta={"dropout": chance})), tmp_path)
    assert found.outcomes("beta") == [outcome] * 3


def test_a_site_finishes_what_it_could_not_contribute(tmp_path: Path) -> None:
    """At the end each site trains its own model for as many rounds as it gave nothing in, and no longer."""
    app = app_with(in_round(2, fails), "train.weights")
    found = run(tables(rounds=3), tmp_path, app=app)
    asked = [asked for asked, _ in found.grid.passed if asked.metadata.message_type == "train.finish"]
    told = [unpack(message.content, Assignment)[0] for message in asked]
    assert [(assignment.site, assignment.budget) for assignment in told] == [("beta", 1)]


def test_baselines_disturb_nothing(tmp_path: Path) -> None:
    """With and without baselines: the same models, log and bytes down; and all of time and cost per round."""
    plain, compared = run(tables(BOTH), tmp_path / "a"), run(tables(BOTH), tmp_path / "b", baselines=True)
    assert plain.models() == compared.models()
    assert plain.log() == compared.log()
    assert plain.summary["totals"]["bytes_down"] == compared.summary["totals"]["bytes_down"]
    for name in BOTH:
        assert plain.summary["subtasks"][name]["curve"] == compared.summary["subtasks"][name]["curve"]


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, float):
        yield value


def test_the_summary_lacks_nothing(tmp_path: Path) -> None:
    """Every key that a reader of summary.json may count on is there, and every number is finite."""
    found = run(tables(BOTH, rounds=2), tmp_path, baselines=True)
    summary = json.loads((found.folder / "summary.json").read_text(encoding="utf-8"))
    assert {
        "run_id",
        "engine",
        "seed",
        "rounds",
        "subtasks",
        "sites",
        "totals",
        "allocations",
    } <= summary.keys()
    assert (summary["run_id"], summary["engine"], summary["seed"], summary["rounds"]) == ("r", "local", 3, 2)
    for entry in summary["subtasks"].values():
        assert entry.keys() >= SUBTASK_KEYS
        assert entry["collaboration"].keys() == {"global", "own"}
        assert {"local_mean", "local", "pooled", "fedavg_smallest"} <= entry["baselines"].keys()
        assert entry["baselines"]["local_mean"].keys() == {"global", "own"}
        assert entry["baselines"]["local"].keys() == set(NAMES)
        assert entry["fusion"].keys() >= {"rule", "weights"}
        assert math.isclose(sum(entry["fusion"]["weights"].values()), 1.0)
    for site in summary["sites"].values():
        assert {"assignments", "bytes_up", "bytes_down", "simulated_s", "metrics"} <= site.keys()
    assert {"bytes", "simulated_s", "wall_s"} <= summary["totals"].keys()
    assert len(summary["allocations"]) == 2 * 2 * 3
    assert all(
        {"round", "site", "subtask", "reason"} <= row.keys() and row["reason"]
        for row in summary["allocations"]
    )
    assert all(math.isfinite(number) for number in _numbers(found.summary))


def test_a_target_stops_its_subtask(tmp_path: Path) -> None:
    """A subtask that reached its target gets no more rounds; the round in which it did is reported."""
    made = tables({"iris": {**WEIGHTS, "metric": "accuracy", "target": 0.5}, "wine": WEIGHTS}, rounds=4)
    found = run(made, tmp_path).summary
    reached = found["subtasks"]["iris"]["rounds_to_target"]
    assert reached < 4
    assert max(row["round"] for row in found["allocations"] if row["subtask"] == "iris") == reached
    assert max(row["round"] for row in found["allocations"] if row["subtask"] == "wine") == 4


def test_a_folder_is_never_written_over(tmp_path: Path) -> None:
    """Another run of a name that is there already is refused before anything is asked of a site."""
    run(tables(), tmp_path)
    with pytest.raises(ConfigError, match="began with another collaboration; give this one another name"):
        run(tables(rounds=2), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        run(tables(), tmp_path / "file")


def test_a_simulated_clock_needs_profiles(tmp_path: Path) -> None:
    """Without [sites] there is nothing to simulate time from, and the sentence says which clock to take."""
    made = tables({"iris": {**WEIGHTS, "labels": 3}})
    del made["sites"]
    collaboration = parse(made, "test")
    grid = RecordingGrid(client_app, 1, {"collaboration": to_toml(collaboration)})
    with task_identity(grid.run.run_id), pytest.raises(ConfigError, match="clock = 'wall'"):
        federate(grid, collaboration, Terms("r", tmp_path / "r"))
    assert not grid.passed


def test_a_run_can_be_watched(tmp_path: Path) -> None:
    """A listener hears of every assignment, every arrival and every round."""
    found: Small = run(tables(rounds=2), tmp_path)
    heard = [event["type"] for event in found.told]
    assert (heard.count("assigned"), heard.count("arrived"), heard.count("round")) == (6, 6, 2)
