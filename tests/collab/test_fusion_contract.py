"""The laws of every fusion rule: those of the folder and those that an institution installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from collab import metrics, plugins
from protocol.errors import ArraysError, ConsiliumError

RULES = plugins.names("fusion")
SHARED_RULES = [name for name in RULES if "shared_models" in plugins.load("fusion", name).NEEDS]
CASES = st.tuples(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 30), st.integers(1, 4))


def _draw(seed: int, candidates: int, rows: int, outputs: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Candidates of unlike quality: probabilities and one-hot targets, or values for one output."""
    rng = np.random.default_rng(seed)
    if outputs == 1:
        targets_NK = rng.normal(150, 77, (rows, 1))
        noise = rng.normal(0, 50, (candidates, rows, 1)) * rng.uniform(0.1, 2, (candidates, 1, 1))
        return targets_NK + noise, targets_NK
    targets_NK = np.eye(outputs)[rng.integers(outputs, size=rows)]
    logits = rng.normal(size=(candidates, rows, outputs)) + targets_NK * rng.uniform(0, 3, (candidates, 1, 1))
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=2, keepdims=True), targets_NK


def _fit(rule: Any, outputs_MNK: NDArray[Any], targets_NK: NDArray[Any]) -> dict[str, NDArray[Any]]:
    state: dict[str, NDArray[Any]] = rule.fit(rule.statistics(outputs_MNK, targets_NK), len(outputs_MNK))
    return state


@pytest.mark.parametrize("name", RULES)
def test_needs_are_known(name: str) -> None:
    """A rule needs shared models or nothing."""
    assert plugins.load("fusion", name).NEEDS in (frozenset(), {"shared_models"})


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, derandomize=True, max_examples=25)
@given(case=CASES)
def test_one_candidate_comes_back_as_it_is(name: str, case: tuple[int, int, int, int]) -> None:
    """With the final model alone, the fused outputs are its outputs."""
    rule, (seed, _, rows, outputs) = plugins.load("fusion", name), case
    outputs_MNK, targets_NK = _draw(seed, 1, rows, outputs)
    state = _fit(rule, outputs_MNK, targets_NK)
    np.testing.assert_allclose(state["weights"], [1.0], atol=1e-12)
    np.testing.assert_allclose(rule.apply(outputs_MNK, state), outputs_MNK[0], rtol=1e-12)


@pytest.mark.parametrize("name", SHARED_RULES)
@settings(deadline=None, derandomize=True, max_examples=25)
@given(case=CASES, data=st.data())
def test_order_of_candidates_does_not_matter(
    name: str, case: tuple[int, int, int, int], data: st.DataObject
) -> None:
    """Permuted candidates get permuted weights and the same fused outputs."""
    rule = plugins.load("fusion", name)
    outputs_MNK, targets_NK = _draw(*case)
    order = data.draw(st.permutations(range(len(outputs_MNK))))
    state, permuted = _fit(rule, outputs_MNK, targets_NK), _fit(rule, outputs_MNK[order], targets_NK)
    np.testing.assert_allclose(permuted["weights"], state["weights"][order], atol=1e-9)
    fused, again = rule.apply(outputs_MNK, state), rule.apply(outputs_MNK[order], permuted)
    np.testing.assert_allclose(again, fused, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SHARED_RULES)
@settings(deadline=None, derandomize=True, max_examples=25)
@given(case=CASES)
def test_identical_candidates_share_equally(name: str, case: tuple[int, int, int, int]) -> None:
    """Copies of one model get equal weights, and fuse to that model."""
    rule = plugins.load("fusion", name)
    outputs_MNK, targets_NK = _draw(*case)
    copies_MNK = np.repeat(outputs_MNK[:1], len(outputs_MNK), axis=0)
    state = _fit(rule, copies_MNK, targets_NK)
    np.testing.assert_allclose(state["weights"], 1.0 / len(copies_MNK), atol=1e-9)
    np.testing.assert_allclose(rule.apply(copies_MNK, state), copies_MNK[0], rtol=1e-9)


@pytest.mark.parametrize("name", SHARED_RULES)
@settings(deadline=None, derandomize=True, max_examples=25)
@given(case=CASES)
def test_weights_are_convex_shapes_kept_inputs_untouched(name: str, case: tuple[int, int, int, int]) -> None:
    """Weights are a convex combination; probabilities stay probabilities; nothing given is changed."""
    rule = plugins.load("fusion", name)
    outputs_MNK, targets_NK = _draw(*case)
    outputs_MNK.flags.writeable = targets_NK.flags.writeable = False
    statistics = rule.statistics(outputs_MNK, targets_NK)
    for array in statistics.values():
        array.flags.writeable = False
    state = rule.fit(statistics, len(outputs_MNK))
    state["weights"].flags.writeable = False
    fused_NK = rule.apply(outputs_MNK, state)
    assert state["weights"].shape == (len(outputs_MNK),)
    assert (state["weights"] >= 0).all()
    assert state["weights"].sum() == pytest.approx(1.0, abs=1e-12)
    assert fused_NK.shape == targets_NK.shape
    if targets_NK.shape[1] > 1:
        np.testing.assert_allclose(fused_NK.sum(axis=1), 1.0, atol=1e-9)
        assert (fused_NK >= 0).all()


@pytest.mark.parametrize("name", SHARED_RULES)
@settings(deadline=None, derandomize=True, max_examples=25)
@given(case=CASES, cut=st.integers(0, 30))
def test_statistics_of_sites_add_up(name: str, case: tuple[int, int, int, int], cut: int) -> None:
    """The sum of the sites' statistics gives the weights of the pooled rows, empty sites included."""
    rule = plugins.load("fusion", name)
    outputs_MNK, targets_NK = _draw(*case)
    parts = [
        rule.statistics(outputs_MNK[:, :cut], targets_NK[:cut]),
        rule.statistics(outputs_MNK[:, cut:], targets_NK[cut:]),
    ]
    merged = rule.fit(metrics.merge(parts), len(outputs_MNK))
    np.testing.assert_allclose(merged["weights"], _fit(rule, outputs_MNK, targets_NK)["weights"], atol=1e-9)


@pytest.mark.parametrize("name", SHARED_RULES)
def test_no_validation_rows_anywhere_gives_equal_weights(name: str) -> None:
    """Where nothing speaks for any candidate, all weigh the same."""
    rule = plugins.load("fusion", name)
    for state in (_fit(rule, np.empty((3, 0, 2)), np.empty((0, 2))), rule.fit(metrics.merge([]), 3)):
        np.testing.assert_allclose(state["weights"], 1 / 3)


@pytest.mark.parametrize("name", RULES)
def test_a_broken_candidate_is_refused(name: str) -> None:
    """NaN outputs raise, whatever weight their candidate has; so does a candidate too many."""
    rule = plugins.load("fusion", name)
    state = _fit(rule, np.ones((1, 2, 2)), np.ones((2, 2)))
    with pytest.raises(ArraysError, match="NaN"):
        rule.apply(np.full((1, 2, 2), np.nan), state)
    with pytest.raises(ArraysError, match="candidates"):
        rule.apply(np.ones((2, 2, 2)), state)
    with pytest.raises(ArraysError, match="M, N, K"):
        rule.apply(np.ones((2, 2)), state)


@pytest.mark.parametrize("name", [name for name in RULES if name not in SHARED_RULES])
def test_a_rule_without_shared_models_refuses_more_candidates(name: str) -> None:
    """A rule that needs no shared models does not silently weigh some."""
    with pytest.raises(ConsiliumError, match="final model"):
        plugins.load("fusion", name).fit({}, 2)
