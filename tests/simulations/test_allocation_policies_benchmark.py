"""The benchmark of allocation: measures that can be computed by hand, one federation for all, small runs."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.feedback import Contributed, Measured
from collab.rng import generator
from simulations.benchmarks.allocation import BESIDE, MAIN, job, main_jobs
from simulations.benchmarks.allocation_controls import DIGITS, control_jobs, control_lines
from simulations.benchmarks.allocation_factorial import FACTORS, effects
from simulations.benchmarks.allocation_measures import (
    Reached,
    bootstrap,
    jain,
    kaplan_meier,
    minimum_auc,
    paired,
    reached,
    share_auc,
)
from simulations.benchmarks.allocation_runs import Shuffled, measure
from simulations.benchmarks.allocation_sites import HOSPITALS, METRICS, TARGETS, Job, Size, tables
from simulations.benchmarks.allocation_tables import lines

SMALL = Size(sites=4, rounds=6)
GOALS = {"a": 1.0, "b": 0.5}


def _run(a: list[float], b: list[float], **more: Any) -> dict[str, Any]:
    """Return a run of two subtasks whose rounds take ten seconds each."""

    def entry(values: list[float]) -> dict[str, Any]:
        curve = [{"round": i + 1, "simulated_s": 10.0 * (i + 1), "value": v} for i, v in enumerate(values)]
        return {"curve": curve, "test": values[-1]}

    rounds = max(len(a), len(b))
    costs = {"bytes": 1, "asked": 4, "contributed": 3, "payment": 0.0}
    found = {"name": "random", "seed": 1, "rounds": rounds, "simulated_s": 10.0 * rounds, **costs}
    return found | {"subtasks": {"a": entry(a), "b": entry(b)}} | more


def test_reached_is_the_slowest_subtask_or_censored() -> None:
    """All are at their targets when the last one first is; else the run's end is a lower bound."""
    run = _run([0.5, 1.0, 0.9], [0.5, 0.4, 0.4])
    assert reached(run, "round", GOALS) == Reached(2.0, censored=False)
    assert reached(run, "simulated_s", GOALS) == Reached(20.0, censored=False)
    assert reached(run, "round", {"a": 1.0, "b": 0.6}) == Reached(3.0, censored=True)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_kaplan_meier_without_censoring_is_the_sample(times: list[int]) -> None:
    """Where all are seen, the restricted mean is the mean, and half have come by the median."""
    found = kaplan_meier([Reached(float(t), censored=False) for t in times], 60.0)
    assert found.restricted_mean == pytest.approx(np.mean(times))
    assert found.median == sorted(times)[(len(times) - 1) // 2]


def test_kaplan_meier_by_hand() -> None:
    """At 2 one of 4 at risk is done (3/4), at 5 one of 2 (3/8); who was lost at 3 counts until then."""
    times = [Reached(2, False), Reached(3, True), Reached(5, False), Reached(9, True)]
    found = kaplan_meier(times, 9.0)
    assert found.median == 5
    assert found.restricted_mean == pytest.approx(2 + 3 * 3 / 4 + 4 * 3 / 8)
    assert (found.events, found.censored) == (2, 2)
    assert kaplan_meier([Reached(4, True)], 4.0).median is None


def test_shares_over_time_by_hand() -> None:
    """A share is a step function, 0 before the first value, at most 1; the worst is taken at every moment."""
    run = _run([0.5, 2.0], [0.5, 0.25])
    assert share_auc(run, GOALS, 40.0).tolist() == [
        pytest.approx((10 * 0.5 + 20 * 1.0) / 40),
        pytest.approx((10 * 1.0 + 20 * 0.5) / 40),
    ]
    assert minimum_auc(run, GOALS, 40.0) == pytest.approx((10 * 0.5 + 20 * 0.5) / 40)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8), st.floats(0.1, 10))
def test_jain_is_between_one_over_n_and_one(values: list[float], scale: float) -> None:
    """The index ignores scale, is 1 for equal shares and 1/n for one that has all."""
    found = jain(np.array(values))
    assert 1 / len(values) - 1e-9 <= found <= 1 + 1e-9
    assert jain(scale * np.array(values)) == pytest.approx(found)
    assert jain(np.full(5, 0.3)) == pytest.approx(1.0)
    assert jain(np.array([0.0, 0.0, 2.0])) == pytest.approx(1 / 3)


def test_paired_differences_are_of_common_seeds() -> None:
    """Seeds that one of the two lacks are left out; a constant difference has an interval of no width."""
    found = paired({1: 3.0, 2: 5.0, 3: 9.0}, {1: 1.0, 2: 3.0, 4: 0.0}, lower=True)
    assert found is not None
    assert (found.mean, found.low, found.high, found.better, found.pairs) == (2, 2, 2, 0, 2)
    assert found.excludes_zero
    assert paired({1: 1.0}, {2: 1.0}) is None


def test_bootstrap_interval_holds_the_mean() -> None:
    """The interval of equal values is a point; of others it holds their mean."""
    assert bootstrap([2.0, 2.0], generator(1, "t")) == (2.0, 2.0, 2.0)
    mean, low, high = bootstrap([1.0, 2.0, 6.0], generator(1, "t"))
    assert low < mean == 3.0 < high


def test_effects_of_a_known_table() -> None:
    """A total that is 3·allocation + 2·allocation·distillation has these effects and no other."""
    rows = [
        {
            "seed": s,
            **dict(zip(FACTORS, levels, strict=True)),
            "total": 3.0 * levels[0] + 2.0 * levels[0] * levels[1],
        }
        for s in (1, 2)
        for levels in itertools.product((0, 1), repeat=3)
    ]
    found = {name: mean for name, (mean, _, _) in effects(rows).items()}
    assert found["allocation"] == pytest.approx(4.0)
    assert found["distillation"] == pytest.approx(1.0)
    assert found["allocation x distillation"] == pytest.approx(1.0)
    assert [n for n, mean in found.items() if "fusion" in n and abs(mean) > 1e-12] == []


@pytest.mark.parametrize("seed", range(1, 6))
def test_policies_share_all_but_the_policy(seed: int, tmp_path: Path) -> None:
    """Sites, data, partition and training are the seed's alone, and each site has 2 to 5 subtasks."""
    made = [tables(job(policy, seed), Size(), tmp_path) for policy in (*MAIN, "everyone")]
    for one in made:
        del one["allocation"]
        assert one == made[0]
    held = [len(site["subtasks"]) for site in made[0]["sites"].values()]
    assert (len(held), min(held) >= 2, max(held) <= 5) == (20, True, True)
    assert [s for s, site in made[0]["sites"].items() if "heart" in site["subtasks"]] == list(HOSPITALS)
    assert all(0.1 <= site["dropout"] <= 0.2 for site in made[0]["sites"].values())


def test_jobs_of_the_two_forms() -> None:
    """The long form has ten seeds and adds the others with three; targets are the same."""
    short, long = main_jobs(3, long=False), main_jobs(10, long=True)
    assert len(short) == 3 * (len(MAIN) + len(BESIDE))
    assert {j.seed for j in long if j.name == "consilium"} == set(range(1, 11))
    assert {j.seed for j in long if j.name == "oort"} == {1, 2, 3}
    assert {j.targets for j in long} == {tuple(TARGETS.items())}
    assert TARGETS.keys() == METRICS.keys()
    assert min(j.seed for j in control_jobs(2)) == 1


def test_shuffled_beliefs_keep_no_name() -> None:
    """What is told of one subtask reaches others as well, and sites trade credits; nothing is made up."""
    beliefs = Shuffled(3, ("a", "b", "c"))
    for round_ in range(1, 21):
        beliefs.measured("a", round_, (Contributed("s", 1),), Measured(0.5, {"s": 0.5, "t": 0.7}, {}))
    assert {name for name in "abc" if beliefs.subtask(name).best == 0.5} == {"a", "b", "c"}


@pytest.fixture(scope="module")
def single() -> list[dict[str, Any]]:
    """Small runs of one subtask that every site can do."""
    options = {"consilium": (("most", 1.0),)}
    return [
        measure(
            Job(policy, 1, options.get(policy, ()), "single", (("digits", DIGITS),)), SMALL, Path(os.devnull)
        )
        for policy in ("everyone", "random", "consilium")
    ]


def test_one_subtask_is_fedavg_whatever_the_policy(single: list[dict[str, Any]]) -> None:
    """Every site does the one subtask every round: the arrays are everyone's, bit for bit."""
    assert len({run["digests"]["digits"] for run in single}) == 1
    assert control_lines(single)[-1] == "| consilium | 1 of 1 |"


def test_what_a_run_reports(single: list[dict[str, Any]]) -> None:
    """A curve point a round in order of time; bytes count, nobody is paid without an auction."""
    run = single[0]
    curve = run["subtasks"]["digits"]["curve"]
    assert [p["round"] for p in curve] == list(range(1, run["rounds"] + 1))
    assert curve == sorted(curve, key=lambda p: p["simulated_s"])
    assert run["simulated_s"] == curve[-1]["simulated_s"] > 0
    assert run["contributed"] == run["asked"] == 4 * run["rounds"]
    assert run["bytes"] > 0 == run["payment"]
    assert 0 < run["subtasks"]["digits"]["relative_loss"] < 1


def test_what_is_printed() -> None:
    """Every policy has a row of as many cells as the head, in each table."""
    runs = [
        _run([0.5, 1.0], [0.5, 0.5], name=name, seed=seed)
        for name in ("random", "consilium", "consilium, β = 1")
        for seed in (1, 2)
    ]
    rows = [line for line in lines(runs, GOALS, Size()) if line.startswith("| ") and "---" not in line]
    assert [row.split(" | ")[0] for row in rows] == [
        *("| policy", "| random", "| **consilium**", "| consilium, β = 1"),
        *("| policy − random", "| **consilium**", "| consilium, β = 1"),
        *("| policy", "| consilium"),
        *("| policy", "| random", "| **consilium**", "| consilium, β = 1"),
    ]
    assert [row.count("|") for row in rows] == [14 + 1] * 4 + [9] * 3 + [6] * 2 + [4] * 4
