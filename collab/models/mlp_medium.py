"""A perceptron with two hidden layers of 128 and 64."""

import math

from torch import nn


def build(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return flattened inputs -> 128 -> 64 -> outputs."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, outputs),
    )
