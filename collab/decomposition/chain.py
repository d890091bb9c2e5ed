"""The inputs of a subtask that comes after others: its own features, then their predicted soft outputs.

What is appended of a classification is its probabilities at the temperature of its final model, of a
regression the prediction as (value - mean) / scale. Nothing here knows a true upstream label: the same
function makes the inputs in training, in evaluation and at prediction time.

Shape suffixes: N rows, F own features, K outputs of all direct upstream subtasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from collab.calibration import apply_temperature
from collab.collaboration import named_kind
from collab.data.examples import Examples
from collab.data.preprocess import Preprocessing
from collab.models.contract import build, from_arrays, inference_mib, to_arrays
from collab.training import predict
from protocol.arrays import Arrays, check, digest, spec_of
from protocol.errors import ArraysError, MessageError, UpstreamError
from protocol.messages import Subtask
from protocol.parts import SettledModel, Upstream

Floats = NDArray[np.float32]
# The rows as a preprocessing wants them: the same for all at a site, a file read anew for new rows.
Read = Callable[[Preprocessing], Examples]

_CPU: Final = torch.device("cpu")
# A standardised prediction beyond this tells a model nothing more.
_MAX_SCALED: Final = 1e6


def input_shape(subtask: Subtask) -> tuple[int, ...]:
    """Return the shape of one row of a subtask's inputs: (F + K,), or that of an image.

    Raises:
        MessageError: the subtask came without its preprocessing, or with one that cannot be read.
    """
    own = _preprocessing(subtask.preprocessing, subtask.name).input_shape
    return (own[0] + _width(_direct(subtask), subtask),) if subtask.upstream else own


def inputs(subtask: Subtask, read: Read, arrays: Mapping[str, Arrays], device: torch.device = _CPU) -> Floats:
    """Return the inputs [N, F + K], float32 and finite; without upstream what the preprocessing gives.

    Args:
        subtask: whose inputs.
        read: gives the rows that a preprocessing is applied to.
        arrays: the final model's arrays of each of ``subtask.upstream``.
        device: where the upstream models predict.

    Raises:
        UpstreamError: a model of ``upstream`` is not settled, or its arrays are not there.
        ArraysError: its arrays are not those of its digest, or it predicts what is not finite.
        DataError: the rows lack a column that the subtask or one of ``upstream`` was fitted on.
    """
    preprocessing = _preprocessing(subtask.preprocessing, subtask.name)
    own_NF = preprocessing.transform(read(preprocessing))
    if not subtask.upstream:
        return own_NF
    soft: dict[str, Floats] = {}
    for one in subtask.upstream:
        soft[one.name] = _soft_outputs(one, subtask, read, soft, arrays, device)
    return np.concatenate([own_NF, *(soft[name] for name in _direct(subtask))], axis=1)


def ablated(x_NF: Floats, train_NF: Floats, subtask: Subtask) -> Floats:
    """Return inputs in which upstream subtasks say the same of every row: their mean on train rows.

    What a model loses by it is what those outputs were worth to it.
    """
    told = _width(_direct(subtask), subtask)
    kept = x_NF.shape[1] - told
    mean_K = train_NF[:, kept:].mean(axis=0)
    return np.concatenate([x_NF[:, :kept], np.broadcast_to(mean_K, (len(x_NF), told))], axis=1)


def check_arrays(one: Upstream, subtask: Subtask, arrays: Arrays) -> nn.Module:
    """Return the model of ``one`` holding ``arrays``, which are checked first.

    Raises:
        UpstreamError: its subtask is not over yet.
        ArraysError: names, shapes, dtypes, finiteness or the digest are not those that were announced.
    """
    settled = _settled(one)
    own = _preprocessing(settled.preprocessing, one.name).input_shape
    shape = (own[0] + _width(one.after, subtask),) if one.after else own
    module = build(settled.model, shape, one.outputs, seed=0)
    check(arrays, spec_of(to_arrays(module)))
    if digest(arrays) != settled.digest:
        raise ArraysError(f"the arrays of upstream subtask '{one.name}' are not those of its digest")
    from_arrays(module, arrays)
    return module


def memory_mib(subtask: Subtask, arrays: Mapping[str, Arrays]) -> float:
    """Return what predicting with the largest of the upstream models takes, in MiB; 0 without any."""
    modules = (check_arrays(one, subtask, arrays[one.name]) for one in subtask.upstream)
    return max(map(inference_mib, modules), default=0.0)


def _preprocessing(text: str | None, name: str) -> Preprocessing:
    if text is None:
        raise MessageError(f"subtask '{name}' came without its preprocessing")
    try:
        return Preprocessing.model_validate_json(text)
    except ValidationError:
        raise MessageError(f"the preprocessing of subtask '{name}' is not of this version") from None


def _settled(one: Upstream) -> SettledModel:
    if one.settled is None:
        raise UpstreamError(f"upstream subtask '{one.name}' is not over yet: it has no final model")
    return one.settled


def _direct(subtask: Subtask) -> tuple[str, ...]:
    return tuple(one.name for one in subtask.upstream if one.direct)


def _width(names: tuple[str, ...], subtask: Subtask) -> int:
    """Return how many outputs these upstream subtasks have together."""
    return sum(one.outputs for one in subtask.upstream if one.name in names)


def _soft_outputs(
    one: Upstream,
    subtask: Subtask,
    read: Read,
    soft: Mapping[str, Floats],
    arrays: Mapping[str, Arrays],
    device: torch.device,
) -> Floats:
    """Return what the final model of ``one`` says of the rows [N, K], itself fed by ``soft``."""
    settled = _settled(one)
    if one.name not in arrays:
        raise UpstreamError(f"the model of upstream subtask '{one.name}' is not here: send it along")
    module = check_arrays(one, subtask, arrays[one.name])
    preprocessing = _preprocessing(settled.preprocessing, one.name)
    own_NF = preprocessing.transform(read(preprocessing))
    x_NF = np.concatenate([own_NF, *(soft[name] for name in one.after)], axis=1) if one.after else own_NF
    kind = named_kind(one.kind)
    found_NK = predict(module.to(device), torch.as_tensor(x_NF).to(device), kind)
    if not np.isfinite(found_NK).all():
        raise ArraysError(f"the model of upstream subtask '{one.name}' predicts what is not finite")
    if kind.output == "classes":
        return apply_temperature(found_NK, settled.temperature).astype(np.float32)
    scaled_NK = np.clip((found_NK - settled.mean) / settled.scale, -_MAX_SCALED, _MAX_SCALED)
    return np.asarray(scaled_NK, dtype=np.float32)
