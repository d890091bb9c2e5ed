"""Knowledge distillation from soft labels (Hinton et al., 2015, https://arxiv.org/abs/1503.02531).

A row of zeros is one on which every site abstains: nobody knows, so nothing is taught.
Shape suffixes: N rows of the public set, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from collab.progress import Watched, nothing
from protocol.errors import ArraysError, RunError
from protocol.messages import DigestSpec

Sharpening = float | Literal["hard"]

# What `sharpen = "auto"` tries: the best ensemble is often the worst soft teacher
# until it is sharpened (a flat teacher at T = 1 lost 25 points on MNIST, Dirichlet 0.1).
AUTO: tuple[Sharpening, ...] = (1.0, 0.5, 0.1, "hard")

_FLOOR = 1e-12
# As logits, probabilities below this are noise of their rounding, and would outweigh all others.
_LOGIT_FLOOR = 1e-7


def sharpen(soft_labels_NC: NDArray[np.floating], temperature: Sharpening) -> NDArray[np.float64]:
    """Return p^(1/T), normalised in each row, or one-hot rows for ``"hard"`` (first class wins a tie).

    Rows of zeros stay so.
    """
    p_NC = np.asarray(soft_labels_NC, dtype=np.float64)
    if temperature == "hard":
        one_hot_NC: NDArray[np.float64] = np.eye(p_NC.shape[1])[p_NC.argmax(axis=1)]
        return one_hot_NC * known_rows(p_NC)[:, None]
    log_NC = np.log(np.maximum(p_NC, _FLOOR)) / temperature
    log_NC -= log_NC.max(axis=1, keepdims=True)
    raised_NC: NDArray[np.float64] = np.exp(log_NC) * (p_NC > 0)  # a class that had no mass gets none
    raised_NC /= np.where(known_rows(p_NC), raised_NC.sum(axis=1), 1.0)[:, None]
    return raised_NC


def known_rows(soft_labels_NC: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which rows [N] say anything: somebody gives some class some mass."""
    known_N: NDArray[np.bool_] = np.any(soft_labels_NC > 0, axis=1)
    return known_N


def by_entropy(soft_labels_NC: NDArray[np.floating]) -> Sharpening:
    """Return a sharpening for soft labels that no student has been tried on yet.

    The mildest of 1, 0.5 and 0.1 that brings the mean entropy of a row below 0.35 log C: a teacher
    that is nearly flat teaches little but flatness. Rows that say nothing are left out.
    """
    soft_labels_NC = soft_labels_NC[known_rows(soft_labels_NC)]
    if not len(soft_labels_NC):
        return 1.0
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


def logit_distance(logits_NC: Tensor, teacher_NC: Tensor) -> Tensor:
    """Return the mean absolute difference of the student's logits and the teacher's, as FedMD digests.

    Probabilities give logits up to a constant a row, so both sides are centred. Li and Wang, 2019,
    https://arxiv.org/abs/1910.03581. No gradient flows into the teacher.
    """
    teacher = teacher_NC.detach().clamp_min(_LOGIT_FLOOR).log()
    difference_NC = logits_NC - teacher
    return (difference_NC - difference_NC.mean(dim=1, keepdim=True)).abs().mean()


def feddf_teacher(logits: Iterable[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return the softmax of the models' mean logits [N, C] (FedDF, Lin et al., NeurIPS 2020).

    Meant for models that all come from one global model (https://arxiv.org/abs/2006.07242). The logit
    that an independent model gives a class it never saw is arbitrary, and the mean hands it on.

    Raises:
        RunError: there are no models.
        ArraysError: their logits differ in shape.
    """
    total_NC, count = np.zeros(()), 0
    for logits_NC in logits:
        if count and logits_NC.shape != total_NC.shape:
            raise ArraysError(
                f"logits have the shapes {total_NC.shape} and {logits_NC.shape}: one public set?"
            )
        total_NC = total_NC + np.asarray(logits_NC, dtype=np.float64)
        count += 1
    if not count:
        raise RunError("no models to make a teacher of")
    mean_NC = total_NC / count
    raised_NC = np.exp(mean_NC - mean_NC.max(axis=1, keepdims=True))
    probabilities_NC: NDArray[np.float32] = (raised_NC / raised_NC.sum(axis=1, keepdims=True)).astype(
        np.float32
    )
    return probabilities_NC


def distil(
    model: nn.Module,
    x: Tensor,
    teacher_NC: NDArray[np.floating],
    rng: np.random.Generator,
    spec: DigestSpec,
    **watched: Unpack[Watched],
) -> int:
    """Train ``model`` in place (Adam) to give the teacher's soft labels; return the examples processed.

    Rows of zeros are skipped. With the loss ``mae_logits`` the temperature has no part.
    """
    known_N = known_rows(teacher_NC)
    if not known_N.all():
        x, teacher_NC = x[torch.as_tensor(known_N, device=x.device)], teacher_NC[known_N]
    if not len(x):
        return 0
    target_NC = torch.as_tensor(np.array(teacher_NC, dtype=np.float32)).to(x.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=spec.lr, fused=True)
    tick, per_epoch = watched.get("tick", nothing), math.ceil(len(x) / spec.batch_size)
    model.train()
    for epoch in range(spec.epochs):
        for batch, indices in enumerate(np.array_split(rng.permutation(len(x)), per_epoch), 1):
            index = torch.as_tensor(indices, device=x.device)
            optimizer.zero_grad(set_to_none=True)
            lost = _lost(model(x[index]), target_NC[index], spec)
            lost.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            tick((epoch + batch / per_epoch) / spec.epochs)
    return spec.epochs * len(x)


def _lost(logits_NC: Tensor, teacher_NC: Tensor, spec: DigestSpec) -> Tensor:
    if spec.loss == "mae_logits":
        return logit_distance(logits_NC, teacher_NC)
    return distillation_loss(logits_NC, teacher_NC, spec.temperature)
