"""The ridge head: the sites' normal equations give scikit-learn's ridge on the pooled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, Ridge

from collab import linear_head, metrics
from protocol.errors import ArraysError, ConfigError


def _draw(seed: int, rows: int, features: int, targets: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    x_NF = rng.normal(loc=rng.normal(size=features), size=(rows, features))
    return x_NF, x_NF @ rng.normal(size=(features, targets)) + 3.0 + rng.normal(size=(rows, targets))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(2, 60),
    features=st.integers(1, 8),
    targets=st.integers(1, 3),
    cut=st.integers(0, 60),
    ridge=st.sampled_from([0.1, 1.0, 100.0]),
)
def test_equals_the_pooled_ridge(
    seed: int, rows: int, features: int, targets: int, cut: int, ridge: float
) -> None:
    """Two sites' summed normal equations, one maybe empty, give the pooled ridge to 1e-10."""
    x_NF, targets_NK = _draw(seed, rows, features, targets)
    parts = [
        linear_head.normal_equations(x_NF[rows_kept], targets_NK[rows_kept])
        for rows_kept in (slice(cut), slice(cut, None))
    ]
    head = linear_head.solve(metrics.merge(parts), ridge)
    pooled = Ridge(alpha=ridge, solver="svd").fit(x_NF, targets_NK)
    expected_FK = pooled.coef_.reshape(targets, features).T
    np.testing.assert_allclose(head["coefficients"], expected_FK, rtol=0, atol=1e-10)
    np.testing.assert_allclose(head["intercept"], np.atleast_1d(pooled.intercept_), rtol=0, atol=1e-10)
    predicted_NK = pooled.predict(x_NF).reshape(rows, targets)
    np.testing.assert_allclose(linear_head.predict(x_NF, head), predicted_NK, rtol=0, atol=1e-9)


def test_without_ridge_it_is_ordinary_least_squares() -> None:
    """A ridge of 0 gives the pooled least-squares fit."""
    x_NF, targets_NK = _draw(0, 50, 4, 2)
    head = linear_head.solve(linear_head.normal_equations(x_NF, targets_NK), 0.0)
    pooled = LinearRegression().fit(x_NF, targets_NK)
    np.testing.assert_allclose(head["coefficients"], pooled.coef_.T, atol=1e-10)


def test_the_intercept_is_not_penalised() -> None:
    """Under an endless ridge the head is the mean of the targets."""
    x_NF, targets_NK = _draw(1, 50, 4, 2)
    head = linear_head.solve(linear_head.normal_equations(x_NF, targets_NK), 1e15)
    np.testing.assert_allclose(linear_head.predict(x_NF, head), np.tile(targets_NK.mean(axis=0), (50, 1)))


def test_what_cannot_be_solved_is_refused() -> None:
    """Other shapes, NaN, a negative ridge, no rows and a singular matrix are errors."""
    good = linear_head.normal_equations(*_draw(0, 10, 2, 1))
    with pytest.raises(ArraysError, match="features"):
        linear_head.normal_equations(np.ones((3, 2)), np.ones((4, 1)))
    with pytest.raises(ArraysError, match="NaN"):
        linear_head.normal_equations(np.full((1, 1), np.nan), np.ones((1, 1)))
    with pytest.raises(ArraysError, match="missing"):
        linear_head.solve({"xtx": good["xtx"]}, 1.0)
    with pytest.raises(ConfigError, match="ridge"):
        linear_head.solve(good, -1.0)
    with pytest.raises(ArraysError, match="no rows"):
        linear_head.solve(linear_head.normal_equations(np.empty((0, 2)), np.empty((0, 1))), 1.0)
    with pytest.raises(ArraysError, match="singular"):
        linear_head.solve(linear_head.normal_equations(np.ones((5, 2)), np.ones((5, 1))), 0.0)
