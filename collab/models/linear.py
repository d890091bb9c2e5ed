"""Logistic or linear regression: one linear layer."""

import math

from torch import nn


def build(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return flattened inputs -> outputs."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), outputs))
