"""Rows of a table to one number."""

from torch import Tensor
from torch.nn.functional import mse_loss

from collab.kinds.contract import Kind


def squared_error(outputs_N1: Tensor, y_N: Tensor) -> Tensor:
    """Return the mean squared error."""
    return mse_loss(outputs_N1[:, 0], y_N)


KIND = Kind(
    inputs="table",
    output="value",
    models=("linear", "mlp_small", "mlp_medium"),
    metrics=("rmse", "mae", "r2"),
    loss=squared_error,
)
