"""Knowledge distillation from soft labels (Hinton et al., 2015, https://arxiv.org/abs/1503.02531).

Shape suffixes: N rows of the public set, C classes.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from protocol.messages import DigestSpec

Sharpening = float | Literal["hard"]

# What `sharpen = "auto"` tries: the best ensemble is often the worst soft teacher
# until it is sharpened (a flat teacher at T = 1 lost 25 points on MNIST, Dirichlet 0.1).
AUTO: tuple[Sharpening, ...] = (1.0, 0.5, 0.1, "hard")

_FLOOR = 1e-12


def sharpen(soft_labels_NC: NDArray[np.floating], temperature: Sharpening) -> NDArray[np.float64]:
    """Return p^(1/T), normalised in each row, or one-hot rows for ``"hard"`` (first class wins a tie)."""
    p_NC = np.asarray(soft_labels_NC, dtype=np.float64)
    if temperature == "hard":
        one_hot_NC: NDArray[np.float64] = np.eye(p_NC.shape[1])[p_NC.argmax(axis=1)]
        return one_hot_NC
    log_NC = np.log(np.maximum(p_NC, _FLOOR)) / temperature
    log_NC -= log_NC.max(axis=1, keepdims=True)
    raised_NC: NDArray[np.float64] = np.exp(log_NC) * (p_NC > 0)  # a class that had no mass gets none
    raised_NC /= raised_NC.sum(axis=1, keepdims=True)
    return raised_NC


def by_entropy(soft_labels_NC: NDArray[np.floating]) -> Sharpening:
    """Return a sharpening for soft labels that no student has been tried on yet.

    The mildest of 1, 0.5 and 0.1 that brings the mean entropy of a row below 0.35 log C: a teacher
    that is nearly flat teaches little but flatness.
    """
    limit = 0.35 * math.log(soft_labels_NC.shape[1])
    for temperature in (1.0, 0.5):
        p_NC = sharpen(soft_labels_NC, temperature)
        if float(-(p_NC * np.log(np.maximum(p_NC, _FLOOR))).sum(axis=1).mean()) <= limit:
            return temperature
    return 0.1


def distillation_loss(logits_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
    """Return T² KL(teacher_T ‖ softmax(logits / T)), the mean over rows.

    ``teacher_NC`` holds probabilities; they are softened by the same T. T² keeps the gradient's
    scale when T changes. No gradient flows into the teacher.
    """
    teacher = teacher_NC.detach()
    if temperature != 1.0:
        teacher = torch.softmax(teacher.clamp_min(_FLOOR).log() / temperature, dim=1)
    student = log_softmax(logits_NC / temperature, dim=1)
    return kl_div(student, teacher, reduction="batchmean") * temperature**2


def distil(
    model: nn.Module,
    x: Tensor,
    teacher_NC: NDArray[np.floating],
    rng: np.random.Generator,
    spec: DigestSpec,
) -> int:
    """Train ``model`` in place (Adam) to give the teacher's soft labels; return the examples processed."""
    target_NC = torch.as_tensor(np.array(teacher_NC, dtype=np.float32)).to(x.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=spec.lr, fused=True)
    model.train()
    for _ in range(spec.epochs):
        for indices in np.array_split(rng.permutation(len(x)), math.ceil(len(x) / spec.batch_size)):
            index = torch.as_tensor(indices, device=x.device)
            optimizer.zero_grad(set_to_none=True)
            loss = distillation_loss(model(x[index]), target_NC[index], spec.temperature)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return spec.epochs * len(x)
