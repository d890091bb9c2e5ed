"""Two 3x3 convolutions of 16 and 32 channels, pooled to 4x4, and a hidden layer of 64."""

from torch import nn

from collab.models.contract import group_norm


def build(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return images [C, H, W] -> outputs."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 16, 3, padding=1),
        group_norm(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        group_norm(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, outputs),
    )
