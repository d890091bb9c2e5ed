"""FedAdam: the mean of the sites' changes is a pseudo-gradient for Adam at the server.

    Δ = mean − x;   m ← β₁ m + (1−β₁) Δ;   v ← β₂ v + (1−β₂) Δ²;   x ← x + η m / (√v + τ)

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2: v starts at τ² and there
is no bias correction. With ``bias_correction`` v starts at 0 and η is multiplied by
√(1−β₂ᵗ) / (1−β₁ᵗ), t = 1 in the first round (Kingma and Ba, ICLR 2015, section 2). Flower's
FedAdam corrects with t = 2 in its first round and starts v at 0, so its arrays differ from both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.aggregation.contract import is_averaged, parse_options
from protocol.arrays import Arrays, ArraySpec, Spec, check_spec, spec_of
from protocol.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """What a collaboration may set.

    Attributes:
        server_lr: η, above 0.
        beta1: β₁, the momentum, 0 up to but not 1.
        beta2: β₂, the memory of the squares, 0 up to but not 1.
        tau: τ, above 0; the smaller, the more adaptive.
        bias_correction: whether to correct as in the original Adam; the paper does not.

    Raises:
        ConfigError: a value is outside what is allowed.
    """

    server_lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    bias_correction: bool = False

    def __post_init__(self) -> None:
        for name, value in (("server_lr", self.server_lr), ("tau", self.tau)):
            if not 0.0 < value < math.inf:
                raise ConfigError(f"aggregation fedadam: {name} is {value}, allowed: above 0")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"aggregation fedadam: {name} is {value}, allowed: 0 up to but not 1")


def init(arrays: Arrays, **options: Any) -> dict[str, NDArray[Any]]:
    """Return ``m.NAME`` and ``v.NAME`` for every floating array, and ``step`` [1], the rounds so far."""
    chosen = parse_options("fedadam", Options, options)
    start = 0.0 if chosen.bias_correction else chosen.tau**2
    state: dict[str, NDArray[Any]] = {"step": np.zeros(1, np.int64)}
    for name, spec in _state_spec(arrays).items():
        if name != "step":
            state[name] = np.full(spec.shape, start if name.startswith("v.") else 0.0, spec.dtype)
    return state


def apply(
    arrays: Arrays, mean: Arrays, state: Arrays, **options: Any
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the next global arrays (the server's own where not floating) and the next state.

    Raises:
        ArraysError: ``mean`` or ``state`` does not belong to ``arrays``.
        ConfigError: an option is unknown or outside what is allowed.
    """
    chosen = parse_options("fedadam", Options, options)
    check_spec(mean, spec_of(arrays))
    check_spec(state, _state_spec(arrays))
    step = int(state["step"][0]) + 1
    rate = chosen.server_lr * (_bias_correction(chosen, step) if chosen.bias_correction else 1.0)
    next_arrays: dict[str, NDArray[Any]] = {}
    next_state: dict[str, NDArray[Any]] = {"step": np.array([step], np.int64)}
    for name, own in arrays.items():
        if not is_averaged(own):
            next_arrays[name] = own.copy()
            continue
        m, v = state[f"m.{name}"], state[f"v.{name}"]
        change = mean[name].astype(m.dtype) - own.astype(m.dtype)
        m = np.asarray(chosen.beta1 * m + (1.0 - chosen.beta1) * change)
        v = np.asarray(chosen.beta2 * v + (1.0 - chosen.beta2) * np.square(change))
        next_arrays[name] = np.asarray(own + rate * m / (np.sqrt(v) + chosen.tau), own.dtype)
        next_state[f"m.{name}"], next_state[f"v.{name}"] = m, v
    return next_arrays, next_state


def _bias_correction(chosen: Options, step: int) -> float:
    return math.sqrt(1.0 - chosen.beta2**step) / (1.0 - chosen.beta1**step)


def _state_spec(arrays: Arrays) -> Spec:
    """Return the state's names and shapes; it is kept in float32 at least."""
    spec = {"step": ArraySpec((1,), "int64")}
    for name, array in arrays.items():
        if is_averaged(array):
            dtype = str(np.promote_types(array.dtype, np.float32))
            spec[f"m.{name}"] = spec[f"v.{name}"] = ArraySpec(array.shape, dtype)
    return spec
