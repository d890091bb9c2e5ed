"""Local training and prediction on rows that are already tensors on their device.

Shape suffixes: N rows, K outputs (classes, or 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from collab.heads import split
from collab.kinds.contract import Kind
from collab.models.contract import to_arrays
from collab.progress import Tick, Watched, nothing, within
from collab.steering import Attract, Extras, Stepper, anchored, frozen, paired, still
from protocol.errors import ConfigError
from protocol.messages import TrainSpec

_PREDICT_ROWS = 4096


@dataclass(frozen=True)
class Rows:
    """Inputs and targets of one split of one site. Its repr shows no values."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Rows({len(self)})"


@dataclass(frozen=True)
class Trained:
    """What training took: examples that went through, and steps of the optimiser."""

    processed: int
    steps: int


def batches(num_rows: int, spec: TrainSpec, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the row indices of each mini-batch: whole epochs, or exactly ``local_steps`` updates."""
    per_epoch = math.ceil(num_rows / spec.batch_size)
    for step in range(spec.steps(num_rows)):
        if step % per_epoch == 0:
            order = rng.permutation(num_rows)
        start = step % per_epoch * spec.batch_size
        yield order[start : start + spec.batch_size]


def train(
    model: nn.Module,
    rows: Rows,
    kind: Kind,
    spec: TrainSpec,
    rng: np.random.Generator,
    **extras: Unpack[Extras],
) -> int:
    """Train ``model`` in place and return the number of examples that it processed.

    With ``proximal_mu`` > 0 the gradient of μ/2 ‖w − w₀‖² is added, w₀ being the parameters at
    the start (FedProx, Li et al., MLSys 2020, https://arxiv.org/abs/1812.06127) or ``anchor``.

    Raises:
        ArraysError: ``anchor`` or ``correction`` lacks a trained parameter, or has it in another shape.
        ConfigError: ``only`` selects no parameter, or ``attract`` is given and the model has no head.
    """
    return train_counted(model, rows, kind, spec, rng, **extras).processed


def train_counted(
    model: nn.Module,
    rows: Rows,
    kind: Kind,
    spec: TrainSpec,
    rng: np.random.Generator,
    **extras: Unpack[Extras],
) -> Trained:
    """Train as ``train`` does and return the steps of the optimiser too."""
    only, correction = extras.get("only"), extras.get("correction")
    trained = {name: p for name, p in model.named_parameters() if only is None or only(name)}
    if not trained:
        raise ConfigError("nothing to train: no parameter of the model is selected")
    stepper = Stepper(
        _optimizer(trained.values(), spec),
        mu=spec.proximal_mu,
        anchors=anchored(trained, extras.get("anchor")) if spec.proximal_mu else [],
        corrections=paired("correction", trained, correction) if correction is not None else [],
        still=[] if only is None else list(still(model, only)),
        attract=extras.get("attract"),
    )
    with frozen(model, trained):
        return _run(model, rows, kind, spec, rng, stepper, extras.get("tick", nothing))


def train_early_stopped(
    model: nn.Module,
    rows: Rows,
    validation: Rows,
    kind: Kind,
    spec: TrainSpec,
    rng: np.random.Generator,
    *,
    epochs: int,
    **watched: Unpack[Watched],
) -> dict[str, NDArray[Any]]:
    """Train ``epochs`` epochs and return the arrays of the moment with the least validation loss.

    The start counts as a moment. Without validation rows the last epoch's arrays are returned. The
    optimiser keeps its state from epoch to epoch, as a site that trains alone would have it.
    """
    one = spec.model_copy(update={"local_epochs": 1, "local_steps": None, "proximal_mu": 0.0})
    stepper = Stepper(_optimizer(model.parameters(), one))
    judged = len(validation) > 0
    best, least = to_arrays(model), mean_loss(model, validation, kind) if judged else math.inf
    tick = watched.get("tick", nothing)
    for epoch in range(epochs):
        _run(model, rows, kind, one, rng, stepper, within(tick, epoch / epochs, (epoch + 1) / epochs))
        loss = mean_loss(model, validation, kind) if judged else -math.inf
        if not judged or loss < least:
            best, least = to_arrays(model), loss
    return best


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Return the raw outputs [N, K] on the CPU, in blocks so that memory stays bounded."""
    model.eval()
    blocks = [model(block).cpu() for block in torch.split(x, _PREDICT_ROWS)] if len(x) else []
    return torch.cat(blocks) if blocks else torch.zeros(0, _width(model, x))


def mean_loss(model: nn.Module, rows: Rows, kind: Kind) -> float:
    """Return the mean loss of ``model`` on ``rows``."""
    return float(kind.loss(outputs(model, rows.x), rows.y.cpu()))


def predict(model: nn.Module, x: Tensor, kind: Kind) -> NDArray[np.float64]:
    """Return probabilities [N, C] or predictions [N, 1]."""
    return kind.predict(outputs(model, x))


def _run(
    model: nn.Module,
    rows: Rows,
    kind: Kind,
    spec: TrainSpec,
    rng: np.random.Generator,
    stepper: Stepper,
    tick: Tick,
) -> Trained:
    processed = steps = 0
    planned = spec.steps(len(rows))
    model.train()
    for layer in stepper.still:
        layer.training = False
    objective = _objective(model, kind, stepper.attract)
    for indices in batches(len(rows), spec, rng):
        index = torch.as_tensor(indices, device=rows.x.device)
        stepper.optimizer.zero_grad(set_to_none=True)
        objective(rows.x[index], rows.y[index]).backward()  # type: ignore[no-untyped-call]
        stepper.step()
        processed += len(indices)
        steps += 1
        tick(steps / planned)
    return Trained(processed, steps)


def _objective(model: nn.Module, kind: Kind, attract: Attract | None) -> Callable[[Tensor, Tensor], Tensor]:
    if attract is None:
        return lambda x, y_N: kind.loss(model(x), y_N)
    # Split once the layers are in their modes: a body may be a copy of the outermost module.
    body, head = split(model)

    def attracted(x: Tensor, y_N: Tensor) -> Tensor:
        features_NF = body(x)
        return kind.loss(head(features_NF), y_N) + attract(features_NF, y_N)

    return attracted


def _width(model: nn.Module, x: Tensor) -> int:
    return int(model(torch.zeros(1, *x.shape[1:], device=x.device)).shape[1])


def _optimizer(parameters: Iterable[nn.Parameter], spec: TrainSpec) -> torch.optim.Optimizer:
    if spec.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
