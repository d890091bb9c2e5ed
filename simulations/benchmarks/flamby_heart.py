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
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

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

FIRST_SEED: Final = 42

TEST_ROWS: Final = 254

NOTES: Final = """\
Accuracy of the final model, mean ± standard deviation over the seeds (divided by n, as published). A seed
  sets the start, which is that of FLamby's run with the same seed, and the batches, which are not FLamby's.
union: all test rows, scaled by the merged statistics of all train rows. centres: mean of the hospitals'
  accuracies, each scaled by its own train rows. Both are so in FLamby.
in SE: (ours - published) / standard error of one accuracy on 254 rows, about 2.6 points: what other patients
  would change. seed by seed: the same difference in patients; patients and starts are the same on both sides.
Columns: age, sex, trestbps, chol, fbs, thalach, exang, oldpeak, cp (3 dummies), restecg (2 dummies), which
  are scaled too. Rows with a gap are left out. Cut 66/34 in each hospital by scikit-learn's train_test_split,
  random_state 43, stratified except in Switzerland. Aggregation weights are numbers of train rows.
Model: two logits at half of these rates, which is FLamby's one logit step for step (fed_heart.py).
Not as in FLamby: a round starts a new pass over a hospital's rows, FLamby's goes on where the last one ended;
  deviations divide by n, not n - 1; a column that is constant in a hospital is divided by 1, not by 1e-9."""


@dataclass(frozen=True)
class Published:
    """What FLamby's result tables say.

    Attributes:
        correct: how many of the 254 test patients were told right, by seed from 42 on.
        centres: mean over seeds and hospitals of the accuracy.
    """

    correct: tuple[int, ...]
    centres: float


@dataclass(frozen=True)
class Row:
    """A method, how its train rows are scaled in FLamby, and what came of it there."""

    method: Method
    statistics: Statistics
    published: Published


_SCALINGS: Final[tuple[tuple[Statistics, Statistics, str], ...]] = (
    ("centre", "federated", "as FLamby has it"),
    ("federated", "federated", "as the scenario heart has it"),
    ("centre", "centre", ""),
)

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
    cuts = [f"{site} {len(party.train)}/{len(party.test)}" for site, party in parties.items()]
    yield f"Fed-Heart-Disease, train/test: {', '.join(cuts)}"
    yield ""
    heads = ("union", "published", "in SE", "centres", "published")
    yield _line("", heads, "seed by seed, patients")
    for row in rows:
        yield _against_published(row, results)
    yield ""
    yield from (f"{row.method.name:<20}{_settings(row)}" for row in rows)
    yield ""
    yield "Whose statistics scale the train and the test rows: accuracy on the union (mean of the hospitals)"
    federated = [row.method.name for row in rows if row.method.rule]
    yield _line("train, test", federated, "")
    for train, test, remark in _SCALINGS:
        cells = [_mean_of_both(results[name, train, test]) for name in federated]
        yield _line(f"{train}, {test}", cells, remark)
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
    yield Row(Method("pooled", spec), "federated", Published((201, 202, 202, 203, 202), 0.735))
    for centre, published in (
        ("cleveland", Published((198, 197, 201, 199, 201), 0.722)),
        ("hungarian", Published((182, 185, 190, 182, 184), 0.629)),
        ("switzerland", Published((133, 130, 114, 107, 129), 0.567)),
        ("va", Published((148, 149, 168, 147, 164), 0.637)),
    ):
        yield Row(Method(f"local {centre}", spec, centre=centre), "centre", published)


def _federated(rounds: int) -> Iterator[Row]:
    sgd = TrainSpec(optimizer="sgd", lr=1e-3, batch_size=4, local_steps=100)
    prox, fast = sgd.model_copy(update={"proximal_mu": 0.01}), sgd.model_copy(update={"lr": 1e-2})
    server = {"server_lr": 0.01, "beta1": 0.9, "beta2": 0.999, "tau": 1e-8}
    averaged = Published((191, 194, 194, 178, 193), 0.685)
    adapted = Published((197, 195, 198, 204, 195), 0.726)
    yield Row(Method("FedAvg", sgd, "fedavg", rounds=rounds), "centre", averaged)
    yield Row(Method("FedProx", prox, "fedavg", rounds=rounds), "centre", averaged)
    yield Row(Method("FedAdam", fast, "fedadam", server, rounds), "centre", adapted)


def _both() -> tuple[Statistics, ...]:
    return ("centre", "federated")


def _against_published(row: Row, results: Results) -> str:
    name, known = row.method.name, np.array(row.published.correct) / TEST_ROWS
    union_S = np.array([score.union for score in results[name, row.statistics, "federated"]])
    centres = np.mean([score.centres for score in results[name, row.statistics, "centre"]])
    standard_error = math.sqrt(known.mean() * (1 - known.mean()) / TEST_ROWS)
    cells = (
        f"{union_S.mean():.3f} ± {union_S.std():.3f}",
        f"{known.mean():.3f} ± {known.std():.3f}",
        f"{(union_S.mean() - known.mean()) / standard_error:+.2f}",
        f"{centres:.3f}",
        f"{row.published.centres:.3f}",
    )
    return _line(name, cells, _seed_by_seed(union_S, known))


def _seed_by_seed(ours_S: NDArray[np.float64], known_S: NDArray[np.float64]) -> str:
    both = min(len(ours_S), len(known_S))
    return " ".join(f"{round(d * TEST_ROWS):+d}" for d in ours_S[:both] - known_S[:both])


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
    return f"{local}{work}{proximal}{server}; scaling: {row.statistics}"


def _line(name: str, cells: Sequence[str], remark: str) -> str:
    return f"{name:<20}" + "".join(f"{cell:>16}" for cell in cells) + (f"   {remark}" if remark else "")


if __name__ == "__main__":
    main()
