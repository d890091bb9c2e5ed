"""One 3x3 convolution of 8 channels, pooled to 4x4."""

from torch import nn

from collab.models.contract import group_norm


def build(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Return images [C, H, W] -> outputs."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 8, 3, padding=1),
        group_norm(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(8 * 16, outputs),
    )
