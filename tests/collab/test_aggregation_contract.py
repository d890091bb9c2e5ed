"""The laws of every aggregation rule, and FedAdam against the paper's loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from collab import plugins
from collab.aggregation import fedadam, fedavg
from collab.aggregation.accumulate import Accumulator
from protocol.arrays import Arrays, digest, spec_of
from protocol.errors import ArraysError, ConfigError

RULES = plugins.names("aggregation")
SEEDS = st.integers(0, 2**32)
WEIGHTS = st.lists(st.integers(1, 10_000), min_size=1, max_size=8)


def _model(seed: int) -> dict[str, NDArray[Any]]:
    """A model of every dtype and rank that arrays may have, with a counter and an empty array."""
    rng = np.random.default_rng(seed)
    return {
        "weight": rng.normal(size=(7, 5)).astype(np.float32),
        "transposed": rng.normal(size=(5, 7)).astype(np.float32).T,
        "half": rng.normal(size=4).astype(np.float16),
        "double": rng.normal(size=(2, 3)),
        "scale": np.array(rng.normal(), np.float32),
        "empty": np.empty((0, 3), np.float32),
        "counter": rng.integers(0, 100, 1),
    }


def _mean(contributions: list[dict[str, NDArray[Any]]], weights: list[int]) -> dict[str, NDArray[Any]]:
    accumulator = Accumulator(contributions[0])
    for arrays, weight in zip(contributions, weights, strict=True):
        accumulator.add(arrays, float(weight))
    return accumulator.mean()


def _freeze(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _assert_same(found: Arrays, expected: Arrays, rtol: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=SEEDS)
def test_names_shapes_and_dtypes_are_kept_and_inputs_untouched(name: str, seed: int) -> None:
    """Over two rounds arrays and state keep their form, in new memory; counters stay the server's."""
    rule, arrays, mean = plugins.load("aggregation", name), _freeze(_model(seed)), _freeze(_model(seed + 1))
    state = _freeze(rule.init(arrays))
    first, next_state = rule.apply(arrays, mean, state)
    second, last_state = rule.apply(_freeze(first), mean, _freeze(next_state))
    for found in (first, second):
        assert spec_of(found) == spec_of(arrays)
        np.testing.assert_array_equal(found["counter"], arrays["counter"])
        for key, array in found.items():
            assert isinstance(array, np.ndarray)
            assert not np.shares_memory(array, arrays[key])
            assert not np.shares_memory(array, mean[key])
    assert spec_of(next_state) == spec_of(last_state) == spec_of(state)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=SEEDS, weights=WEIGHTS)
def test_equal_contributions_are_a_fixed_point(name: str, seed: int, weights: list[int]) -> None:
    """If every site returns the global arrays and the state is fresh, the arrays stay, to the bit."""
    rule, arrays = plugins.load("aggregation", name), _model(seed)
    mean = _mean([arrays] * len(weights), weights)
    found, _ = rule.apply(arrays, mean, rule.init(arrays))
    _assert_same(found, arrays)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=SEEDS, weights=WEIGHTS)
def test_same_order_same_bits(name: str, seed: int, weights: list[int]) -> None:
    """The same contributions added in the same order give the same bits."""
    rule, arrays = plugins.load("aggregation", name), _model(seed)
    contributions = [_model(seed + i + 1) for i in range(len(weights))]
    digests = [
        digest(rule.apply(arrays, _mean(contributions, weights), rule.init(arrays))[0]) for _ in range(2)
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", RULES)
def test_foreign_arrays_and_unknown_options_are_refused(name: str) -> None:
    """A mean of another shape, and an option that the rule does not have, are errors."""
    rule, arrays = plugins.load("aggregation", name), _model(0)
    state = rule.init(arrays)
    with pytest.raises(ArraysError, match="shape"):
        rule.apply(arrays, {**arrays, "weight": np.zeros((5, 7), np.float32)}, state)
    with pytest.raises(ConfigError, match="no_such_option"):
        rule.init(arrays, no_such_option=1)
    with pytest.raises(ConfigError, match="no_such_option"):
        rule.apply(arrays, arrays, state, no_such_option=1)


def test_fedavg_is_the_mean() -> None:
    """The next global arrays are the accumulated mean itself."""
    arrays, mean = _model(0), _model(1)
    found, state = fedavg.apply(arrays, mean, fedavg.init(arrays))
    assert state == {}
    _assert_same(found, {**mean, "counter": arrays["counter"]})


def _by_the_paper(x: float, means: list[float], options: dict[str, Any]) -> float:
    """Algorithm 2 of Reddi et al. (FedAdam), or with Kingma and Ba's correction, one scalar at a time."""
    o = fedadam.Options(**options)
    m, v = 0.0, 0.0 if o.bias_correction else o.tau**2
    for t, mean in enumerate(means, start=1):
        delta = mean - x
        m = o.beta1 * m + (1 - o.beta1) * delta
        v = o.beta2 * v + (1 - o.beta2) * delta**2
        rate = o.server_lr
        if o.bias_correction:
            rate *= np.sqrt(1 - o.beta2**t) / (1 - o.beta1**t)
        x = x + rate * m / (np.sqrt(v) + o.tau)
    return x


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    x=st.floats(-10, 10),
    means=st.lists(st.floats(-10, 10), min_size=1, max_size=6),
    options=st.fixed_dictionaries(
        {
            "server_lr": st.sampled_from([0.01, 0.1, 1.0]),
            "beta1": st.sampled_from([0.0, 0.9]),
            "beta2": st.sampled_from([0.0, 0.99, 0.999]),
            "tau": st.sampled_from([1e-8, 1e-3, 0.1]),
            "bias_correction": st.booleans(),
        }
    ),
)
def test_fedadam_is_the_papers_algorithm(x: float, means: list[float], options: dict[str, Any]) -> None:
    """Over several rounds the arrays are those of the paper's loop, written out for one number."""
    arrays = {"a": np.array([x])}
    state = fedadam.init(arrays, **options)
    for mean in means:
        arrays, state = fedadam.apply(arrays, {"a": np.array([mean])}, state, **options)
    assert state["step"].tolist() == [len(means)]
    np.testing.assert_allclose(arrays["a"], [_by_the_paper(x, means, options)], rtol=1e-9, atol=1e-9)


def test_fedadam_refuses_a_foreign_state_and_bad_options() -> None:
    """State of another model, and options outside what Adam allows, are errors."""
    arrays = _model(0)
    with pytest.raises(ArraysError):
        fedadam.apply(arrays, arrays, {})
    for options in ({"server_lr": 0.0}, {"tau": -1.0}, {"beta1": 1.0}, {"beta2": float("nan")}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            fedadam.init(arrays, **options)
    with pytest.raises(ConfigError, match="did you mean 'server_lr'"):
        fedadam.init(arrays, serverlr=0.1)
