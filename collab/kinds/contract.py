"""What a kind of subtask is: inputs, outputs, models, loss and metrics in one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protocol.errors import ConfigError

Output = Literal["classes", "value"]
Inputs = Literal["table", "image", "text"]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Kind:
    """One kind of subtask; a file of collab/kinds/ holds it under the name ``KIND``.

    Attributes:
        inputs: what the data formats deliver: rows of a table, images [N, C, H, W], or texts as [N, B].
        output: ``classes`` (a logit a class) or ``value`` (one number).
        models: names of the built-in models, smallest first.
        metrics: what can decide; the first is the default.
        loss: (outputs_NK, y_N) -> mean loss, a scalar.
    """

    inputs: Inputs
    output: Output
    models: tuple[str, ...]
    metrics: tuple[str, ...]
    loss: Loss

    @property
    def task(self) -> str:
        """``classification`` or ``regression``, as metrics and fusion call it."""
        return "classification" if self.output == "classes" else "regression"

    def outputs(self, labels: tuple[str, ...] | int | None) -> int:
        """Return the width of a model's last layer: the number of classes, or 1.

        Raises:
            ConfigError: fewer than two classes.
        """
        if self.output == "value":
            return 1
        count = labels if isinstance(labels, int) else len(labels or ())
        if count < 2:
            raise ConfigError(f"labels: a classification needs at least two, found {count}")
        return count

    def predict(self, outputs_NK: Tensor) -> NDArray[np.float64]:
        """Turn raw outputs into probabilities [N, C] or predictions [N, 1]."""
        if self.output == "classes":
            return torch.softmax(outputs_NK.double(), dim=1).numpy()
        return outputs_NK.double().numpy()

    def target(self, y_N: NDArray[np.generic]) -> Tensor:
        """Return the targets in the dtype that the loss wants."""
        dtype = torch.int64 if self.output == "classes" else torch.float32
        # A copy: rows may be kept from round to round, and are then read-only.
        return torch.as_tensor(np.array(y_N, order="C")).to(dtype)
