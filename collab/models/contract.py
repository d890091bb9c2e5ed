"""A model file has ``build(input_shape, outputs) -> nn.Module``; here is what all of them share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from collab import plugins
from protocol.arrays import Arrays

# Parameters, gradients, two moments of an optimiser and the activations of a batch.
_COPIES = 6
# What torch itself takes before the first tensor; a site with less cannot train at all.
_BASE_MIB = 16.0


def build(name: str, input_shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """Return the model ``name`` with parameters that depend on ``seed`` alone.

    Raises:
        ConfigError: no model of that name.
    """
    factory = plugins.load("models", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        module: nn.Module = factory.build(input_shape, outputs)
    return module


def memory_mib(module: nn.Module) -> float:
    """Estimate what training ``module`` takes, in MiB."""
    size: int = sum(p.numel() * p.element_size() for p in module.state_dict().values())
    return _BASE_MIB + _COPIES * size / 2**20


def inference_mib(module: nn.Module) -> float:
    """Estimate what predicting with ``module`` takes, in MiB."""
    return _BASE_MIB + (memory_mib(module) - _BASE_MIB) / 3


def to_arrays(module: nn.Module) -> dict[str, NDArray[Any]]:
    """Return copies of the parameters and buffers."""
    return {name: value.detach().cpu().numpy().copy() for name, value in module.state_dict().items()}


def from_arrays(module: nn.Module, arrays: Arrays) -> None:
    """Load ``arrays``, which have been checked against ``to_arrays``' names and shapes."""
    # A copy: arrays from the wire are read-only views of the message.
    module.load_state_dict({name: torch.as_tensor(np.array(value)) for name, value in arrays.items()})


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a normalisation that keeps no running statistics, so that models average cleanly.

    Batch normalisation loses 6 points under label skew (FedDF, NeurIPS 2020, CIFAR-10, α = 0.1).
    """
    return nn.GroupNorm(math.gcd(channels, 8), channels)
