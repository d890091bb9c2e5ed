"""Progress: shares of a part lie within the whole's, and whoever watches stops the work between batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from collab.distillation import distil
from collab.kinds.tabular_classification import KIND
from collab.models.contract import build, to_arrays
from collab.progress import nothing, within
from collab.rng import generator
from collab.training import Rows, train, train_counted, train_early_stopped
from protocol.errors import Cancelled
from protocol.messages import DigestSpec, TrainSpec

SPEC = TrainSpec(lr=0.1, batch_size=5, local_epochs=2)


def _rows(count: int = 23) -> Rows:
    rng = np.random.default_rng(2)
    x_NF = torch.as_tensor(rng.normal(size=(count, 3)), dtype=torch.float32)
    return Rows(x_NF, (x_NF.sum(dim=1) > 0).to(torch.int64))


def _model() -> Any:
    return build("mlp_small", (3,), 2, seed=1)


def test_a_part_lies_within_the_whole() -> None:
    """Rounding never carries a share beyond where its part ends."""
    for parts in range(1, 50):
        seen: list[float] = []
        for place in range(parts):
            tick = within(seen.append, place / parts, (place + 1) / parts)
            for done in (0.0, 1 / 3, 1.0):
                tick(done)
        assert seen == sorted(seen)
        assert (seen[0], seen[-1]) == (0.0, 1.0)
    nothing(0.5)


def test_training_tells_each_batch() -> None:
    """Ten batches are ten shares, evenly; without a tick the arrays are the same."""
    seen: list[float] = []
    watched, plain = _model(), _model()
    done = train_counted(watched, _rows(), KIND, SPEC, generator(1), tick=seen.append)
    train(plain, _rows(), KIND, SPEC, generator(1))
    assert seen == [(i + 1) / 10 for i in range(10)]
    assert done.steps == 10
    for name, array in to_arrays(plain).items():
        np.testing.assert_array_equal(array, to_arrays(watched)[name])


def test_early_stopping_tells_the_share_of_all_epochs() -> None:
    """Three epochs of five batches are fifteen shares."""
    seen: list[float] = []
    found = train_early_stopped(
        _model(), _rows(), _rows(9), KIND, SPEC, generator(1), epochs=3, tick=seen.append
    )
    np.testing.assert_allclose(seen, [(i + 1) / 15 for i in range(15)])
    plain = train_early_stopped(_model(), _rows(), _rows(9), KIND, SPEC, generator(1), epochs=3)
    assert all(np.array_equal(found[name], plain[name]) for name in plain)


def test_distillation_tells_each_batch() -> None:
    """Two epochs of three batches are six shares; the arrays are the same."""
    seen: list[float] = []
    spec, teacher_NC = DigestSpec(epochs=2, batch_size=8), np.full((23, 2), 0.5)
    watched, plain = _model(), _model()
    distil(watched, _rows().x, teacher_NC, generator(1), spec, tick=seen.append)
    distil(plain, _rows().x, teacher_NC, generator(1), spec)
    np.testing.assert_allclose(seen, [(i + 1) / 6 for i in range(6)])
    for name, array in to_arrays(plain).items():
        np.testing.assert_array_equal(array, to_arrays(watched)[name])


def test_work_stops_where_it_is_told_to() -> None:
    """At half, no further batch is computed; parameters that were spared their gradients have them again."""
    seen: list[float] = []

    def tick(done: float) -> None:
        seen.append(done)
        if done >= 0.5:
            raise Cancelled("stop")

    model = _model()
    with pytest.raises(Cancelled):
        train_counted(model, _rows(), KIND, SPEC, generator(1), tick=tick, only=lambda name: "bias" in name)
    assert len(seen) == 5
    assert all(parameter.requires_grad for parameter in model.parameters())
