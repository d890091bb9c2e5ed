"""What a run leaves behind is read for what it is: when it first came so far, every training begun."""

from __future__ import annotations

from pathlib import Path

from simulations.chaos.traces import marks, model_digests, recovered_after, run_log, trainings
from simulations.deployed import Deployed

LOG = """2026-01-02 10:00:00,000 consilium.run: {'text': 'waiting for sites', 'event': 'stage'}
2026-01-02 10:00:01,000 consilium.run: {'site': 'a', 'about': 'r/1/risk/a/1', 'event': 'arrived'}
2026-01-02 10:00:02,000 consilium.run: {'site': 'b', 'about': 'r/1/risk/b/1', 'event': 'arrived'}
Traceback: what some library writes
2026-01-02 10:00:05,000 consilium.run: {'site': 'a', 'about': 'r/1/risk/a/1', 'event': 'arrived'}
2026-01-02 10:00:06,250 consilium.run: {'round': 1, 'simulated_s': 4.0, 'event': 'round'}
2026-01-02 10:00:07,000 consilium.run: {'site': 'b', 'about': 'r/2/risk/b/1', 'event': 'arrived'}
2026-01-02 10:00:08,000 consilium.run: {'site': 'a', 'about': 'r/2/risk/a/1', 'event': 'arrived'}
2026-01-02 10:00:09,000 consilium.run: {'site': 'a', 'ab"""


def _federation(folder: Path) -> Deployed:
    at = Deployed(folder)
    for name in ("server", "a", "b"):
        (at.kit(name) / "state" / "logs").mkdir(parents=True)
    run_log(at, "r").write_text(LOG, encoding="utf-8")
    return at


def test_what_is_done_again_is_no_progress(tmp_path: Path) -> None:
    """A run has recovered once it is further than before, and the site that was struck has answered."""
    reached = marks(_federation(tmp_path), "r")
    assert [m.what for m in reached] == [
        "r/1/risk/a/1",
        "r/1/risk/b/1",
        "round 1",
        "r/2/risk/b/1",
        "r/2/risk/a/1",
    ]
    struck_at, ended_at = reached[1].at + 1, reached[1].at + 60
    assert recovered_after(reached, struck_at, ended_at, set()) == 3.25
    later = reached[2].at
    assert recovered_after(reached, later, ended_at, {"a"}) == 1.75
    assert recovered_after(reached, later, ended_at, {"b"}) == 0.75
    assert recovered_after(reached, reached[-1].at, ended_at, {"b"}) == ended_at - reached[-1].at


def test_trainings_are_counted_as_often_as_they_begin(tmp_path: Path) -> None:
    """Evaluations and other runs do not count; a training that a worker died over counts again."""
    at = _federation(tmp_path)
    begins = [
        ("train.weights", "r"),
        ("evaluate.model", "r"),
        ("train.weights", "r"),
        ("train.weights", "r2"),
    ]
    lines = [f"2026-01-02 10:00:00,000 consilium.worker: {kind} of run {run} begins" for kind, run in begins]
    (at.kit("a") / "state" / "logs" / "worker.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert trainings(at, "r", ("a", "b")) == 2


def test_models_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    """Every model file counts, by its path; what else a run's folder holds does not."""
    for run, content in (("one", b"x"), ("two", b"x"), ("three", b"y")):
        models = tmp_path / run / "models" / "risk"
        models.mkdir(parents=True)
        (models / "final.safetensors").write_bytes(content)
        (models / "card.json").write_text(run, encoding="utf-8")
    one, two, three = (model_digests(tmp_path / run) for run in ("one", "two", "three"))
    assert list(one) == ["models/risk/final.safetensors"]
    assert one == two
    assert one != three
