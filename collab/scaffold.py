"""SCAFFOLD at a site: steps corrected for the drift of the site's own gradient.

    y ← y − η (g(y) − c_i + c),   K times from y = x
    c_i⁺ = c_i − c + (x − y) / (K η)                      (option II: no extra pass over the data)

Karimireddy et al., ICML 2020, https://arxiv.org/abs/1910.06378. The control c_i stays at the site
from round to round; the site sends y and c_i⁺ − c_i, which ``collab.aggregation.scaffold`` averages.

Use it where sites' data differ and most sites are asked most rounds: c_i is as old as the site's
last turn. It is plain SGD that makes c_i⁺ the mean of the gradients on the way; momentum and Adam
would fill it with something else, so they are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import nn

from collab.kinds.contract import Kind
from collab.models.contract import to_arrays
from collab.progress import Watched
from collab.training import Rows, Trained, train_counted
from protocol.arrays import Arrays, check, spec_of
from protocol.errors import ConfigError
from protocol.messages import TrainSpec


@dataclass(frozen=True)
class Scaffolded:
    """What one turn of a site gives.

    Attributes:
        trained: the examples and the steps K that it took.
        control: the site's new control c_i⁺, which it keeps.
        change: c_i⁺ − c_i, which it sends.
    """

    trained: Trained
    control: dict[str, NDArray[Any]]
    change: dict[str, NDArray[Any]]


def check_scaffold(spec: TrainSpec) -> None:
    """Raise ``ConfigError`` unless ``spec`` is the plain SGD that the controls assume."""
    for key, found, allowed in (
        ("optimizer", spec.optimizer, "sgd"),
        ("momentum", spec.momentum, 0.0),
        ("proximal_mu", spec.proximal_mu, 0.0),
    ):
        if found != allowed:
            raise ConfigError(f"scaffold corrects plain SGD: train.{key} is {found}, allowed: {allowed}")


def scaffold_step(
    model: nn.Module,
    rows: Rows,
    kind: Kind,
    spec: TrainSpec,
    rng: np.random.Generator,
    control: Arrays,
    own: Arrays | None,
    **watched: Unpack[Watched],
) -> Scaffolded:
    """Train ``model`` in place from x to y, corrected by ``control`` − ``own``.

    ``model`` holds x, the global parameters. ``control`` is the server's c, by name of parameter; a name
    that is no parameter has no control and a change of zero. ``own`` is the site's c_i, like ``control``;
    None for a site's first turn, when it is zero.

    Raises:
        ConfigError: ``spec`` is not plain SGD.
        ArraysError: ``control`` lacks a parameter, or ``own`` is not like ``control``.
    """
    check_scaffold(spec)
    own = own if own is not None else {name: np.zeros_like(c) for name, c in control.items()}
    check(own, spec_of(control))
    start = to_arrays(model)
    correction = {name: c - own[name] for name, c in control.items()}
    trained = train_counted(model, rows, kind, spec, rng, correction=correction, **watched)
    drift = _mean_gradient(start, model, trained.steps * spec.lr)
    renewed = {
        name: (drift[name] - correction[name]).astype(c.dtype) if name in drift else own[name]
        for name, c in control.items()
    }
    return Scaffolded(trained, renewed, {name: c - own[name] for name, c in renewed.items()})


def _mean_gradient(start: Arrays, model: nn.Module, length: float) -> dict[str, NDArray[np.float64]]:
    """Return (x − y) / (K η) by name of parameter; nothing where no step was taken."""
    if not length:
        return {}
    end = to_arrays(model)
    return {
        name: (start[name].astype(np.float64) - end[name]) / length for name, _ in model.named_parameters()
    }
