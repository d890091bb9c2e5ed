"""Exchange ``soft_labels`` at a site: give an opinion on the public set, digest everybody's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clients import egress
from clients.work import Desk, Reply, batches_of, class_counts, contribution
from collab import selective
from collab.distillation import distil
from collab.models.contract import to_arrays
from collab.rng import generator
from collab.soft_labels.contract import check_soft_labels
from collab.training import Rows, predict, train_counted
from protocol.arrays import Arrays
from protocol.messages import Assignment, Contribution
from protocol.quantise_labels import decode_soft_labels, encode_soft_labels


def train_soft_labels(desk: Desk, assignment: Assignment) -> tuple[Contribution, Reply]:
    """Train the site's own model on private rows and return its probabilities on the public set."""
    raw = desk.raw()
    rows = desk.rows(raw.train)
    module = desk.current(assignment.model)
    rng = batches_of(desk, assignment)
    trained = train_counted(module, rows, desk.kind, desk.subtask.train, rng, tick=desk.tick)
    desk.state.put(desk.subtask.name, assignment.model, to_arrays(module))
    desk.state.forget(desk.subtask.name, "digested")
    public = desk.public()
    probabilities_NC = predict(module, public, desk.kind)
    probabilities_NC[_unlike_own(desk, rows, public)] = 0.0
    wire = encode_soft_labels(
        probabilities_NC.astype(np.float32), desk.subtask.wire.form, desk.subtask.wire.top_k
    )
    said = contribution(desk, assignment, len(rows), trained, wire)
    accuracy = None
    if "accuracy" in desk.subtask.asks and len(raw.validation):
        found_NC = predict(module, desk.rows(raw.validation).x, desk.kind)
        accuracy = float((found_NC.argmax(axis=1) == raw.validation.y).mean())
    histogram = egress.histogram(class_counts(desk, raw), desk.site.egress)
    told = {"class_counts": histogram, "accuracy": accuracy, "public_digest": desk.subtask.public_digest}
    return said.model_copy(update=told), wire


def digest(desk: Desk, model: str, round_: int, arrays: Arrays) -> int:
    """Distil the combined soft labels into the site's own model; return the examples processed.

    Rows on which nobody has an opinion teach nothing.
    """
    public, classes = desk.public(), desk.subtask.outputs
    soft_labels_NC = decode_soft_labels(arrays, desk.subtask.wire.form, len(public), classes)
    check_soft_labels(soft_labels_NC, len(public), classes, allow_silent=True)
    module = desk.current(model)
    rng = generator(desk.subtask.seed, round_, desk.subtask.name, desk.site.name, "digest")
    processed = distil(module, public, soft_labels_NC, rng, desk.subtask.digest, tick=desk.tick)
    desk.state.put(desk.subtask.name, model, to_arrays(module), role="digested")
    return processed


def _unlike_own(desk: Desk, rows: Rows, public: Tensor) -> NDArray[np.bool_]:
    """Return the public rows [N] on which the site abstains; none unless the subtask is selective."""
    share = desk.subtask.selective
    if share is None or len(rows) < selective.LEAST_OWN_ROWS:
        return np.zeros(len(public), dtype=np.bool_)
    own_NF, public_MF = (x.flatten(1).cpu().numpy() for x in (rows.x, public))
    rng = generator(desk.subtask.seed, desk.subtask.name, desk.site.name, "selective")
    selector = selective.fit(own_NF, public_MF, rng)
    return selective.abstains(selector, public_MF, share)
