"""Personal models: what a site keeps of its own, and how it trains that.

* Layers that never leave. FedPer keeps the head (Arivazhagan et al., 2019,
  https://arxiv.org/abs/1912.00818); FedRep keeps it and trains it first (Collins et al., ICML 2021,
  https://arxiv.org/abs/2102.07078): sites differ in what their labels mean. FedBN keeps the
  normalisation layers (Li et al., ICLR 2021, https://arxiv.org/abs/2102.07623): sites differ in what
  their inputs look like, say by their scanners.
* Ditto keeps a whole model v beside the global one w (Li et al., ICML 2021,
  https://arxiv.org/abs/2012.04221) and minimises F_i(v) + λ/2 ‖v − w‖²: λ = 0 is a site alone, a large
  λ the global model. It takes part in the global model as before, so it costs each round twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import nn

from collab.heads import head_names, norm_names, split
from collab.kinds.contract import Kind
from collab.progress import Watched, nothing, within
from collab.training import Rows, Trained, outputs, train_counted
from protocol.arrays import Arrays
from protocol.errors import ArraysError, ConfigError
from protocol.messages import TrainSpec

Keep = Literal["none", "head", "norm"]

# Which layers each published method keeps.
_METHODS: Final[Mapping[str, Keep]] = MappingProxyType(
    {"fedper": "head", "fedrep": "head", "fedbn": "norm", "ditto": "none"}
)
# Of the progress of FedRep: passes over features are cheap.
_HEAD_SHARE: Final = 0.25
_KEEPS: Final = frozenset({"none", "head", "norm"})


def kept_local(module: nn.Module, how: str) -> frozenset[str]:
    """Return the names of the arrays of ``module`` that never leave a site.

    ``how`` is ``none``, ``head``, ``norm`` or the method that keeps them: ``fedper``, ``fedrep``,
    ``fedbn``, ``ditto``.

    Raises:
        ConfigError: ``how`` is not known, or ``module`` has nothing of the kind to keep.
    """
    keep = _METHODS.get(how, how)
    if keep not in _KEEPS:
        raise ConfigError(f"layers to keep: '{how}', allowed: {', '.join(sorted(_KEEPS | _METHODS.keys()))}")
    if keep == "none":
        return frozenset()
    names = head_names(module) if keep == "head" else norm_names(module)
    if not names:
        raise ConfigError(
            f"'{how}' keeps normalisation layers: the model has none, so nothing would be personal; "
            "choose a model that has one, or keep the head"
        )
    return frozenset(names)


def overlay(global_arrays: Arrays, own: Arrays | None, names: frozenset[str]) -> dict[str, NDArray[Any]]:
    """Return the global arrays with the site's own in the places ``names``; nothing is copied.

    The global arrays may lack ``names``, as what travels does. A site without arrays of its own starts
    from the global ones.

    Raises:
        ArraysError: ``own`` lacks one of ``names``, or has it in another shape or dtype than the global.
    """
    if own is None:
        return dict(global_arrays)
    for name in names:
        if name not in own or not _alike(own[name], global_arrays.get(name, own[name])):
            raise ArraysError(f"kept array '{name}' is missing or unlike the global one")
    return {**global_arrays, **{name: own[name] for name in sorted(names)}}


def train_fedrep(
    model: nn.Module,
    rows: Rows,
    kind: Kind,
    spec: TrainSpec,
    rng: np.random.Generator,
    head_epochs: int,
    **watched: Unpack[Watched],
) -> Trained:
    """Train the head for ``head_epochs`` on the frozen body, then the body as ``spec`` says on that head.

    FedProx's pull, if any, acts on the body alone: there is no global head to pull towards.

    Returns:
        The steps of both, and the examples: an example of the head's costs a third, the forward pass.

    Raises:
        ConfigError: ``model`` has no head, or ``head_epochs`` is below 1.
    """
    if head_epochs < 1:
        raise ConfigError(f"head_epochs is {head_epochs}, allowed: 1 and more")
    body, head = split(model)
    # A frozen body gives the same features in every epoch: they are computed once.
    features = Rows(outputs(body, rows.x).to(rows.x.device), rows.y)
    alone = spec.model_copy(update={"local_epochs": head_epochs, "local_steps": None, "proximal_mu": 0.0})
    tick, kept = watched.get("tick", nothing), head_names(model)
    first = train_counted(head, features, kind, alone, rng, tick=within(tick, 0.0, _HEAD_SHARE))
    rest = within(tick, _HEAD_SHARE, 1.0)
    second = train_counted(model, rows, kind, spec, rng, only=lambda name: name not in kept, tick=rest)
    return Trained(-(-first.processed // 3) + second.processed, first.steps + second.steps)


def check_ditto(spec: TrainSpec, lam: float) -> None:
    """Raise ``ConfigError`` where Ditto's pull would overshoot its goal, or ``lam`` is negative."""
    if not 0.0 <= lam < np.inf:
        raise ConfigError(f"ditto's strength is {lam}, allowed: a finite number from 0 up")
    if spec.optimizer == "sgd" and spec.lr * lam > 1:
        raise ConfigError(
            f"ditto's strength {lam} with train.lr {spec.lr} steps beyond the global model: "
            f"allowed up to {1 / spec.lr:g}, or a smaller lr"
        )


def train_ditto(
    personal_model: nn.Module,
    global_arrays: Arrays,
    rows: Rows,
    kind: Kind,
    spec: TrainSpec,
    rng: np.random.Generator,
    lam: float,
    **watched: Unpack[Watched],
) -> Trained:
    """Train the site's own model in place, pulled by λ (v − w) towards ``global_arrays``.

    Raises:
        ConfigError: ``lam`` is negative, or too large for the learning rate.
        ArraysError: ``global_arrays`` lacks a parameter or has it in another shape.
    """
    check_ditto(spec, lam)
    pulled = spec.model_copy(update={"proximal_mu": lam})
    return train_counted(personal_model, rows, kind, pulled, rng, anchor=global_arrays, **watched)


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype
