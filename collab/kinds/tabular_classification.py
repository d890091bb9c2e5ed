"""Rows of a table to one of several classes."""

from torch.nn.functional import cross_entropy

from collab.kinds.contract import Kind

KIND = Kind(
    inputs="table",
    output="classes",
    models=("linear", "mlp_small", "mlp_medium"),
    metrics=("log_loss", "accuracy", "balanced_accuracy", "auroc", "f1"),
    loss=cross_entropy,
)
