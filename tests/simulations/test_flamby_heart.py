"""FLamby's Fed-Heart: its cut, its scalings and its one logit, on made-up patients and on the real ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from collab.aggregation.accumulate import Accumulator
from collab.data.locate import DATA_VARIABLE, ORIGINS
from collab.plugins import load
from collab.rng import generator
from collab.settings import parse, parse_toml, read_text
from collab.training import Rows, batches
from protocol.messages import TrainSpec
from simulations.benchmarks.fed_heart import (
    SCENARIO,
    Hospital,
    Method,
    fit,
    hospitals,
    initial,
    scaled_test,
    scaled_train,
    score,
)
from simulations.benchmarks.flamby_heart import lines, run, table

SIZES = {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}
# Of each hospital: healthy and sick patients without a gap, and patients with one.
PATIENTS = {
    "cleveland": (164, 139, 0),
    "hungarian": (163, 98, 33),
    "switzerland": (1, 45, 77),
    "va": (29, 101, 70),
}

HERE = Path(os.environ.get(DATA_VARIABLE) or "") / "heart_disease" / "processed.cleveland.data"
needs_data = pytest.mark.skipif(
    not os.environ.get(DATA_VARIABLE) or not HERE.is_file(),
    reason=f"the UCI files are not under {DATA_VARIABLE}",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Train on one thread, as the benchmark does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Hospital]:
    """Made-up patients, as many in each hospital as in the UCI files."""
    base = tmp_path_factory.mktemp("data")
    (base / "heart_disease").mkdir()
    for site, counts in PATIENTS.items():
        text = "\n".join(_patients(*counts, generator(0, site)))
        (base / "heart_disease" / f"processed.{site}.data").write_text(text, encoding="utf-8")
    return hospitals(base)


def _patients(healthy: int, sick: int, gaps: int, rng: np.random.Generator) -> list[str]:
    grades = [0] * healthy + rng.integers(1, 5, size=sick + gaps).tolist()
    found = []
    for i, grade in enumerate(grades):
        blood = "?" if i >= healthy + sick else f"{rng.normal(130 + 5 * grade, 15):.0f}"
        known = f"{rng.normal(54, 9):.0f},{rng.integers(2)},{rng.integers(1, 5)}.0,{blood}"
        more = f"{rng.normal(220, 40):.0f},{rng.integers(2)},{rng.integers(3)},{rng.normal(140, 20):.0f}"
        found.append(f"{known},{more},{rng.integers(2)},{abs(rng.normal(grade)):.1f},?,?,?,{grade}")
    return [found[i] for i in rng.permutation(len(found))]


def _assert_flambys_cut(parties: Mapping[str, Hospital]) -> None:
    assert {site: (len(p.train), len(p.test)) for site, p in parties.items()} == SIZES
    assert all(len(p.train.numeric_names) == 13 for p in parties.values())


def test_the_cut_has_flambys_sizes(made_up: Mapping[str, Hospital]) -> None:
    """Patients with a gap are left out, the others become 13 columns, cut as FLamby cuts them."""
    _assert_flambys_cut(made_up)


def test_every_file_of_the_scenario_has_an_origin() -> None:
    """Whoever has no data folder gets each file of the scenario from UCI."""
    files = parse(parse_toml(read_text(SCENARIO), SCENARIO.name), SCENARIO.name).data["heart"].files
    assert set((files or {}).values()) <= set(ORIGINS)


def test_federated_statistics_are_those_of_all_train_rows(made_up: Mapping[str, Hospital]) -> None:
    """Scaled by merged statistics, the union of train rows has mean 0 and deviation 1 in every column."""
    x_NF = torch.cat([rows.x for rows in scaled_train(made_up, "federated").values()]).double()
    torch.testing.assert_close(x_NF.mean(dim=0), torch.zeros(13).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(x_NF.std(dim=0, correction=0), torch.ones(13).double(), rtol=0, atol=1e-5)


def test_a_centres_statistics_are_those_of_its_own_train_rows(made_up: Mapping[str, Hospital]) -> None:
    """Scaled per centre, each hospital's train rows have mean 0 in every column, and its test rows not."""
    for site, rows in scaled_train(made_up, "centre").items():
        torch.testing.assert_close(rows.x.mean(dim=0), torch.zeros(13), rtol=0, atol=1e-5)
        assert scaled_test(made_up, "centre")[site].x.mean(dim=0).abs().max() > 1e-3


@pytest.mark.parametrize(
    "method",
    [
        Method("sgd", TrainSpec(lr=0.1, batch_size=4, local_steps=7), "fedavg", rounds=2),
        Method("prox", TrainSpec(lr=0.1, batch_size=4, local_steps=7, proximal_mu=0.5), "fedavg", rounds=2),
        Method("adam", TrainSpec(optimizer="adam", lr=0.01, batch_size=4, local_epochs=2), "fedavg"),
        Method(
            "server",
            TrainSpec(lr=0.1, batch_size=4, local_steps=7),
            "fedadam",
            {"server_lr": 0.01, "beta1": 0.9, "beta2": 0.999, "tau": 1e-3},
            rounds=3,
        ),
    ],
    ids=lambda method: method.name,
)
def test_two_logits_are_flambys_one_logit(method: Method, made_up: Mapping[str, Hospital]) -> None:
    """The difference of the two logits is what one logit with a sigmoid gets at FLamby's rates."""
    rows = scaled_train(made_up, "centre")
    two = fit(method, rows, seed=42)
    one = _one_logit(method, rows, seed=42)
    for name, expected in one.items():
        np.testing.assert_allclose(two[name][1:] - two[name][:1], expected, rtol=0, atol=1e-5)


def _one_logit(method: Method, rows: Mapping[str, Rows], seed: int) -> dict[str, NDArray[Any]]:
    """Train a sigmoid on one logit, as FLamby does, with the batches that ``fit`` draws."""
    torch.manual_seed(seed)
    first = torch.nn.Linear(13, 1)
    arrays = {"1.weight": first.weight.detach().numpy(), "1.bias": first.bias.detach().numpy()}
    rule = load("aggregation", str(method.rule))
    state = rule.init(arrays, **method.options)
    for round_ in range(1, method.rounds + 1):
        accumulator = Accumulator(arrays)
        for site, own in rows.items():
            rng = generator(seed, round_, site, "batches")
            accumulator.add(_one_logit_at(arrays, own, method.spec, rng), len(own))
        arrays, state = rule.apply(arrays, accumulator.mean(), state, **method.options)
    return arrays


def _one_logit_at(
    arrays: Mapping[str, NDArray[Any]], rows: Rows, spec: TrainSpec, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    start = {name: torch.as_tensor(array.copy()) for name, array in arrays.items()}
    now = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizers = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    optimizer: torch.optim.Optimizer = optimizers[spec.optimizer](now.values(), lr=spec.lr)
    for index in batches(len(rows), spec, rng):
        probability_N = torch.sigmoid(rows.x[index] @ now["1.weight"][0] + now["1.bias"])
        loss = torch.nn.functional.binary_cross_entropy(probability_N, rows.y[index].float())
        for name, value in now.items():
            loss = loss + spec.proximal_mu / 2 * (value - start[name]).square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: value.detach().numpy() for name, value in now.items()}


def test_the_union_counts_rows_and_the_centres_count_hospitals(made_up: Mapping[str, Hospital]) -> None:
    """A model that calls everybody sick is as right as sick patients are frequent, by row and by hospital."""
    arrays = {name: np.zeros_like(array) for name, array in initial(0, 13).items()}
    arrays["1.bias"][1] = 1.0
    found = score(arrays, scaled_test(made_up, "federated"))
    sick = {site: float(party.test.y.mean()) for site, party in made_up.items()}
    total = sum(sick[site] * SIZES[site][1] for site in sick)
    assert found.union == pytest.approx(total / 254)
    assert found.centres == pytest.approx(np.mean(list(sick.values())))


def test_a_short_run_reports_every_row(made_up: Mapping[str, Hospital]) -> None:
    """One seed, one round and one epoch give a line for each row, and for each of the three scalings."""
    rows = table(rounds=1, epochs=1)
    report = list(lines(rows, run(rows, made_up, [42]), made_up))
    assert report[0].endswith("cleveland 199/104, hungarian 172/89, switzerland 30/16, va 85/45")
    starts = [row.method.name for row in rows]
    starts += ["centre, federated", "federated, federated", "centre, centre"]
    for start in starts:
        assert any(line.startswith(start) for line in report)


@needs_data
def test_the_uci_files_have_flambys_sizes() -> None:
    """The real files are cut into FLamby's 199/104, 172/89, 30/16 and 85/45."""
    _assert_flambys_cut(hospitals())


@needs_data
def test_fedavg_tells_flambys_patients_right() -> None:
    """FedAvg from FLamby's start of seed 42 is right for 191 of 254 patients, as published, or nearly."""
    parties = hospitals()
    row = next(row for row in table() if row.method.name == "FedAvg")
    arrays = fit(row.method, scaled_train(parties, row.statistics), seed=42)
    found = score(arrays, scaled_test(parties, "federated"))
    assert abs(round(found.union * 254) - row.published.correct[0]) <= 2
