"""Allocation in whole runs: sites come and go, they vote, budgets and chances are kept to."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from collab.collaboration import Collaboration
from collab.events import Send
from collab.settings import parse, parse_toml, read_text
from protocol.arrays import check_finite
from protocol.codec import decode
from protocol.errors import RunError, UserError
from protocol.messages import Assignment, Contribution
from protocol.records import unpack
from server import explain as reasons
from server.federation import COLLABORATION
from server.runlog import read, replay
from server.weights_learner import unbiased
from simulations.simulate import first_allocation
from tests.small import NAMES, SOFT_LABELS, WEIGHTS, Small, run, scenario, sites, tables

TWO = {"iris": WEIGHTS, "wine": WEIGHTS}


def resolved(found: Small) -> Collaboration:
    """The collaboration as the run's folder has it."""
    path = found.folder / COLLABORATION
    return parse(parse_toml(read_text(path), str(path)), str(path))


def sends(found: Small) -> list[Send]:
    """Every assignment of the run, as it was decided."""
    return [i for _, given in read(found.folder) for i in given if isinstance(i, Send)]


def replays(found: Small) -> bool:
    """Whether the log gives the same decisions again."""
    return replay(found.folder, resolved(found)).ended


def test_a_site_joins_and_another_leaves(tmp_path: Path) -> None:
    """Each is asked in the rounds in which it is there and in no other; who left is not waited for."""
    table = sites(beta={"from_round": 3}, gamma={"until_round": 2})
    found = run(tables(rounds=4, sites=table), tmp_path, baselines=True)
    asked = {(r["site"], r["round"]) for r in found.summary["allocations"]}
    assert {n for s, n in asked if s == "alpha"} == {1, 2, 3, 4}
    assert {n for s, n in asked if s == "beta"} == {3, 4}
    assert {n for s, n in asked if s == "gamma"} == {1, 2}
    assert "beta joined before round 3" in found.notes
    assert "gamma left before round 3" in found.notes
    gains = found.summary["subtasks"]["iris"]["gains"]
    assert set(gains) == {"alpha", "beta"}
    assert found.summary["totals"]["simulated_s"] < 60  # nobody's deadline ran out for a site that left
    assert replays(found)


def test_soft_labels_of_a_site_that_joined_late(tmp_path: Path) -> None:
    """Its votes count from then on, and it deploys the student with its own model like everybody."""
    made = tables({"iris": SOFT_LABELS}, rounds=3, sites=sites(beta={"from_round": 2}))
    found = run(made, tmp_path)
    assert found.outcomes("beta") == ["contributed"] * 2
    assert "beta" in found.summary["subtasks"]["iris"]["gains"]
    assert replays(found)


def test_a_run_that_everybody_leaves_stops(tmp_path: Path) -> None:
    """When the last site has left, the run stops, says so, and keeps what was reached."""
    gone = {name: {"device": "cpu", "until_round": 1} for name in NAMES}
    with pytest.raises(RunError, match="all sites are gone"):
        run(tables(rounds=3, sites=gone), tmp_path)
    assert (tmp_path / "r" / "summary.json").is_file()


def test_sites_vote_on_each_other(tmp_path: Path) -> None:
    """`vote` polls before round 2: rankings leave the sites, no figures, and the elected are asked."""
    made = tables({"iris": {**WEIGHTS, "max_sites": 2}}, rounds=3, allocation={"policy": "vote"})
    found = run(made, tmp_path)
    assert len(found.grid.answers("evaluate.ballot")) == len(NAMES)
    for reply in found.grid.answers("evaluate.ballot"):
        assert set(reply.content.keys()) == {"consilium"} or not reply.content.array_records
    assert all(len([s for s in sends(found) if s.round == r]) <= 2 for r in (1, 2, 3))
    assert replays(found)


def test_budgets_shorten_what_slow_sites_do(tmp_path: Path) -> None:
    """A slow site is sent fewer updates than the others, and makes just as many as it was sent."""
    table = sites(alpha={"examples_per_s": 10}, beta={"examples_per_s": 1000}, gamma={"examples_per_s": 1000})
    made = tables(
        {"iris": {**WEIGHTS, "aggregation": "fednova", "train": {**WEIGHTS["train"], "batch_size": 2}}}
    )
    found = run({**made, "sites": table, "allocation": {"policy": "consilium"}}, tmp_path)
    budgets = {s.site: s.budget for s in sends(found)}
    assert budgets["alpha"] < budgets["beta"] <= 1
    processed = {}
    for reply in found.grid.answers("train.weights"):
        said, _ = unpack(reply.content, Contribution)
        processed[said.site] = said.examples_processed
    told = {}
    for asked, _ in found.grid.passed:
        if asked.metadata.message_type == "train.weights":
            assignment, _ = unpack(asked.content, Assignment)
            told[assignment.site] = assignment.subtask.train.local_steps
    assert processed["alpha"] == pytest.approx(told["alpha"] * 2, abs=2)
    assert processed["alpha"] < processed["beta"]


def test_a_draw_is_averaged_without_bias() -> None:
    """Over all draws of sites, each with its chance, the estimate's mean is everybody's weighted mean."""
    rng = np.random.default_rng(5)
    start = {"w": rng.normal(size=3).astype(np.float32), "count": np.array([4])}
    sites_ = [({"w": rng.normal(size=3).astype(np.float32), "count": np.array([4])}, n) for n in (10, 30, 60)]
    chances, everybody = (0.2, 0.5, 0.9), 100
    expected, mean_w = np.zeros(3), sum(n * a["w"] for a, n in sites_) / everybody
    for drawn in product((False, True), repeat=3):
        weight = float(np.prod([p if d else 1 - p for p, d in zip(chances, drawn, strict=True)]))
        taken = [(a, n / p) for (a, n), p, d in zip(sites_, chances, drawn, strict=True) if d]
        if not taken:
            expected += weight * start["w"]  # an empty cohort leaves the arrays as they are
            continue
        total = sum(n for _, n in taken)
        mean = {"w": sum(n * a["w"] for a, n in taken) / total, "count": np.array([4])}
        made = unbiased(start, mean, total / everybody)
        assert made["count"] == 4
        expected += weight * made["w"]
    np.testing.assert_allclose(expected, mean_w, rtol=1e-5)


@pytest.mark.parametrize("rule", ["fedavg", "fednova", "scaffold", "fedadam"])
def test_chances_reach_the_average(rule: str, tmp_path: Path) -> None:
    """A policy that draws says with what chance, and the step is scaled by it: the log has every chance."""
    subtask = {**WEIGHTS, "max_sites": 1, "aggregation": rule}
    made = tables({"iris": subtask}, rounds=2, allocation={"policy": "optimal_sampling"})
    found = run(made, tmp_path)
    drawn = sends(found)
    assert len(drawn) == 2
    assert all(s.inclusion is not None and 0 < s.inclusion < 1 for s in drawn)
    given = decode((found.folder / "models" / "iris" / "final.safetensors").read_bytes(), 10**8)
    assert check_finite(given) is None
    assert replays(found)


def test_every_decision_can_be_explained(tmp_path: Path) -> None:
    """`explain` finds each round, gives the policy's reason, and names what would have turned it."""
    made = tables(TWO, rounds=3, allocation={"policy": "consilium"})
    found = run(made, tmp_path)
    collaboration = resolved(found)
    for number in (1, 2, 3):
        decision = reasons.decision(found.folder, collaboration, number)
        assert {(s.site, s.subtask) for s in decision.sent} == {
            (s.site, s.subtask) for s in sends(found) if s.round == number and s.attempt == 1
        }
        for answer in reasons.explain(decision, collaboration, None, None):
            assert answer.assigned
            assert "utility" in answer.reason
    turned = [w.turned_by for w in reasons.explain(decision, collaboration, None, None)]
    assert any(turned)
    json.dumps(reasons.as_json(decision, reasons.explain(decision, collaboration, None, None)))


def test_a_counterfactual_is_true(tmp_path: Path) -> None:
    """A site that would have lost its subtask at f times its seconds loses it, in a run with such a site."""
    found = run(tables(TWO, rounds=1, allocation={"policy": "consilium"}), tmp_path)
    collaboration = resolved(found)
    decision = reasons.decision(found.folder, collaboration, 1)
    passed = decision.decided.passed_over[0]
    answer = reasons.explain(decision, collaboration, passed.site, passed.subtask)[0]
    assert not answer.assigned
    assert answer.reason == passed.reason
    assert any("room for 2 subtasks" in c.change for c in answer.turned_by)


def test_what_cannot_be_explained_is_refused(tmp_path: Path) -> None:
    """A round, a site or a subtask that was not there is named in the refusal."""
    found = run(tables(), tmp_path)
    collaboration = resolved(found)
    with pytest.raises(UserError, match="no round 9; its last is 1"):
        reasons.decision(found.folder, collaboration, 9)
    decision = reasons.decision(found.folder, collaboration, 1)
    with pytest.raises(UserError, match="no site 'nobody'"):
        reasons.explain(decision, collaboration, "nobody", "iris")
    with pytest.raises(UserError, match="no active subtask 'tulips'"):
        reasons.explain(decision, collaboration, "alpha", "tulips")


def test_a_plan_is_the_first_round_of_the_run(tmp_path: Path) -> None:
    """`plan` trains nothing and shows the allocation that the run then begins with."""
    made = tables(TWO, allocation={"policy": "consilium", "rules": {"wine": 'examples["wine"] >= 45'}})
    outlook = first_allocation(scenario(made))
    found = run(made, tmp_path)
    planned = {(p.site, p.subtask) for p in outlook.pairs if p.assigned}
    assert planned == {(s.site, s.subtask) for s in sends(found) if s.round == 1}
    assert {(p.site, p.subtask) for p in outlook.pairs} == {(s, k) for s in NAMES for k in TWO}
    kept_out = [p for p in outlook.pairs if p.obstacles]
    assert all(p.subtask == "wine" and "rule not met" in p.obstacles[0] for p in kept_out)
    assert np.isfinite([p.seconds for p in outlook.pairs]).all()
