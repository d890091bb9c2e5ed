"""Whatever step of its journal a run is killed at, it ends with the bits that it has undisturbed.

The whole of it, every step of the run in ``simulations.chaos.journal``, is ``make chaos``; here some steps of
that run are tried, and of runs whose learners keep other things.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simulations.chaos.journal import TABLES, Proof
from tests.chain_cases import two
from tests.family_cases import family
from tests.small import SOFT_LABELS, WEIGHTS, Tables, sites, tables

MLP = {**WEIGHTS, "models": ["mlp_small"]}


def prove(tmp_path: Path, made: Tables, every: int, faults: tuple[str, ...] = ()) -> None:
    """Fail some steps of a run, and ask for nothing but success."""
    proof = Proof(tmp_path, made, every, faults)  # type: ignore[arg-type]
    found = proof.run()
    assert found.failures == []
    assert found.folders >= 3


def test_some_steps_killed_or_failed(tmp_path: Path) -> None:
    """Killed before and after, the power cut, the disk full or broken: the models are the same."""
    prove(tmp_path, dict(TABLES), 37, ("ENOSPC", "short", "EIO after"))


OTHERS: dict[str, Callable[[Path], Tables]] = {
    "adaptive": lambda _: tables({"iris": {**WEIGHTS, "aggregation": "fedadam"}}, rounds=2),
    "robust": lambda _: tables({"iris": {**WEIGHTS, "aggregation": "median"}}, rounds=2),
    "normal equations": lambda _: tables({"iris": {**WEIGHTS, "aggregation": "normal_equations"}}),
    "quantised": lambda _: tables({"iris": {**MLP, "wire": "int8_delta"}}, rounds=2),
    "personal": lambda _: tables({"iris": {**MLP, "personal": "ditto"}}, rounds=2),
    "prototypes": lambda _: tables({"iris": {**MLP, "exchange": "prototypes"}}, rounds=2),
    "votes": lambda _: tables({"iris": WEIGHTS}, rounds=2, allocation={"policy": "vote"}),
    "top k": lambda _: tables({"iris": {**SOFT_LABELS, "wire": "topk"}}, rounds=2),
    "late and lost": lambda _: tables(
        {"iris": WEIGHTS},
        rounds=3,
        coordination={"quorum": 0.5, "grace_s": 0.0, "deadline_s": 5, "min_coverage": 0.0, "join_s": 1},
        sites=sites(alpha={"examples_per_s": 10}, beta={"dropout": 0.4}),
    ),
    "family": lambda folder: family(folder, rounds=3),
    "chain": lambda folder: two(folder, rounds=3),
}


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_a_learner_keeps_comes_back(name: str, tmp_path: Path) -> None:
    """What an aggregation changed is taken from the journal, and the run goes on from there."""
    (tmp_path / "data").mkdir()
    prove(tmp_path, OTHERS[name](tmp_path / "data"), 101)
