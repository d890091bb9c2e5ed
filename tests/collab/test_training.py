"""Local training: exact numbers of updates, exact steps, FedProx's pull, the best epoch, the same bits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from collab.kinds.tabular_classification import KIND as CLASSES
from collab.kinds.tabular_regression import KIND as VALUE
from collab.models.contract import build, from_arrays, to_arrays
from collab.rng import generator
from collab.training import Rows, batches, mean_loss, outputs, predict, train, train_early_stopped
from protocol.messages import TrainSpec

laws = settings(deadline=None, max_examples=60, derandomize=True)


def rows(count: int = 24, features: int = 3, seed: int = 1, kind: Any = CLASSES) -> Rows:
    """Rows whose target depends on their features, with some noise."""
    rng = np.random.default_rng(seed)
    x_NF = rng.normal(size=(count, features))
    y_N = x_NF.sum(axis=1) + rng.normal(size=count)
    target = y_N > 0 if kind is CLASSES else y_N
    return Rows(torch.as_tensor(x_NF, dtype=torch.float32), kind.target(target))


def spec(**keys: Any) -> TrainSpec:
    """Plain SGD unless said otherwise."""
    return TrainSpec(**{"lr": 0.1, "batch_size": 5, **keys})


def model(outputs_: int = 2, name: str = "linear") -> nn.Module:
    """The same small model every time."""
    return build(name, (3,), outputs_, seed=4)


def flat(module: nn.Module) -> NDArray[np.float64]:
    """All parameters in one vector."""
    return np.concatenate([a.ravel() for a in to_arrays(module).values()]).astype(np.float64)


counts, sizes = st.integers(1, 30), st.integers(1, 12)


@laws
@given(counts, sizes, st.integers(1, 4))
def test_an_epoch_sees_every_row_once(count: int, size: int, epochs: int) -> None:
    """In each epoch every row is in one batch, and only the last batch is smaller."""
    found = list(batches(count, spec(batch_size=size, local_epochs=epochs), generator(1)))
    per_epoch = -(-count // size)
    assert len(found) == epochs * per_epoch
    for epoch in range(epochs):
        mine = found[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(np.concatenate(mine)) == list(range(count))
        assert [len(b) for b in mine[:-1]] == [size] * (per_epoch - 1)


@laws
@given(counts, sizes, st.integers(1, 40))
def test_local_steps_are_that_many_updates(count: int, size: int, steps: int) -> None:
    """Steps take the place of epochs, exactly; between any two rows the visits differ by at most one."""
    found = list(batches(count, spec(batch_size=size, local_steps=steps, local_epochs=7), generator(1)))
    assert len(found) == steps
    seen = Counter(np.concatenate(found).tolist())
    visits = [seen[row] for row in range(count)]
    assert max(visits) - min(visits) <= 1


def test_epochs_are_shuffled_anew_and_from_the_generator_alone() -> None:
    """Two epochs have two orders; the same generator gives the same ones."""
    first, second = (list(batches(30, spec(batch_size=30, local_epochs=2), generator(s))) for s in (1, 1))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert (first[0] != first[1]).any()
    assert (first[0] != next(batches(30, spec(batch_size=30), generator(2)))).any()


@laws
@given(counts, sizes, st.one_of(st.none(), st.integers(1, 20)))
def test_the_examples_processed_are_counted(count: int, size: int, steps: int | None) -> None:
    """What is returned, and later paid for in simulated time, is the number of rows that went through."""
    wanted = spec(batch_size=size, local_steps=steps, local_epochs=2)
    processed = train(model(), rows(count), CLASSES, wanted, generator(1))
    assert processed == sum(len(b) for b in batches(count, wanted, generator(1)))


def test_a_step_of_sgd_is_the_one_in_the_book() -> None:
    """It goes to w - lr (gradient + decay w), the gradient of the mean squared error computed by hand."""
    data, trained = rows(kind=VALUE), model(1)
    before = flat(trained)
    train(trained, data, VALUE, spec(batch_size=100, weight_decay=0.3), generator(1))
    x_NF, y_N = np.c_[data.x.numpy(), np.ones(len(data))].astype(np.float64), data.y.numpy()
    gradient = 2 * x_NF.T @ (x_NF @ before - y_N) / len(data)
    np.testing.assert_allclose(flat(trained), before - 0.1 * (gradient + 0.3 * before), rtol=1e-5, atol=1e-6)


def test_a_first_step_of_adam_has_the_length_of_its_rate() -> None:
    """Adam's first step moves every parameter by lr against the sign of its gradient."""
    trained = model()
    before = flat(trained)
    train(trained, rows(), CLASSES, spec(optimizer="adam", lr=0.01, batch_size=100), generator(1))
    np.testing.assert_allclose(np.abs(flat(trained) - before), 0.01, rtol=1e-3)


def slope(outputs_NK: Tensor, y_N: Tensor) -> Tensor:
    """A loss that is linear in the outputs: a linear model has the same gradient wherever it stands."""
    return (outputs_NK[:, 0] * y_N.float()).mean()


@laws
@given(st.integers(1, 12), st.sampled_from([0.01, 0.3, 1.0, 4.0]), st.sampled_from([0.05, 0.2]))
def test_fedprox_pulls_towards_the_start_in_proportion(steps: int, mu: float, lr: float) -> None:
    """Under a constant gradient g the distance after k steps is -g (1 - (1 - lr mu)^k) / mu, all along g."""
    kind, data = replace(VALUE, loss=slope), rows(kind=VALUE)
    wanted = spec(lr=lr, batch_size=100, local_steps=1)
    one, many = model(1), model(1)
    before = flat(one)
    train(one, data, kind, wanted, generator(1))
    pulled = wanted.model_copy(update={"local_steps": steps, "proximal_mu": mu})
    train(many, data, kind, pulled, generator(1))
    step = flat(one) - before  # -lr g
    expected = step * (1 - (1 - lr * mu) ** steps) / (lr * mu)
    np.testing.assert_allclose(flat(many) - before, expected, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_first_step_feels_no_pull(optimizer: str) -> None:
    """At the start the distance is zero, whatever μ is."""
    plain, pulled = model(), model()
    one = spec(optimizer=optimizer, local_steps=1)
    train(plain, rows(), CLASSES, one, generator(1))
    train(pulled, rows(), CLASSES, one.model_copy(update={"proximal_mu": 100.0}), generator(1))
    assert (flat(plain) == flat(pulled)).all()


def test_a_larger_mu_stays_closer() -> None:
    """The more a site is pulled, the less far it goes."""
    distances = []
    for mu in (0.0, 0.1, 1.0, 5.0):
        trained = model()
        before = flat(trained)
        train(trained, rows(), CLASSES, spec(local_epochs=20, proximal_mu=mu), generator(1))
        distances.append(float(np.linalg.norm(flat(trained) - before)))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 2


@pytest.mark.parametrize("keys", [{}, {"optimizer": "adam"}, {"momentum": 0.9, "proximal_mu": 0.1}])
def test_the_same_seed_gives_the_same_bits(keys: dict[str, Any]) -> None:
    """Training twice gives equal arrays, whatever the process drew in between; another seed does not."""
    found = []
    for seed in (1, 1, 2):
        trained = model(name="mlp_small")
        torch.rand(7)
        train(trained, rows(), CLASSES, spec(local_epochs=3, **keys), generator(seed))
        found.append(flat(trained))
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()


@pytest.mark.parametrize(("kind", "width"), [(CLASSES, 2), (VALUE, 1)])
def test_training_learns(kind: Any, width: int) -> None:
    """The loss on its own rows falls, and rows and targets stay as they were."""
    data, trained = rows(200, kind=kind), model(width)
    kept = data.x.clone(), data.y.clone()
    before = mean_loss(trained, data, kind)
    train(trained, data, kind, spec(local_epochs=20, lr=0.05), generator(1))
    assert mean_loss(trained, data, kind) < 0.8 * before
    assert torch.equal(data.x, kept[0])
    assert torch.equal(data.y, kept[1])


def early(epochs: int, validation: Rows) -> dict[str, NDArray[Any]]:
    """A model that overfits: eight rows, many parameters, a high rate."""
    overfitting = spec(lr=0.5, local_steps=99, local_epochs=99, proximal_mu=9.0)
    start = model(name="mlp_medium")
    return train_early_stopped(start, rows(8), validation, CLASSES, overfitting, generator(1), epochs=epochs)


def loss_of(arrays: dict[str, NDArray[Any]], on: Rows) -> float:
    """The loss of a model with these arrays."""
    module = model(name="mlp_medium")
    from_arrays(module, arrays)
    return mean_loss(module, on, CLASSES)


def test_early_stopping_keeps_the_best_epoch() -> None:
    """What is returned has the least validation loss of all moments, the start among them."""
    validation, nothing = rows(40, seed=2), rows(0)
    history = [loss_of(early(epochs, nothing), validation) for epochs in range(13)]
    assert 0 < int(np.argmin(history)) < 12, "the case must have its best epoch within"
    for epochs in range(13):
        assert loss_of(early(epochs, validation), validation) == min(history[: epochs + 1])


def test_without_validation_the_last_epoch_is_kept() -> None:
    """Nothing can be judged, so nothing is turned back."""
    first, last = early(1, rows(0)), early(2, rows(0))
    assert any((first[name] != last[name]).any() for name in first)


def test_outputs_do_not_depend_on_the_block() -> None:
    """Rows are predicted in blocks for memory's sake; a row's outputs are its own, none has none."""
    trained, data = model(), rows(5000)
    found = outputs(trained, data.x)
    assert found.shape == (5000, 2)
    assert not found.requires_grad
    torch.testing.assert_close(found[4990:], outputs(trained, data.x[4990:]))
    assert outputs(trained, data.x[:0]).shape == (0, 2)


def test_predictions_are_probabilities_or_values() -> None:
    """Classes: rows that sum to 1; a number: the output itself."""
    p_NC = predict(model(), rows().x, CLASSES)
    assert (p_NC >= 0).all()
    np.testing.assert_allclose(p_NC.sum(axis=1), 1, rtol=1e-12)
    z_N1 = predict(model(1), rows().x, VALUE)
    assert (z_N1 == outputs(model(1), rows().x).double().numpy()).all()


def test_rows_show_no_value() -> None:
    """A repr ends in logs and tracebacks."""
    assert repr(rows(24)) == "Rows(24)"
