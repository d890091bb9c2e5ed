"""Metrics: statistics that merge, and the figures that scikit-learn gives on the union of rows."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from collab import metrics
from protocol.arrays import check
from protocol.errors import ArraysError, ConfigError, DataError


def _draw(seed: int, rows: int, classes: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    y_N = rng.integers(classes, size=rows)
    logits_NC = rng.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[y_N]
    probabilities_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    return probabilities_NC, y_N


@settings(deadline=None, derandomize=True, max_examples=50)
@given(seed=st.integers(0, 2**32), classes=st.integers(2, 5), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_merged_parts_are_the_whole(seed: int, classes: int, cuts: list[int]) -> None:
    """Statistics of parts, empty ones too, add up to the statistics of the union, in both outputs."""
    probabilities_NC, y_N = _draw(seed, 40, classes)
    bounds = [0, *sorted(cuts), 40]
    for compute, outputs in (
        (metrics.classification_statistics, probabilities_NC),
        (metrics.regression_statistics, probabilities_NC[:, 0]),
    ):
        parts = [compute(outputs[a:b], y_N[a:b]) for a, b in pairwise(bounds)]
        merged, whole = metrics.merge(parts), compute(outputs, y_N)
        for name in whole:
            np.testing.assert_allclose(merged[name], whole[name], rtol=1e-12)
        assert metrics.summarise(merged) == pytest.approx(metrics.summarise(whole), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_classification_equals_scikit_learn(classes: int) -> None:
    """Every figure is scikit-learn's on the same rows; AUROC, being binned, within 2e-3."""
    probabilities_NC, y_N = _draw(3, 3000, classes)
    found = metrics.summarise(metrics.classification_statistics(probabilities_NC, y_N))
    predicted_N = probabilities_NC.argmax(axis=1)
    one_vs_rest = np.mean([sk.roc_auc_score(y_N == c, probabilities_NC[:, c]) for c in range(classes)])
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y_N, predicted_N), abs=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(y_N, predicted_N), abs=1e-12
    )
    assert found["f1"] == pytest.approx(sk.f1_score(y_N, predicted_N, average="macro"), abs=1e-12)
    assert found["log_loss"] == pytest.approx(sk.log_loss(y_N, probabilities_NC), abs=1e-12)
    assert found["auroc"] == pytest.approx(one_vs_rest, abs=2e-3)
    assert found.keys() == set(metrics.METRICS["classification"])


def test_regression_equals_scikit_learn() -> None:
    """RMSE, MAE and R² are scikit-learn's on the same rows."""
    rng = np.random.default_rng(5)
    y_N = rng.normal(150, 77, 400)
    predictions_N = y_N + rng.normal(3, 50, 400)
    found = metrics.summarise(metrics.regression_statistics(predictions_N, y_N))
    expected = {
        "rmse": sk.root_mean_squared_error(y_N, predictions_N),
        "mae": sk.mean_absolute_error(y_N, predictions_N),
        "r2": sk.r2_score(y_N, predictions_N),
    }
    assert found == pytest.approx(expected, rel=1e-10)


def test_ece_equals_the_definition_bin_by_bin() -> None:
    """ECE is the mean over 15 equal bins of |accuracy − confidence|, weighted by the bins' counts."""
    probabilities_NC, y_N = _draw(11, 500, 3)
    confidence_N, correct_N = probabilities_NC.max(axis=1), probabilities_NC.argmax(axis=1) == y_N
    expected = 0.0
    for low in np.arange(15) / 15:
        inside_N = (confidence_N > low) & (confidence_N <= low + 1 / 15)
        if inside_N.any():
            expected += inside_N.mean() * abs(correct_N[inside_N].mean() - confidence_N[inside_N].mean())
    found = metrics.summarise(metrics.classification_statistics(probabilities_NC, y_N))
    assert found["ece"] == pytest.approx(expected, abs=1e-12)


def test_auroc_ties_count_half() -> None:
    """A model that scores all alike has an AUROC of exactly 1/2."""
    statistics = metrics.classification_statistics(np.full((10, 2), 0.5), np.arange(10) % 2)
    assert metrics.summarise(statistics)["auroc"] == 0.5


def test_certain_and_impossible_probabilities_stay_finite() -> None:
    """Probabilities of exactly 0 and 1 give finite figures; one certain error costs −log of the floor."""
    probabilities_NC = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    found = metrics.summarise(metrics.classification_statistics(probabilities_NC, np.array([0, 1])))
    assert all(math.isfinite(value) for value in found.values())
    assert found["log_loss"] == pytest.approx(-math.log(metrics.PROBABILITY_FLOOR) / 2)


@pytest.mark.parametrize("output", ["classification", "regression"])
def test_undefined_is_left_out(output: str) -> None:
    """One class leaves out AUROC, a constant target R², no rows everything; nothing is ever NaN."""
    if output == "classification":
        one_class = metrics.classification_statistics(np.full((4, 2), 0.5), np.zeros(4, int))
        nothing, missing = metrics.classification_statistics(np.empty((0, 2)), np.empty(0, int)), "auroc"
    else:
        one_class = metrics.regression_statistics(np.arange(4.0), np.full(4, 0.1))
        nothing, missing = metrics.regression_statistics(np.empty(0), np.empty(0)), "r2"
    assert metrics.summarise(one_class).keys() == set(metrics.METRICS[output]) - {missing}
    assert metrics.summarise(nothing) == metrics.summarise(metrics.merge([])) == {}
    check(nothing, metrics.statistics_spec(output, classes=2))
    check(one_class, metrics.statistics_spec(output, classes=2))


def test_standard_error_is_that_of_the_mean() -> None:
    """The mean and standard error from sums are those of the values themselves."""
    probabilities_NC, y_N = _draw(7, 200, 3)
    statistics = metrics.classification_statistics(probabilities_NC, y_N)
    loss_N = -np.log(probabilities_NC[np.arange(200), y_N])
    hits_N = (probabilities_NC.argmax(axis=1) == y_N).astype(float)
    for metric, values_N in (("log_loss", loss_N), ("accuracy", hits_N)):
        expected = (values_N.mean(), values_N.std(ddof=1) / math.sqrt(200))
        assert metrics.mean_and_se(statistics, metric) == pytest.approx(expected)
    errors_N = (probabilities_NC[:, 0] - y_N) ** 2
    expected = (errors_N.mean(), errors_N.std(ddof=1) / math.sqrt(200))
    regression = metrics.regression_statistics(probabilities_NC[:, 0], y_N)
    assert metrics.mean_and_se(regression, "rmse") == pytest.approx(expected)


def test_one_example_concludes_nothing_and_none_is_refused() -> None:
    """The standard error of one example is infinite; of none there is no mean."""
    one = metrics.regression_statistics(np.ones(1), np.zeros(1))
    assert metrics.mean_and_se(one, "rmse") == (1.0, math.inf)
    with pytest.raises(DataError, match="no examples"):
        metrics.mean_and_se(metrics.regression_statistics(np.empty(0), np.empty(0)), "rmse")
    with pytest.raises(ConfigError, match="r2"):
        metrics.mean_and_se(one, "r2")
    with pytest.raises(ConfigError, match="mean per example"):
        metrics.mean_and_se({"num_examples": np.ones(1)}, "rmse")


def test_better_follows_the_metric() -> None:
    """Lower is better exactly for the losses; equal is never better; an unknown name is refused."""
    for metric in (name for names in metrics.METRICS.values() for name in names):
        lower = metric in metrics.LOWER_IS_BETTER
        assert metrics.is_better(metric, 0.1, 0.2) is lower
        assert metrics.is_better(metric, 0.2, 0.1) is not lower
        assert not metrics.is_better(metric, 0.1, 0.1)
    with pytest.raises(ConfigError, match="did you mean 'log_loss'"):
        metrics.is_better("logloss", 0.0, 1.0)


@pytest.mark.parametrize(
    ("outputs", "targets", "error"),
    [
        (np.full((2, 2), 0.5), np.zeros(3, int), ArraysError),
        (np.full((2, 2), np.nan), np.zeros(2, int), ArraysError),
        (np.full((2, 2), 0.5), np.array([0, 2]), DataError),
        (np.full((2, 2), 0.5), np.array([-1, 0]), DataError),
        (np.full((2, 2), 0.5), np.array([0.0, 1.0]), DataError),
    ],
)
def test_bad_classification_input_is_refused(
    outputs: NDArray[Any], targets: NDArray[Any], error: type[Exception]
) -> None:
    """Shapes that do not match, NaN, and labels that are no class are errors, not figures."""
    with pytest.raises(error):
        metrics.classification_statistics(outputs, targets)


def test_bad_regression_input_and_foreign_statistics_are_refused() -> None:
    """A shape that would broadcast, NaN, other names in a merge and an unknown output are errors."""
    with pytest.raises(ArraysError):
        metrics.regression_statistics(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ArraysError, match="NaN"):
        metrics.regression_statistics(np.zeros(2), np.array([0.0, np.nan]))
    with pytest.raises(ArraysError):
        metrics.merge([metrics.regression_statistics(np.zeros(1), np.zeros(1)), {"n": np.zeros(1)}])
    with pytest.raises(ConfigError, match="regression"):
        metrics.statistics_spec("regresion", 2)


def test_merge_changes_no_input() -> None:
    """Merging leaves what it was given as it was."""
    first, second = (metrics.regression_statistics(np.ones(2), np.zeros(2)) for _ in range(2))
    metrics.merge([first, second])
    assert metrics.num_examples(first) == metrics.num_examples(second) == 2


def test_the_moments_of_a_target_follow_from_merged_sums() -> None:
    """Mean and standard deviation of all rows, whatever site each is at; None where nothing varies."""
    y_N = np.array([1.0, 2.0, 4.0, 7.0])
    parts = [metrics.regression_statistics(np.zeros(2), part) for part in (y_N[:2], y_N[2:])]
    found = metrics.target_moments(metrics.merge(parts))
    assert found == pytest.approx((y_N.mean(), y_N.std()))
    assert metrics.target_moments(metrics.regression_statistics(np.zeros(3), np.full(3, 5.0))) is None
    assert metrics.target_moments(metrics.regression_statistics(np.zeros(1), np.ones(1))) is None
    classes = metrics.classification_statistics(np.full((2, 2), 0.5), np.array([0, 1]))
    assert metrics.target_moments(classes) is None
