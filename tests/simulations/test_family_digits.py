"""Whole runs of a family on moved digits: their groups are those that a person would make."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.benchmarks.family_digits import KNOWN, chance, collaboration, lines, rand_index
from simulations.simulate import Order, simulate


def test_the_rand_index_counts_pairs() -> None:
    """Of ten pairs, those on which both agree; by chance two thirds, since most pairs are apart in both."""
    assert rand_index(KNOWN, KNOWN) == 1.0
    assert rand_index([["digit", "parity", "across", "down", "coin"]], KNOWN) == pytest.approx(0.2)
    assert rand_index([["digit", "parity", "coin"], ["across"], ["down"]], KNOWN) == pytest.approx(0.7)
    assert chance() == pytest.approx(0.656)


def test_a_run_finds_the_known_groups(tmp_path: Path) -> None:
    """What and where are told apart by what the sites measured while all trained together."""
    made = collaboration(tmp_path / "digits.csv", 1, rounds=5, merge_rounds=4, groups=3)
    summary = simulate(made, Order("r", tmp_path, "local", baselines=False), lambda _: None)
    found = summary["decompositions"]["digits"]
    assert found["groups"] == [list(group) for group in KNOWN]
    figures = {"accuracy": dict.fromkeys(made.subtasks, 0.5), "bytes": 1e6, "simulated_s": 1.0}
    seed = {"seed": 1, "groups": found["groups"], "rand": 1.0}
    printed = lines([seed | {"arms": dict.fromkeys(("split", "merged", "apart"), figures)}])
    assert printed[2] == "| 1 | digit + parity \\| across + down \\| coin | 1.00 |"
