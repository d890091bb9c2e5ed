"""What steers local training beyond plain descent: pulls, corrections, frozen layers, terms on features.

Each is one option of ``collab.training.train``; a method (FedProx, SCAFFOLD, FedRep, Ditto, FedProto) is
made of them. Shapes: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from collab.progress import Watched
from protocol.arrays import Arrays
from protocol.errors import ArraysError

# A term of the loss: (features in front of the head [N, F], targets [N]) -> a scalar.
Attract = Callable[[Tensor, Tensor], Tensor]

Pairs = list[tuple[Tensor, Tensor]]


class Extras(Watched, total=False):
    """The options, beside ``tick``. What is left out costs nothing.

    Attributes:
        anchor: the parameters, by name, that ``spec.proximal_mu`` pulls towards; the start if left out.
        correction: what is added to the gradient of each trained parameter, by name.
        only: which names of parameters are trained. The others stay as they are, and a layer of which
            nothing is trained runs as in prediction, so that its running statistics stay too.
        attract: a term of the loss on the features in front of the head (see ``collab.heads``).
    """

    anchor: Arrays | None
    correction: Arrays | None
    only: Callable[[str], bool] | None
    attract: Attract | None


@dataclass(frozen=True)
class Stepper:
    """An optimiser and what is done around its step; each list is empty where there is nothing to do.

    Attributes:
        anchors: each trained parameter with what ``mu`` pulls it towards.
        corrections: each trained parameter with what is added to its gradient.
        still: layers that run as in prediction.
    """

    optimizer: torch.optim.Optimizer
    mu: float = 0.0
    anchors: Pairs = field(default_factory=list)
    corrections: Pairs = field(default_factory=list)
    still: list[nn.Module] = field(default_factory=list)
    attract: Attract | None = None

    def step(self) -> None:
        """Change the gradients as asked and take one step."""
        for parameter, anchor in self.anchors:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=self.mu)
        for parameter, correction in self.corrections:
            if parameter.grad is not None:
                parameter.grad.add_(correction)
        self.optimizer.step()


def anchored(trained: Mapping[str, nn.Parameter], anchor: Arrays | None) -> Pairs:
    """Return each trained parameter with its anchor: where it stands now, if none is given.

    Raises:
        ArraysError: ``anchor`` lacks a trained parameter or has it in another shape.
    """
    if anchor is None:
        return [(p, p.detach().clone()) for p in trained.values()]
    return paired("anchor", trained, anchor)


def paired(what: str, trained: Mapping[str, nn.Parameter], arrays: Arrays) -> Pairs:
    """Return each trained parameter with the array of its name; other arrays are not looked at.

    Raises:
        ArraysError: ``arrays``, called ``what``, lacks a trained parameter or has it in another shape.
    """
    for name, parameter in trained.items():
        if name not in arrays or arrays[name].shape != tuple(parameter.shape):
            raise ArraysError(f"{what} has no array '{name}' of shape {tuple(parameter.shape)}")
    # Copies: arrays from the wire are read-only views of the message.
    return [(p, torch.as_tensor(np.array(arrays[name])).to(p)) for name, p in trained.items()]


def still(model: nn.Module, only: Callable[[str], bool]) -> Iterator[nn.Module]:
    """Yield the layers that hold parameters or buffers, none of which ``only`` selects."""
    for prefix, layer in model.named_modules():
        held = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
        if held and not any(only(f"{prefix}.{name}" if prefix else name) for name, _ in held):
            yield layer


@contextmanager
def frozen(model: nn.Module, trained: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Spare all other parameters their gradients, for as long as this lasts."""
    others = [p for name, p in model.named_parameters() if name not in trained and p.requires_grad]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
