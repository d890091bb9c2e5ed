"""The server's own training: students of soft labels, and the root update of rules that need one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from collab.collaboration import named_kind
from collab.distillation import AUTO, Sharpening, distil, sharpen
from collab.models.contract import build, from_arrays, to_arrays
from collab.rng import generator
from collab.terms import DistillationTerms
from collab.training import Rows, predict, train
from protocol.arrays import Arrays
from protocol.errors import MessageError
from server.courier import Courier
from server.preparation import Prepared
from server.record import Record


@dataclass(frozen=True)
class Student:
    """The last accepted student: its arrays, the teacher's sharpening and the round it was made in."""

    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    sharpening: Sharpening
    round: int
    validation: float
    temperature: float = 1.0


def sharpenings(terms: DistillationTerms) -> tuple[Sharpening, ...]:
    """Return the teacher's temperatures that these terms ask to try."""
    if terms.sharpen == "auto":
        return AUTO
    if terms.sharpen in {"none", "hard"}:
        return ("hard",) if terms.sharpen == "hard" else (1.0,)
    return (float(terms.sharpen),)


@dataclass(frozen=True)
class Distiller:
    """Trains models of one subtask at the server; its time counts."""

    prepared: Prepared
    terms: DistillationTerms
    seconds_a_example: float
    record: Record

    def student(
        self,
        courier: Courier,
        start: tuple[str, Arrays],
        soft_labels_NC: NDArray[np.floating],
        sharpening: Sharpening,
        round_: int,
    ) -> dict[str, NDArray[Any]]:
        """Return the arrays of ``start`` after distillation from the sharpened soft labels.

        Rows without any mass, on which every site abstained, are left out. A run that is resumed does not
        train again what it had trained.
        """
        key = f"{round_}/{self.prepared.subtask.name}/{start[0]}/{sharpening}"
        said = self.record.replayed("distilled", key)
        if said is None:
            made, processed = self._distilled(start, soft_labels_NC, sharpening, round_)
            if self.record.keeps:
                kept = self.record.put_arrays(made)
                self.record.note("distilled", key, {"processed": processed, "arrays": kept})
        else:
            made, processed = self.record.arrays(said["arrays"], replayed=True), int(said["processed"])
        courier.spend(processed * self.seconds_a_example)
        return made

    def _distilled(
        self,
        start: tuple[str, Arrays],
        soft_labels_NC: NDArray[np.floating],
        sharpening: Sharpening,
        round_: int,
    ) -> tuple[dict[str, NDArray[Any]], int]:
        """Return a student's arrays, and how many examples that took."""
        public = self.prepared.public
        if public is None:
            raise MessageError(f"subtask '{self.prepared.subtask.name}' has no public set to distil on")
        model, arrays = start
        module = build(model, public.shape[1:], self.prepared.subtask.outputs, seed=0)
        from_arrays(module, arrays)
        known_N = soft_labels_NC.sum(axis=1) > 0
        teacher_NC = sharpen(soft_labels_NC[known_N], sharpening)
        keys = (str(sharpening), "student") if model == self.terms.student else (str(sharpening), model)
        rng = generator(self.prepared.subtask.seed, round_, self.prepared.subtask.name, *keys)
        processed = distil(module, torch.as_tensor(public[known_N]), teacher_NC, rng, self.terms.spec)
        return to_arrays(module), processed

    def outputs(self, model: str, arrays: Arrays) -> NDArray[np.float64]:
        """Return the probabilities [N, C] of a site's model on the public set."""
        public = self.prepared.public
        if public is None:
            raise MessageError(f"subtask '{self.prepared.subtask.name}' has no public set")
        return model_outputs(self.prepared, model, arrays, public)


def model_outputs(
    prepared: Prepared, model: str, arrays: Arrays, x: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the outputs [N, K] of a model that the server holds."""
    module = build(model, x.shape[1:], prepared.subtask.outputs, seed=0)
    from_arrays(module, arrays)
    return predict(module, torch.as_tensor(x), named_kind(prepared.subtask.kind))


def root_update(prepared: Prepared, model: str, arrays: Arrays, round_: int) -> dict[str, NDArray[Any]]:
    """Return ``arrays`` after one assignment's training on the root set, as a trusted site would."""
    if prepared.root is None:
        raise MessageError(f"subtask '{prepared.subtask.name}' has no root set")
    x, y = prepared.root
    kind = named_kind(prepared.subtask.kind)
    module = build(model, x.shape[1:], prepared.subtask.outputs, seed=0)
    from_arrays(module, arrays)
    rng = generator(prepared.subtask.seed, round_, prepared.subtask.name, "root")
    train(module, Rows(torch.as_tensor(x), kind.target(y)), kind, prepared.subtask.train, rng)
    return to_arrays(module)
