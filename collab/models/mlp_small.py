"""A perceptron with one hidden layer of 32."""

import math

from torch import nn


def build(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return flattened inputs -> 32 -> outputs."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(input_shape), 32), nn.ReLU(), nn.Linear(32, outputs)
    )
