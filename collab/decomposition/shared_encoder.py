"""One encoder for several subtasks, a linear head for each: what is merged before it is split by affinity.

Made of any model of ``collab.models``: its body is the encoder, its last layer the head. Towards
``collab.training`` it is one model with one kind: outputs side by side, targets [N, K] with NaN where a
row has no label for a subtask, the loss Σ importance_k × mean loss over the rows that have one. So
``training.train`` trains it, with all that steers local training. Each subtask's part of it is the very
model that ``models.build`` makes, so a subtask that goes on alone needs nothing of this.

Shape suffixes: N rows, K subtasks, F features, O outputs of all heads side by side.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from collab.heads import head_names, split
from collab.kinds.contract import Kind
from collab.models.contract import build, from_arrays, to_arrays
from collab.plugins import unknown
from collab.rng import derive
from collab.training import Rows
from protocol.arrays import Arrays, check, spec_of
from protocol.errors import ConfigError

# How arrays of a shared encoder are named on their way.
ENCODER: Final = "encoder/"
HEAD: Final = "head/"


@dataclass(frozen=True)
class Part:
    """One subtask of a shared encoder.

    Attributes:
        name: of the subtask.
        kind: gives its loss and the dtype of its targets.
        outputs: width of its head: classes, or 1.
        importance: λ, what its loss counts in the sum.
    """

    name: str
    kind: Kind
    outputs: int
    importance: float = 1.0


class SharedEncoder(nn.Module):
    """An encoder and a head for each part; ``forward`` gives all outputs side by side, [N, O].

    Args:
        encoder: the body of a model, to features [N, F].
        heads: in order of ``parts``.
        parts: the subtasks.
        head_prefix: the head's name in the ordinary model, "4" or "head".
    """

    def __init__(
        self, encoder: nn.Module, heads: Sequence[nn.Linear], parts: Sequence[Part], head_prefix: str
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList(heads)
        self.parts = tuple(parts)
        self.head_prefix = head_prefix

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all heads, [N, O]."""
        return self.decode(self.encoder(x))

    def decode(self, features_NF: Tensor) -> Tensor:
        """Return the outputs of all heads on features, [N, O]."""
        return torch.cat([head(features_NF) for head in self.heads], dim=1)

    def of(self, name: str) -> nn.Sequential:
        """Return encoder and head of one subtask, parameters shared; ``ConfigError`` if it has none."""
        return nn.Sequential(self.encoder, self.heads[self._place(name)])

    def plain_arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return one subtask's arrays, as the model that ``models.build`` makes names them."""
        head = to_arrays(self.heads[self._place(name)])
        return to_arrays(self.encoder) | {f"{self.head_prefix}.{n}": a for n, a in head.items()}

    def shared_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays as they travel: ``encoder/NAME``, and ``head/SUBTASK/NAME`` for each part."""
        found = {f"{ENCODER}{n}": a for n, a in to_arrays(self.encoder).items()}
        for part, head in zip(self.parts, self.heads, strict=True):
            found |= {f"{HEAD}{part.name}/{n}": a for n, a in to_arrays(head).items()}
        return found

    def load_shared(self, arrays: Arrays) -> None:
        """Load what ``shared_arrays`` gives.

        Raises:
            ArraysError: names, shapes or dtypes differ, or a value is not finite.
        """
        check(arrays, spec_of(self.shared_arrays()))
        from_arrays(self.encoder, _under(arrays, ENCODER))
        for part, head in zip(self.parts, self.heads, strict=True):
            from_arrays(head, _under(arrays, f"{HEAD}{part.name}/"))

    def branch(self, names: Sequence[str]) -> SharedEncoder:
        """Return a copy for these subtasks alone, which goes on from the parameters as they are."""
        places = [self._place(name) for name in names]
        heads = [copy.deepcopy(self.heads[place]) for place in places]
        parts = [self.parts[place] for place in places]
        return SharedEncoder(copy.deepcopy(self.encoder), heads, parts, self.head_prefix)  # type: ignore[arg-type]

    def _place(self, name: str) -> int:
        names = [part.name for part in self.parts]
        if name not in names:
            raise ConfigError(unknown(f"subtask '{name}' of a shared encoder", name, names))
        return names.index(name)


def build_shared(model: str, input_shape: tuple[int, ...], parts: Sequence[Part], seed: int) -> SharedEncoder:
    """Return the model ``model`` with a head for each part.

    The encoder starts from ``seed`` alone and each head from ``seed`` and its name, so a subtask more
    or less changes nothing for the others.

    Raises:
        ConfigError: no such model, no head, no parameters in front of it, no parts, or two of one name.
    """
    names = [part.name for part in parts]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"a shared encoder needs subtasks of different names, found {names}")
    whole = build(model, input_shape, parts[0].outputs, derive(seed, "encoder"))
    encoder, _ = split(whole)
    if not any(True for _ in encoder.parameters()):
        raise ConfigError(f"model '{model}' has no layer in front of its head: there is nothing to share")
    prefix = min(head_names(whole)).rpartition(".")[0]
    heads = [split(build(model, input_shape, p.outputs, derive(seed, "head", p.name)))[1] for p in parts]
    return SharedEncoder(encoder, heads, parts, prefix)


def joint_kind(parts: Sequence[Part]) -> Kind:
    """Return the kind whose loss is the sum over ``parts``, for targets from ``joint_rows``.

    It is for training alone: metrics and predictions are of each subtask's own kind (``SharedEncoder.of``).
    """
    return Kind(parts[0].kind.inputs, "value", (), (), partial(_joint_loss, tuple(parts)))


def losses(parts: Sequence[Part], outputs_NO: Tensor, y_NK: Tensor) -> tuple[list[Tensor], NDArray[np.int64]]:
    """Return each subtask's mean loss over the rows that have its label, and how many these are, [K].

    Without such a row the loss is 0 and has no gradient.
    """
    found, counts = [], []
    for place, block_NO in enumerate(torch.split(outputs_NO, [part.outputs for part in parts], dim=1)):
        kind, y_N = parts[place].kind, y_NK[:, place]
        has_N = ~torch.isnan(y_N)
        count = int(has_N.sum())
        target_N = y_N[has_N].to(torch.int64 if kind.output == "classes" else outputs_NO.dtype)
        found.append(kind.loss(block_NO[has_N], target_N) if count else outputs_NO.new_zeros(()))
        counts.append(count)
    return found, np.array(counts)


def joint_rows(parts: Sequence[Part], rows: Mapping[str, Rows]) -> Rows:
    """Return the rows of all subtasks as one, y [N, K] float64, NaN where a row has no label.

    Subtasks whose inputs are one and the same tensor share its rows, and so one pass of the encoder;
    others' rows are stacked. A subtask may be missing: the site has no rows of it.

    Raises:
        ConfigError: rows of a subtask that is none of ``parts``, or of none at all.
    """
    names = [part.name for part in parts]
    strangers = [name for name in rows if name not in names]
    if strangers or not rows:
        raise ConfigError(
            f"a shared encoder of {', '.join(names)} has no head for rows of {', '.join(strangers)}"
            if strangers
            else f"a shared encoder of {', '.join(names)} needs rows of one of them, found none"
        )
    tables: dict[int, tuple[Tensor, Tensor]] = {}
    for name, own in rows.items():
        empty_NK = torch.full((len(own), len(parts)), torch.nan, dtype=torch.float64, device=own.x.device)
        _, y_NK = tables.setdefault(id(own.x), (own.x, empty_NK))
        y_NK[:, names.index(name)] = own.y.to(torch.float64)
    blocks = list(tables.values())
    if len(blocks) == 1:
        return Rows(*blocks[0])
    return Rows(torch.cat([x for x, _ in blocks]), torch.cat([y_NK for _, y_NK in blocks]))


def _under(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def _joint_loss(parts: Sequence[Part], outputs_NO: Tensor, y_NK: Tensor) -> Tensor:
    found, _ = losses(parts, outputs_NO, y_NK)
    return torch.stack([part.importance * loss for part, loss in zip(parts, found, strict=True)]).sum()
