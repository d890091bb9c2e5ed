"""Paired comparison: sums that merge, a difference with its error, and a verdict that needs evidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from collab.metrics import METRICS, classification_statistics, regression_statistics, summarise
from collab.paired import LOSSES, beats, compare, difference

laws = settings(deadline=None, max_examples=60, derandomize=True)
Floats = NDArray[np.float64]
Case = tuple[Floats, Floats, NDArray[Any]]


def case(seed: int, classes: int, count: int) -> Case:
    """Two models' outputs and the targets; one class stands for a regression."""
    rng = np.random.default_rng(seed)
    if classes == 1:
        return rng.normal(size=(count, 1)), rng.normal(size=(count, 1)), rng.normal(size=count)
    a_NC, b_NC = (rng.dirichlet(np.ones(classes), size=count) for _ in range(2))
    return a_NC, b_NC, rng.integers(0, classes, size=count)


cases = st.builds(case, st.integers(0, 10**6), st.sampled_from([1, 2, 5]), st.integers(2, 40))


def metric_of(outputs: Floats, y_N: NDArray[Any], metric: str) -> float:
    """A metric as the rest of the program computes it."""
    found = classification_statistics if outputs.shape[1] > 1 else regression_statistics
    return summarise(found(outputs if outputs.shape[1] > 1 else outputs[:, 0], y_N))[metric]


@laws
@given(cases)
def test_the_mean_difference_is_that_of_the_metrics(found: Case) -> None:
    """What is compared is what is reported: log loss, error rate, squared and absolute error."""
    a, b, y = found
    task, sums = "classification" if a.shape[1] > 1 else "regression", compare(a, b, y)
    for metric in LOSSES.keys() & set(METRICS[task]):
        expected = [metric_of(outputs, y, metric) for outputs in (a, b)]
        if metric == "rmse":
            expected = [value**2 for value in expected]
        sign = -1 if metric == "accuracy" else 1
        mean, _ = difference(sums, LOSSES[metric])
        assert sign * mean == pytest.approx(expected[0] - expected[1], abs=1e-9)


@laws
@given(cases)
def test_the_error_is_the_standard_error_of_the_mean(found: Case) -> None:
    """The sums give numpy's standard deviation of the differences over √n, row by row."""
    a, b, y = found
    if a.shape[1] == 1:
        d_N = np.abs(a[:, 0] - y) - np.abs(b[:, 0] - y)
        loss = "absolute_error"
    else:
        d_N = np.log(b[np.arange(len(y)), y]) - np.log(a[np.arange(len(y)), y])
        loss = "log_loss"
    mean, error = difference(compare(a, b, y), loss)
    assert mean == pytest.approx(float(d_N.mean()), rel=1e-6, abs=1e-9)
    assert error == pytest.approx(float(d_N.std(ddof=1)) / math.sqrt(len(y)), rel=1e-6, abs=1e-9)


@laws
@given(cases, st.integers(0, 40))
def test_sums_merge(found: Case, cut: int) -> None:
    """Two sites' sums add up to the sums of their rows together, also where one has none."""
    a, b, y = found
    whole, left, right = (
        compare(a, b, y),
        compare(a[:cut], b[:cut], y[:cut]),
        compare(a[cut:], b[cut:], y[cut:]),
    )
    assert whole.keys() == left.keys() == right.keys()
    for name, sums in whole.items():
        np.testing.assert_allclose(left[name] + right[name], sums, rtol=1e-9, atol=1e-9)


@laws
@given(cases)
def test_the_other_way_round_is_the_opposite(found: Case) -> None:
    """Swapped, the mean has the other sign and the same error, and never do both win."""
    a, b, y = found
    one, other = compare(a, b, y), compare(b, a, y)
    for loss in one.keys() - {"n"}:
        assert difference(one, loss)[0] == pytest.approx(-difference(other, loss)[0], abs=1e-12)
        assert difference(one, loss)[1] == pytest.approx(difference(other, loss)[1], abs=1e-12)
        assert not (beats(one, (loss,)) and beats(other, (loss,)))


@laws
@given(cases)
def test_nothing_beats_itself(found: Case) -> None:
    """The same outputs differ by nothing, and nothing is no improvement, however little is asked."""
    a, _, y = found
    sums = compare(a, a, y)
    for loss in sums.keys() - {"n"}:
        assert difference(sums, loss) == (0.0, 0.0)
        assert not beats(sums, (loss,), standard_errors=0)


@laws
@given(cases)
def test_one_row_stands_for_all(found: Case) -> None:
    """A constant predictor is given as one row."""
    a, b, y = found
    constant, everywhere = compare(a, b[:1], y), compare(a, np.repeat(b[:1], len(y), axis=0), y)
    assert all((constant[name] == everywhere[name]).all() for name in constant)


@laws
@given(cases, st.sampled_from([0.0, 1.0, 2.0, 5.0]))
def test_more_evidence_is_harder_to_have(found: Case, errors: float) -> None:
    """Who wins by more standard errors wins by fewer, and who wins in two losses wins in each."""
    sums = compare(*found)
    losses = tuple(sorted(sums.keys() - {"n"}))
    if beats(sums, losses, errors + 1):
        assert beats(sums, losses, errors)
    assert beats(sums, losses, errors) == all(beats(sums, (loss,), errors) for loss in losses)


def test_a_clear_improvement_wins_and_a_lucky_one_does_not() -> None:
    """A hundred rows that are mostly better convince; half better, half worse do not."""
    y_N = np.zeros(100, np.int64)
    good, bad = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    coin = np.tile([0.5, 0.5], (100, 1))
    mostly = np.where(np.arange(100)[:, None] < 90, good, bad)
    half = np.where(np.arange(100)[:, None] < 50, good, bad)
    assert beats(compare(mostly, coin, y_N), ("log_loss",))
    assert not beats(compare(half, coin, y_N), ("log_loss",))


@pytest.mark.parametrize("count", [0, 1])
def test_less_than_two_rows_prove_nothing(count: int) -> None:
    """Without two rows the error is infinite, so nobody wins, and nothing divides by zero."""
    sums = compare(np.array([[1.0, 0.0]])[:count], np.array([[0.5, 0.5]]), np.zeros(count, np.int64))
    assert difference(sums, "log_loss")[1] == math.inf
    assert not beats(sums, ("log_loss",))


def test_an_impossible_prediction_is_finite() -> None:
    """A probability of zero for what happened costs much, and not infinitely much."""
    sums = compare(np.array([[1.0, 0.0]] * 3), np.array([[0.5, 0.5]]), np.ones(3, np.int64))
    assert 10 < difference(sums, "log_loss")[0] < 100


def test_no_sums_prove_nothing() -> None:
    """Where no site could measure, nobody wins, not even by no loss at all."""
    assert not beats({}, ("log_loss",))
    assert not beats({}, ())


@pytest.mark.parametrize("task", METRICS)
def test_the_metrics_that_can_be_paired_are_metrics(task: str) -> None:
    """Each names a loss that is computed, and every task has two that can decide a comparison."""
    losses = compare(*case(1, 1 if task == "regression" else 3, 5)).keys()
    found = {LOSSES[metric] for metric in LOSSES.keys() & set(METRICS[task])}
    assert found == losses - {"n"}
    assert len(found) == 2
