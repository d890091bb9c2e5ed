"""Measure at a site, while it trains, what a step for one subtask does to the loss of another.

    Z_ij = 1 − L_j(θ − η ∇L_i, φ_j) / L_j(θ, φ_j)

θ are the shared encoder's parameters, φ_j the head of j (Fifty et al., NeurIPS 2021; in federated learning
MAS, Zhuang et al., ICCV 2023). Here the gradient and the losses are of different rows of the site: on the
same rows every step looks helpful that merely fits them, noise included. Running statistics of
normalisation are those of copies that are thrown away, dropout is off, and batches of training come from
another generator, so a run that measures has the same parameters as one that does not.

Measure early: once a loss is near 0 its ratio is noise, and such pairs are left out. Z is held to [−1, 1],
so that what a site may contribute is bounded by its rows.

Shape suffixes: K subtasks, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from collab import metrics
from collab.decomposition import affinity
from collab.decomposition.shared_encoder import SharedEncoder, joint_kind, losses
from collab.progress import Watched, nothing
from collab.training import Rows, batches
from protocol.errors import ConfigError
from protocol.messages import TrainSpec

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Lookahead:
    """How affinities are measured.

    Attributes:
        every: before every so many batches, the first included (rho in MAS).
        step: η of the step that is tried; None for the learning rate.
        batch_size: rows that give the gradient, and as many others that give the losses; None for
            training's.
        least_loss: pairs whose loss L_j is below it are not measured.

    Raises:
        ConfigError: a value is not above 0.
    """

    every: int = 5
    step: float | None = None
    batch_size: int | None = None
    least_loss: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("every", "step", "batch_size", "least_loss"):
            found = getattr(self, name)
            if found is not None and not found > 0:
                raise ConfigError(f"affinity: {name} must be above 0, found {found}")


@dataclass(frozen=True)
class Measured:
    """What a site gives back beside the arrays.

    Attributes:
        processed: examples that went through the encoder in training.
        looked: what the measurements took, in examples of training: a pass back costs two forward.
        steps: of the optimiser.
        sums: of the affinities [K, K] (``affinity.sums``).
    """

    processed: int
    looked: int
    steps: int
    sums: Mapping[str, NDArray[np.float64]]


def train_measured(
    model: SharedEncoder,
    rows: Rows,
    spec: TrainSpec,
    lookahead: Lookahead,
    batch_rng: np.random.Generator,
    look_rng: np.random.Generator,
    **watched: Unpack[Watched],
) -> Measured:
    """Train ``model`` in place as ``training.train`` does and measure affinities on the way.

    Args:
        model: the merged model.
        rows: from ``shared_encoder.joint_rows``.
        spec: plain descent on labels.
        lookahead: how to measure.
        batch_rng: draws the batches of training.
        look_rng: draws the rows of the measurements.
        watched: see ``progress``.

    Raises:
        ConfigError: ``spec`` asks for more than plain descent.
    """
    if spec.objective != "supervised" or spec.proximal_mu:
        raise ConfigError("affinities are measured in supervised training without proximal_mu")
    loss, optimizer = joint_kind(model.parts).loss, _optimizer(model, spec)
    tick, planned = watched.get("tick", nothing), spec.steps(len(rows))
    processed = looked = steps = 0
    total = affinity.no_sums(len(model.parts))
    model.train()
    for indices in batches(len(rows), spec, batch_rng):
        if steps % lookahead.every == 0:
            found, took = measure(model, rows, spec, lookahead, look_rng)
            total, looked = metrics.merge([total, found]), looked + took
        index = torch.as_tensor(indices, device=rows.x.device)
        optimizer.zero_grad(set_to_none=True)
        loss(model(rows.x[index]), rows.y[index]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        processed, steps = processed + len(indices), steps + 1
        tick(steps / planned)
    return Measured(processed, looked, steps, total)


def measure(
    model: SharedEncoder, rows: Rows, spec: TrainSpec, lookahead: Lookahead, rng: np.random.Generator
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Return the sums of one measurement, and what it took in examples of training.

    ``model`` is left as it was. Fewer than 4 rows measure nothing: both batches need two.
    """
    size = min(lookahead.batch_size or spec.batch_size, len(rows) // 2)
    if size < 2:
        return affinity.no_sums(len(model.parts)), 0
    drawn = torch.as_tensor(rng.permutation(len(rows))[: 2 * size], device=rows.x.device)
    ahead, judged = (Rows(rows.x[at], rows.y[at]) for at in (drawn[:size], drawn[size:]))
    with _without_dropout(model):
        steps, gives_K = _steps(model, ahead, spec.lr if lookahead.step is None else lookahead.step)
        before_K, counts_K = _judge(model, {}, judged)
        after_KK = np.stack([_judge(model, changed, judged)[0] for changed in steps])
    measured_KK = gives_K[:, None] & (before_K >= lookahead.least_loss) & np.isfinite(before_K)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        affinity_KK = np.clip(1.0 - after_KK / before_K, -1.0, 1.0)
    # A step that breaks the model does all the harm that there is.
    affinity_KK = np.where(np.isnan(affinity_KK), -1.0, affinity_KK)
    # Forward once for the gradients and back for each, forward once for the losses before and each after;
    # training takes one forward and one back, which costs two.
    forward = 2 + 3 * len(model.parts)
    return affinity.sums(affinity_KK, np.where(measured_KK, counts_K, 0)), -(-size * forward // 3)


def _steps(
    model: SharedEncoder, rows: Rows, step: float
) -> tuple[list[dict[str, Tensor]], NDArray[np.bool_]]:
    """Return the encoder's parameters one step ahead for each subtask, and which subtasks have rows."""
    held = {name: p.detach().requires_grad_() for name, p in model.encoder.named_parameters()}
    found_K, counts_K = losses(model.parts, model.decode(_encode(model, held, rows.x)), rows.y)
    changed = []
    for loss, count in zip(found_K, counts_K, strict=True):
        gradients: tuple[Tensor | None, ...] = (None,) * len(held)
        if count:
            gradients = torch.autograd.grad(loss, list(held.values()), retain_graph=True, allow_unused=True)
        pairs = zip(held.items(), gradients, strict=True)
        changed.append({name: p.detach() if g is None else p.detach() - step * g for (name, p), g in pairs})
    return changed, counts_K > 0


@torch.no_grad()
def _judge(
    model: SharedEncoder, parameters: Mapping[str, Tensor], rows: Rows
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each subtask's loss with these parameters of the encoder, [K], and its rows, [K]."""
    found_K, counts_K = losses(model.parts, model.decode(_encode(model, parameters, rows.x)), rows.y)
    return torch.stack(found_K).cpu().double().numpy(), counts_K


def _encode(model: SharedEncoder, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return features by other parameters; buffers are copies, so running statistics stay."""
    buffers = {name: buffer.clone() for name, buffer in model.encoder.named_buffers()}
    features_NF: Tensor = functional_call(model.encoder, {**parameters, **buffers}, (x,))
    return features_NF


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Run layers as in training, dropout as in prediction, and put all back after."""
    modes = [(layer, layer.training) for layer in model.modules()]
    model.train()
    for layer in model.modules():
        if isinstance(layer, _DROPOUT):
            layer.training = False
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def _optimizer(model: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    given: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay}
    if spec.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), fused=True, **given)
    return torch.optim.SGD(model.parameters(), momentum=spec.momentum, **given)
