"""The objective over subtasks, its weights, and the drift alarm on its losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab import metrics
from collab.drift import PageHinkley
from collab.objective import (
    WORST,
    WORST_WAY,
    constant_metrics,
    fair_weight,
    is_there,
    relative_losses,
    smoothed,
    to_go,
    total,
    worth_of,
)


@given(st.floats(0.01, 2), st.floats(1, 8))
@settings(deadline=None, max_examples=60)
def test_the_weight_is_the_derivative_of_the_objective(loss: float, alpha: float) -> None:
    """d/df Σ λ f^α = α λ f^(α-1): a finite difference agrees with the weight."""
    step = 1e-6
    slope = (total({"k": 1.0}, {"k": loss + step}, alpha) - total({"k": 1.0}, {"k": loss - step}, alpha)) / (
        2 * step
    )
    assert slope == pytest.approx(alpha * fair_weight(loss, alpha), rel=1e-3, abs=1e-6)


def test_alpha_one_is_the_plain_sum_and_a_large_one_is_the_worst() -> None:
    """Σ λ f for α = 1; for α → ∞ the α-th root tends to the maximum."""
    losses, importances = {"a": 0.2, "b": 0.8}, {"a": 2.0, "b": 1.0}
    assert total(importances, losses, 1.0) == pytest.approx(1.2)
    assert total(importances, losses, 100.0) ** (1 / 100) == pytest.approx(0.8, rel=0.02)


def test_the_constant_answer_has_relative_loss_one() -> None:
    """Class frequencies, and the mean, have f = 1; a perfect answer has f near 0."""
    y_N = np.array([0, 0, 0, 1])
    constant = metrics.classification_statistics(np.tile([0.75, 0.25], (4, 1)), y_N)
    assert relative_losses(constant, {"north": constant})[0] == pytest.approx(1.0)
    right = metrics.classification_statistics(np.eye(2)[y_N], y_N)
    assert relative_losses(right, {})[0] == pytest.approx(0.0, abs=1e-6)
    y_N = np.array([1.0, 2.0, 6.0])
    mean = metrics.regression_statistics(np.full(3, 3.0), y_N)
    assert relative_losses(mean, {"s": mean}) == (pytest.approx(1.0), {"s": pytest.approx(1.0)})


def test_one_label_everywhere_has_a_reference_too() -> None:
    """Rows of one class, or of one value, divide by no zero; a model that diverged is bounded."""
    one = metrics.classification_statistics(np.array([[0.5, 0.5]] * 3), np.zeros(3, int))
    assert relative_losses(one, {})[0] == pytest.approx(1.0)
    wild = metrics.regression_statistics(np.array([1e6, -1e6]), np.array([3.0, 3.0]))
    assert relative_losses(wild, {"s": wild}) == (WORST, {"s": WORST})


def test_without_rows_there_is_no_loss() -> None:
    """No validation row: no f, and no site's."""
    empty = metrics.classification_statistics(np.zeros((0, 2)), np.zeros(0, int))
    assert relative_losses(empty, {}) == (None, {})


def test_smoothing() -> None:
    """The first value counts in full, later ones by 0.3; what is no loss is bounded."""
    assert smoothed(None, 0.5) == 0.5
    assert smoothed(0.5, 1.5) == pytest.approx(0.8)
    assert smoothed(None, math.inf) == WORST


def test_page_hinkley_rings_for_a_lasting_rise_and_not_for_noise() -> None:
    """Noise around a falling curve never rings in 300 rounds; a jump of 0.3 rings within 4, once."""
    rng = np.random.default_rng(3)
    test = PageHinkley()
    for round_ in range(300):
        test = test.observe(0.3 + 0.7 * 0.97**round_ + rng.normal(0, 0.01))
        assert not test.alarm
    rang = []
    for _ in range(12):
        test = test.observe(0.6 + rng.normal(0, 0.01))
        rang.append(test.alarm)
    assert rang.index(True) < 4
    assert sum(rang) == 1


def test_a_target_is_reached_at_its_own_value() -> None:
    """In the direction of the metric; where nothing was measured or asked for, it never is."""
    assert is_there("log_loss", 0.3, 0.3)
    assert is_there("log_loss", 0.2, 0.3)
    assert not is_there("accuracy", 0.2, 0.3)
    assert not is_there("accuracy", None, 0.3)
    assert not is_there("accuracy", 0.9, None)


def test_the_way_to_go_runs_from_the_constant_answer_to_the_target() -> None:
    """1 at the constant answer, 0 at the target and beyond, whichever way the metric goes."""
    assert to_go("accuracy", 0.2, 0.7, 0.2) == 1.0
    assert to_go("accuracy", 0.45, 0.7, 0.2) == pytest.approx(0.5)
    assert to_go("accuracy", 0.9, 0.7, 0.2) == 0.0
    assert to_go("rmse", 3.0, 2.0, 4.0) == pytest.approx(0.5)
    assert to_go("accuracy", -100.0, 0.7, 0.6) == WORST_WAY


@pytest.mark.parametrize(
    ("value", "target", "constant"),
    [(None, 0.7, 0.2), (0.4, None, 0.2), (0.4, 0.7, None), (0.4, 0.7, 0.7), (0.4, 0.7, 0.9)],
)
def test_without_a_way_there_is_none_to_go(
    value: float | None, target: float | None, constant: float | None
) -> None:
    """A figure is not known, or the constant answer has reached the target: the loss counts instead."""
    assert to_go("accuracy", value, target, constant) is None


def test_metrics_of_the_constant_answer_are_those_of_its_predictions() -> None:
    """Class frequencies, and the mean, measured like any model, have the metrics that are told of them."""
    y_N = np.array([0, 0, 0, 1, 1, 2])
    frequencies_NC = np.tile(np.bincount(y_N) / len(y_N), (len(y_N), 1))
    stats = metrics.classification_statistics(frequencies_NC, y_N)
    told, measured = constant_metrics(stats), metrics.summarise(stats)
    assert told == pytest.approx({name: measured[name] for name in told})
    values_N = np.array([1.0, 2.0, 4.0, 9.0])
    stats = metrics.regression_statistics(np.full(4, values_N.mean()), values_N)
    told, measured = constant_metrics(stats), metrics.summarise(stats)
    assert told == pytest.approx({name: measured[name] for name in told}, abs=1e-9)


def test_without_rows_nothing_is_told_of_the_constant_answer() -> None:
    """Statistics of no rows have no class frequencies."""
    assert constant_metrics(metrics.classification_statistics(np.zeros((0, 2)), np.zeros(0, int))) == {}


def test_a_cohort_is_worth_its_sites_with_diminishing_returns() -> None:
    """Σ 1/j: nobody is worth nothing, one is worth one, and each further site adds less."""
    worths = [worth_of(n) for n in range(6)]
    assert worths[:3] == [0.0, 1.0, 1.5]
    added = np.diff(worths)
    assert (np.diff(added) < 0).all()
