"""Exchange ``prototypes`` (FedProto): the mean feature of each class, and no model travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab import prototypes
from collab.events import Send
from protocol.arrays import Arrays, ArraySpec
from protocol.errors import MessageError
from protocol.messages import Contribution, PrototypeSpec
from server.courier import Arrival, Courier, Letter
from server.evaluations import Measurement
from server.gate import Demand
from server.learner import Base, Effect, Model

# Features of a network that learns anything stay far below this; one such number would spoil a mean.
LARGEST = 1e6


@dataclass
class PrototypeLearner(Base):
    """The classes' prototypes; what is measured is each site's own model on its own rows."""

    prototypes_CD: NDArray[np.float32] | None = None
    counts_C: NDArray[np.float64] | None = None
    last: dict[str, tuple[NDArray[Any], NDArray[np.float64]]] = field(default_factory=dict)

    @property
    def spec(self) -> PrototypeSpec:
        """Of how many numbers a prototype is made."""
        return self.prepared.subtask.prototypes or PrototypeSpec()

    def letter(self, send: Send) -> Letter:
        """Return the assignment with the prototypes so far."""
        arrays: dict[str, NDArray[Any]] = {}
        if self.prototypes_CD is not None and self.counts_C is not None:
            arrays = {"prototypes": self.prototypes_CD, "known": (self.counts_C > 0).astype(np.uint8)}
        return self._letter(send, "train.prototypes", arrays or None)

    def demand(self, key: str, send: Send) -> Demand:
        """Return the shape of the prototypes, and the bound of their norm."""
        shape = (self.prepared.subtask.outputs, self.spec.dim)
        return self._demand(key, send, {"prototypes": ArraySpec(shape, "float32")}, LARGEST)

    def accept(self, key: str, contribution: Contribution, arrays: Arrays) -> None:
        """Check that the class counts are those that the site told before, then keep."""
        if contribution.class_counts != self.prepared.summaries[contribution.site].class_counts:
            raise MessageError("other class counts than the site said it has")
        self._keep(key, contribution, arrays)

    def aggregate(self, keys: Sequence[str], notes: list[str]) -> dict[str, float]:  # noqa: ARG002
        """Average each class over the last prototypes of every site, by its examples; credits are alike."""
        for key in keys:
            said = self.kept.pop(key)
            prototypes_CD = self.spool.take(key)["prototypes"]
            gives_C = np.any(prototypes_CD != 0, axis=1)  # of a class with too few rows it gives nothing
            self.last[said.site] = (prototypes_CD, np.asarray(said.class_counts) * gives_C)
        self.prototypes_CD, self.counts_C = prototypes.merge([self.last[s] for s in sorted(self.last)])
        return {}

    def effect(self, keys: Sequence[str]) -> Effect:  # noqa: ARG002
        """Return each site's last prototypes; their mean follows from them."""
        return Effect(arrays={site: {"p": p, "counts": c} for site, (p, c) in self.last.items()})

    def take_effect(self, keys: Sequence[str], effect: Effect) -> None:
        """Take up each site's last prototypes, and merge them."""
        self.last = {site: (found["p"], found["counts"]) for site, found in effect.arrays.items()}
        self.prototypes_CD, self.counts_C = prototypes.merge([self.last[s] for s in sorted(self.last)])
        self._let_go(keys)

    def measure(self, courier: Courier, round_: int, notes: list[str]) -> tuple[Measurement, list[Arrival]]:
        """Measure every site's own model on its own validation rows."""
        found = self._ask_own(courier, round_, notes)
        return found.measurement, found.others

    def final(self) -> Model | None:
        """There is no global model: each site deploys its own."""
        return None
