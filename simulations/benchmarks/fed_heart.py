"""FLamby's Fed-Heart-Disease as a task: its 13 columns, its cut, its logistic model, Consilium's parts.

One model in two writings: FLamby has one logit and a sigmoid, Consilium two logits and a softmax.
Started at (-d/2, d/2) the two stay opposite, and their difference d takes FLamby's steps if the
learning rates are halved (both logits move), μ is doubled and τ halved: ``Method.two_logits``.
A start depends on the seed alone, and for one seed it is the very start of FLamby's runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from collab import metrics
from collab.aggregation.accumulate import Accumulator
from collab.data.examples import Examples, of_table
from collab.data.formats import load as load_rows
from collab.data.preprocess import Preprocessing, measure, merge
from collab.kinds.tabular_classification import KIND
from collab.models.contract import build, from_arrays, to_arrays
from collab.plugins import load
from collab.rng import generator
from collab.settings import parse, parse_toml, read_text
from collab.training import Rows, predict, train
from protocol.arrays import Arrays
from protocol.messages import TrainSpec

SCENARIO = Path(__file__).resolve().parents[1] / "scenarios" / "heart.toml"
TRAIN_SHARE, SPLIT_SEED = 0.66, 43

Statistics = Literal["centre", "federated"]


@dataclass(frozen=True)
class Hospital:
    """A centre's rows, cut as FLamby cuts them."""

    train: Examples
    test: Examples


@dataclass(frozen=True)
class Score:
    """Accuracy on the union of all test rows, and the mean of the hospitals' accuracies."""

    union: float
    centres: float


@dataclass(frozen=True)
class Method:
    """How one row of the table trains, in FLamby's units: rates are those of its one logit.

    Attributes:
        name: of the row.
        spec: training at one party; epochs and updates count per round, or in all without rounds.
        rule: the aggregation, or None: one party trains alone.
        options: of the rule.
        rounds: of the rule.
        centre: which hospital trains alone; None: all hospitals.
    """

    name: str
    spec: TrainSpec
    rule: str | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 1
    centre: str | None = None

    def two_logits(self) -> Method:
        """Return the settings under which the difference of two logits takes the steps of one."""
        factor = {"server_lr": 0.5, "tau": 0.5}
        options = {name: value * factor.get(name, 1.0) for name, value in self.options.items()}
        scaled_spec = {"lr": self.spec.lr / 2, "proximal_mu": self.spec.proximal_mu * 2}
        return replace(self, spec=self.spec.model_copy(update=scaled_spec), options=options)


def hospitals(base: Path | None = None) -> dict[str, Hospital]:
    """Read the data block of the scenario ``heart`` and cut 66/34 as FLamby does.

    Args:
        base: the folder that holds ``heart_disease/``; None: see ``collab.data.locate``.

    Raises:
        DataError: a file is nowhere to be found.
    """
    terms = parse(parse_toml(read_text(SCENARIO), SCENARIO.name), SCENARIO.name)
    subtask = terms.subtasks["heart"]
    examples, _ = load_rows(terms.data["heart"], subtask.labels, KIND.output, KIND.inputs, base)
    rows = _dummies(examples)
    site_N = np.asarray(examples.site_N)
    return {site: _cut(rows.take(site_N == site)) for site in terms.sites_of("heart")}


def scaled_train(parties: Mapping[str, Hospital], statistics: Statistics) -> dict[str, Rows]:
    """Return the train rows, scaled by each hospital's own train rows or by all hospitals' merged."""
    fitted = _fitted(parties, statistics)
    return {site: _rows(party.train, fitted[site]) for site, party in parties.items()}


def scaled_test(parties: Mapping[str, Hospital], statistics: Statistics) -> dict[str, Rows]:
    """Return the test rows, scaled by each hospital's own train rows or by all hospitals' merged."""
    fitted = _fitted(parties, statistics)
    return {site: _rows(party.test, fitted[site]) for site, party in parties.items()}


def initial(seed: int, num_features: int) -> dict[str, NDArray[Any]]:
    """Return the two logits (-d/2, d/2), d being the one logit that FLamby starts from."""
    one = to_arrays(build("linear", (num_features,), 1, seed))
    return {name: np.concatenate([-d / 2, d / 2]) for name, d in one.items()}


def fit(method: Method, rows: Mapping[str, Rows], seed: int) -> dict[str, NDArray[Any]]:
    """Train on each hospital's ``rows`` as ``method`` says; return the final arrays."""
    arrays = initial(seed, _num_features(rows))
    method = method.two_logits()
    if method.rule is not None:
        return _federate(method, arrays, rows, seed)
    chosen = [rows[method.centre]] if method.centre else list(rows.values())
    pooled = Rows(torch.cat([r.x for r in chosen]), torch.cat([r.y for r in chosen]))
    return _trained(arrays, pooled, method.spec, generator(seed, method.name, "batches"))


def score(arrays: Arrays, rows: Mapping[str, Rows]) -> Score:
    """Return the accuracies of ``arrays`` on ``rows``, from statistics that merge."""
    module = build("linear", (_num_features(rows),), 2, 0)
    from_arrays(module, arrays)
    parts = [
        metrics.classification_statistics(predict(module, r.x, KIND), r.y.numpy()) for r in rows.values()
    ]
    centres = [metrics.summarise(part)["accuracy"] for part in parts]
    return Score(metrics.summarise(metrics.merge(parts))["accuracy"], float(np.mean(centres)))


def _dummies(rows: Examples) -> Examples:
    """Return categories as numbers 0 and 1, without the first of each, to be scaled like the others."""
    found = measure(rows)
    encoding = Preprocessing(
        numeric_names=found.numeric_names,
        mean=(0.0,) * len(found.numeric_names),
        scale=(1.0,) * len(found.numeric_names),
        categorical_names=found.categorical_names,
        categories=tuple(known[1:] for known in found.categories),
        image_shape=None,
    )
    return of_table(encoding.transform(rows).astype(np.float64), encoding.feature_names, rows.y)


def _cut(rows: Examples) -> Hospital:
    # FLamby stratifies unless a class has at most two patients: Switzerland has one healthy.
    stratify = rows.y if np.bincount(rows.y, minlength=2).min() > 2 else None
    train_rows, test_rows = train_test_split(
        np.arange(len(rows)),
        train_size=TRAIN_SHARE,
        test_size=1 - TRAIN_SHARE,
        random_state=SPLIT_SEED,
        stratify=stratify,
    )
    return Hospital(rows.take(np.sort(train_rows)), rows.take(np.sort(test_rows)))


def _fitted(parties: Mapping[str, Hospital], statistics: Statistics) -> dict[str, Preprocessing]:
    own = {site: measure(party.train) for site, party in parties.items()}
    if statistics == "federated":
        return dict.fromkeys(own, Preprocessing.fit(merge(list(own.values()))))
    return {site: Preprocessing.fit(found) for site, found in own.items()}


def _rows(examples: Examples, preprocessing: Preprocessing) -> Rows:
    return Rows(torch.as_tensor(preprocessing.transform(examples)), KIND.target(examples.y))


def _num_features(rows: Mapping[str, Rows]) -> int:
    return int(next(iter(rows.values())).x.shape[1])


def _federate(
    method: Method, arrays: dict[str, NDArray[Any]], rows: Mapping[str, Rows], seed: int
) -> dict[str, NDArray[Any]]:
    rule = load("aggregation", str(method.rule))
    state = rule.init(arrays, **method.options)
    for round_ in range(1, method.rounds + 1):
        accumulator = Accumulator(arrays)
        for site, own in rows.items():
            rng = generator(seed, round_, site, "batches")
            accumulator.add(_trained(arrays, own, method.spec, rng), len(own))
        arrays, state = rule.apply(arrays, accumulator.mean(), state, **method.options)
    return arrays


def _trained(
    arrays: Arrays, rows: Rows, spec: TrainSpec, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    module = build("linear", tuple(rows.x.shape[1:]), 2, 0)
    from_arrays(module, arrays)
    train(module, rows, KIND, spec, rng)
    return to_arrays(module)
