"""FLamby's Fed-Heart-Disease, run on Consilium's own parts, beside the published rows.

    python simulations/benchmarks/flamby_heart.py [--seeds 5]

Data: the four files of the scenario ``heart``. Cut, settings and published figures are FLamby's
at commit edacf54 (dataset.py, common.py, fed_benchmark.py, config_heart_disease.json and the five
result tables, seeds 42 to 46): Ogier du Terrail et al., "FLamby: Datasets and Benchmarks for
Cross-Silo Federated Learning in Realistic Healthcare Settings", NeurIPS 2022.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from protocol.messages import TrainSpec
from simulations.benchmarks.fed_heart import (
    Hospital,
    Method,
    Score,
    Statistics,
    fit,
    hospitals,
    scaled_test,
    scaled_train,
    score,
)

FIRST_SEED = 42

NOTES = """\
Accuracy of the final model; mean ± standard deviation over the seeds (divided by n, as published). A seed
  sets the start, which is FLamby's own for that seed, and the batches, which are other draws than FLamby's.
"union": all test rows, scaled by the merged statistics of all train rows. "centres": mean of the four
  hospitals' accuracies, each scaled by its own train rows. Published rows of FLamby mean the same.
"in SE": (ours - published) / standard error; "rows": of one accuracy on the union of test rows, i.e. what
  other patients would change (the patients here are the same on both sides); "seeds": of the difference of
  the two means over seeds, i.e. what other seeds would change.
Columns: age, sex, trestbps, chol, fbs, thalach, exang, oldpeak, cp (3 dummies), restecg (2 dummies); the
  dummies are scaled too. Rows with a gap are left out. Cut 66/34 in each hospital by scikit-learn's
  train_test_split, random_state 43, stratified except in Switzerland.
Model: two logits at half the rates below, which is FLamby's one logit step for step (see fed_heart.py).
Not as in FLamby: a round starts a new pass over a hospital's rows, FLamby's goes on where the last one
  ended; deviations divide by n, not n - 1; a column constant in a hospital is divided by 1, not by 1e-9."""


@dataclass(frozen=True)
class Published:
    """FLamby's accuracy on the union over five seeds, and its mean over hospitals."""

    mean: float
    sd: float
    centres: float
    seeds: int = 5


@dataclass(frozen=True)
class Row:
    """A method, how its train rows are scaled in FLamby, and what came of it there."""

    method: Method
    statistics: Statistics
    published: Published


Results = Mapping[tuple[str, Statistics, Statistics], Sequence[Score]]


def table(rounds: int = 15, epochs: int = 50) -> list[Row]:
    """Return FLamby's rows that Consilium has rules for; FedProx is FedAvg with μ."""
    return [*_single_party(epochs), *_federated(rounds)]


def run(rows: Sequence[Row], parties: Mapping[str, Hospital], seeds: Sequence[int]) -> Results:
    """Train each row with each seed, federated ones also on federated statistics.

    Returns:
        The scores in order of seed, by (method, statistics of the train rows, of the test rows).
    """
    train = {kind: scaled_train(parties, kind) for kind in _both()}
    test = {kind: scaled_test(parties, kind) for kind in _both()}
    found: dict[tuple[str, Statistics, Statistics], list[Score]] = {}
    for row in rows:
        for kind in _both() if row.method.rule else (row.statistics,):
            models = [fit(row.method, train[kind], seed) for seed in seeds]
            for other in _both():
                found[row.method.name, kind, other] = [score(arrays, test[other]) for arrays in models]
    return found


def lines(rows: Sequence[Row], results: Results, parties: Mapping[str, Hospital]) -> Iterator[str]:
    """Yield the report."""
    sizes = {site: (len(party.train), len(party.test)) for site, party in parties.items()}
    num_test = sum(test for _, test in sizes.values())
    yield "Fed-Heart-Disease, train/test: " + ", ".join(f"{s} {a}/{b}" for s, (a, b) in sizes.items())
    yield ""
    yield _line("row", ("union", "published", "in SE: rows", "seeds", "centres", "published"), "settings")
    for row in rows:
        yield _against_published(row, results, num_test)
    yield ""
    yield "Whose means and deviations scale the rows; union of test rows, in brackets the mean of four hospitals"
    scalings: tuple[tuple[Statistics, Statistics], ...] = (
        ("centre", "federated"),
        ("federated", "federated"),
        ("centre", "centre"),
    )
    yield _line("train, test", [row.method.name for row in rows if row.method.rule], "")
    for train, test in scalings:
        cells = [_mean_of_both(results[r.method.name, train, test]) for r in rows if r.method.rule]
        yield _line(f"{train}, {test}", cells, "as in FLamby" if (train, test) == scalings[0] else "")
    yield ""
    yield NOTES


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the report."""
    parser = argparse.ArgumentParser(description="FLamby's Fed-Heart-Disease beside the published rows.")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 42 on (default: 5)")
    count = max(parser.parse_args(arguments).seeds, 1)
    torch.set_num_threads(1)  # a model of 14 parameters gains nothing from more
    rows, parties = table(), hospitals()
    results = run(rows, parties, range(FIRST_SEED, FIRST_SEED + count))
    print("\n".join(lines(rows, results, parties)))


def _single_party(epochs: int) -> Iterator[Row]:
    spec = TrainSpec(optimizer="adam", lr=1e-3, batch_size=4, local_epochs=epochs)
    yield Row(Method("pooled", spec), "federated", Published(0.795, 0.002, 0.735))
    for centre, published in (
        ("cleveland", Published(0.784, 0.006, 0.722)),
        ("hungarian", Published(0.727, 0.012, 0.629)),
        ("switzerland", Published(0.483, 0.040, 0.567)),
        ("va", Published(0.611, 0.035, 0.637)),
    ):
        yield Row(Method(f"local {centre}", spec, centre=centre), "centre", published)


def _federated(rounds: int) -> Iterator[Row]:
    sgd = TrainSpec(optimizer="sgd", lr=1e-3, batch_size=4, local_steps=100)
    prox, fast = sgd.model_copy(update={"proximal_mu": 0.01}), sgd.model_copy(update={"lr": 1e-2})
    server = {"server_lr": 0.01, "beta1": 0.9, "beta2": 0.999, "tau": 1e-8}
    averaged = Published(0.748, 0.024, 0.685)
    yield Row(Method("FedAvg", sgd, "fedavg", rounds=rounds), "centre", averaged)
    yield Row(Method("FedProx", prox, "fedavg", rounds=rounds), "centre", averaged)
    yield Row(Method("FedAdam", fast, "fedadam", server, rounds), "centre", Published(0.779, 0.013, 0.726))


def _both() -> tuple[Statistics, ...]:
    return ("centre", "federated")


def _against_published(row: Row, results: Results, num_test: int) -> str:
    known, name = row.published, row.method.name
    union_S = np.array([s.union for s in results[name, row.statistics, "federated"]])
    centres = np.mean([s.centres for s in results[name, row.statistics, "centre"]])
    difference = float(union_S.mean()) - known.mean
    of_rows = math.sqrt(known.mean * (1 - known.mean) / num_test)
    cells = (
        f"{union_S.mean():.3f} ± {union_S.std():.3f}",
        f"{known.mean:.3f} ± {known.sd:.3f}",
        f"{difference / of_rows:+.1f}",
        _in_errors_of_seeds(difference, union_S.std(), len(union_S), known),
        f"{centres:.3f}",
        f"{known.centres:.3f}",
    )
    return _line(name, cells, _settings(row))


def _in_errors_of_seeds(difference: float, sd: float, seeds: int, known: Published) -> str:
    if seeds < 2:
        return "-"
    # A standard deviation that divides by n has its standard error over n - 1.
    error = math.sqrt(sd**2 / (seeds - 1) + known.sd**2 / (known.seeds - 1))
    return f"{difference / error:+.1f}"


def _mean_of_both(scores: Sequence[Score]) -> str:
    return f"{np.mean([s.union for s in scores]):.3f} ({np.mean([s.centres for s in scores]):.3f})"


def _settings(row: Row) -> str:
    method, spec = row.method, row.method.spec
    local = f"{spec.optimizer} lr {spec.lr:g}, batch {spec.batch_size}, "
    if method.rule is None:
        return f"{local}{spec.local_epochs} epochs; scaling: {row.statistics}"
    proximal = f", μ {spec.proximal_mu:g}" if spec.proximal_mu else ""
    server = "".join(f", {name} {value:g}" for name, value in method.options.items())
    work = f"{method.rounds} rounds x {spec.local_steps} updates"
    return f"{local}{work}{proximal}{server}, weights: train rows; scaling: {row.statistics}"


def _line(name: str, cells: Sequence[str], remark: str) -> str:
    return f"{name:<20}" + "".join(f"{cell:>15}" for cell in cells) + (f"   {remark}" if remark else "")


if __name__ == "__main__":
    main()
