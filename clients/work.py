"""One subtask at one site: train on private rows, digest soft labels, say what came of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clients import device, egress
from clients.desk import UPSTREAM, Desk, Reply, raw_outputs
from clients.reading import SiteRows
from clients.site import Site
from collab.data.preprocess import measure
from collab.progress import within
from collab.rng import generator
from collab.training import Trained, mean_loss, train, train_early_stopped
from protocol.arrays import Arrays, digest
from protocol.errors import DataError
from protocol.messages import (
    Assignment,
    Capability,
    Contribution,
    DataSummary,
    Subtask,
    SubtaskQuery,
    Trial,
)

__all__ = [
    "UPSTREAM", "Desk", "Reply", "batches_of", "capability", "class_counts", "contribution",
    "epochs_per_round", "finish_local", "raw_outputs", "summarise", "train_alone",
    "train_counts", "try_models",
]  # fmt: skip


def capability(site: Site) -> Capability:
    """Return what the site can do; its numbers of examples come with the summaries."""
    return site.capability


def summarise(desk: Desk, query: SubtaskQuery) -> DataSummary:
    """Return the mergeable statistics of the site's train rows."""
    rows = desk.raw()
    if not len(rows.train):
        raise DataError(f"subtask '{query.subtask.name}': no train rows")
    counts = class_counts(desk, rows) if desk.kind.output == "classes" else np.zeros(0)
    return DataSummary(
        site=desk.site.name,
        subtask=query.subtask.name,
        statistics=measure(rows.train).model_dump_json(),
        class_counts=egress.histogram(counts, desk.site.egress),
        train=len(rows.train),
        validation=len(rows.validation),
        test=len(rows.test),
    )


def class_counts(desk: Desk, rows: SiteRows) -> NDArray[np.float64]:
    """Return the number of train rows of each class [C]; 0 for a class on which the site abstains."""
    return train_counts(desk, rows) * desk.site.custody.speaks(desk.subtask)


def train_counts(desk: Desk, rows: SiteRows) -> NDArray[np.float64]:
    """Return the number of train rows of each class [C], whatever the site says of it."""
    return np.bincount(rows.train.y.astype(np.int64), minlength=desk.subtask.outputs).astype(np.float64)


def try_models(desk: Desk, query: SubtaskQuery) -> Trial:
    """Train each model for one assignment's work and return its validation loss (a sum)."""
    raw = desk.raw()
    rows, validation = desk.rows(raw.train), desk.rows(raw.validation)
    if not len(validation):
        raise DataError(f"subtask '{query.subtask.name}': select = 'validation' needs validation rows")
    losses, count = {}, len(query.models)
    for place, name in enumerate(query.models):
        module = desk.fresh(name)
        rng = generator(desk.subtask.seed, desk.subtask.name, desk.site.name, name, "trial")
        tick = within(desk.tick, place / count, (place + 1) / count)
        train(module, rows, desk.kind, desk.subtask.train, rng, tick=tick)
        losses[name] = mean_loss(module, validation, desk.kind) * len(validation)
    return Trial(
        site=desk.site.name, subtask=desk.subtask.name, num_examples=len(validation), loss_sums=losses
    )


def finish_local(desk: Desk, assignment: Assignment, arrays: Arrays) -> tuple[Contribution, Reply]:
    """Spend what is left of the site's budget on its own model, early stopped on validation.

    It starts from the final model that came with the request (weights), or from the site's own
    (soft labels). ``assignment.budget`` is the number of rounds in which the site did something
    else, so on its private rows it trains no longer than a site that trains alone; what it digested
    comes on top. Nothing but counts leaves. Layers that the site keeps for itself stay its own.
    """
    raw = desk.raw()
    rows, validation = desk.rows(raw.train), desk.rows(raw.validation)
    rng = generator(desk.subtask.seed, desk.subtask.name, desk.site.name, "finish")
    epochs = assignment.budget * epochs_per_round(desk.subtask, len(rows))
    model = assignment.model
    module = desk.model(model, desk.with_own_layers(model, arrays)) if arrays else desk.current(model)
    own = train_early_stopped(
        module, rows, validation, desk.kind, desk.subtask.train, rng, epochs=epochs, tick=desk.tick
    )
    desk.state.put(desk.subtask.name, model, own)
    desk.state.forget(desk.subtask.name, "digested")
    return contribution(desk, assignment, len(rows), Trained(epochs * len(rows), 0), own), {}


def train_alone(desk: Desk, assignment: Assignment) -> tuple[Contribution, Reply]:
    """Train without anybody's help, early stopped on validation: the baseline of this site.

    ``assignment.budget`` is the number of rounds of the run: the budget is rounds x local_epochs.
    """
    raw = desk.raw()
    rows, validation = desk.rows(raw.train), desk.rows(raw.validation)
    rng = generator(desk.subtask.seed, desk.subtask.name, desk.site.name, "alone")
    epochs = assignment.budget * epochs_per_round(desk.subtask, len(rows))
    module = desk.fresh(assignment.model)
    given = train_early_stopped(
        module, rows, validation, desk.kind, desk.subtask.train, rng, epochs=epochs, tick=desk.tick
    )
    desk.state.put(desk.subtask.name, assignment.model, given, role="alone")
    said = contribution(desk, assignment, len(rows), Trained(epochs * len(rows), 0), given)
    personal = desk.subtask.personal
    keeps = personal is not None and personal.keeps_layers
    return said, given if desk.site.egress.models and not keeps else {}


def epochs_per_round(subtask: Subtask, num_rows: int) -> int:
    """Return how many passes over ``num_rows`` rows one assignment makes, rounded up."""
    spec = subtask.train
    if spec.local_steps is None:
        return spec.local_epochs
    return -(-spec.local_steps * spec.batch_size // max(num_rows, 1))


def batches_of(desk: Desk, assignment: Assignment) -> np.random.Generator:
    """Return the source of an assignment's batches."""
    # Never from the attempt: a repeated assignment must draw the same batches.
    return generator(desk.subtask.seed, assignment.round, desk.subtask.name, desk.site.name, "batches")


def contribution(
    desk: Desk, assignment: Assignment, num_examples: int, trained: Trained, given: Arrays
) -> Contribution:
    """Return what a site says of arrays that it gives back, as they travel."""
    return Contribution(
        run=assignment.run,
        round=assignment.round,
        subtask=desk.subtask.name,
        site=desk.site.name,
        attempt=assignment.attempt,
        model=assignment.model,
        exchange=desk.subtask.exchange,
        num_examples=num_examples,
        examples_processed=trained.processed + desk.upstream_cost(num_examples),
        steps=trained.steps,
        computed_on=device.fingerprint(desk.site.device),
        digest=digest(given),
    )
