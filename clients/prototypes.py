"""Exchange ``prototypes`` at a site: train towards everybody's class means, give back its own."""

from __future__ import annotations

import numpy as np

from clients import egress
from clients.work import Desk, Reply, batches_of, class_counts, contribution
from collab.models.contract import to_arrays
from collab.prototypes import attraction, prototypes
from collab.training import train_counted
from protocol.arrays import Arrays, ArraySpec, check
from protocol.messages import Assignment, Contribution, PrototypeSpec

# Fewer rows than this give no mean: that of one row is its features.
LEAST_ROWS = 5


def train_prototypes(desk: Desk, assignment: Assignment, arrays: Arrays) -> tuple[Contribution, Reply]:
    """Train the site's own model, its features pulled to the classes' prototypes, and return its means."""
    spec, classes = desk.subtask.prototypes or PrototypeSpec(), desk.subtask.outputs
    raw = desk.raw()
    rows = desk.rows(raw.train)
    module = desk.current(assignment.model)
    attract = None
    if arrays:
        shapes = {
            "prototypes": ArraySpec((classes, spec.dim), "float32"),
            "known": ArraySpec((classes,), "uint8"),
        }
        check(arrays, shapes)
        known_C = arrays["known"].astype(np.float64)
        attract = attraction((arrays["prototypes"], known_C), spec.strength, desk.site.device)
    rng = batches_of(desk, assignment)
    train_spec, tick = desk.subtask.train, desk.tick
    trained = train_counted(module, rows, desk.kind, train_spec, rng, attract=attract, tick=tick)
    desk.state.put(desk.subtask.name, assignment.model, to_arrays(module))
    means_CD, _ = prototypes(module, rows, classes, spec.dim)
    means_CD[class_counts(desk, raw) < LEAST_ROWS] = 0.0
    given: Reply = {"prototypes": means_CD}
    histogram = egress.histogram(class_counts(desk, raw), desk.site.egress)
    said = contribution(desk, assignment, len(rows), trained, given)
    return said.model_copy(update={"class_counts": histogram}), given
