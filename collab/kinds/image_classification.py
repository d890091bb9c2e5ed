"""Small images to one of several classes."""

from torch.nn.functional import cross_entropy

from collab.kinds.contract import Kind

KIND = Kind(
    inputs="image",
    output="classes",
    models=("mlp_medium", "cnn_small", "cnn_medium"),
    metrics=("accuracy", "log_loss", "balanced_accuracy", "auroc", "f1"),
    loss=cross_entropy,
)
