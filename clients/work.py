"""One subtask at one site: train on private rows, digest soft labels, say what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clients import egress
from clients.reading import SiteRows
from clients.site import Site
from clients.state import SiteState
from collab.collaboration import named_kind
from collab.data.examples import Examples
from collab.data.preprocess import Preprocessing, measure
from collab.decomposition import chain
from collab.kinds.contract import Kind
from collab.models.contract import build, from_arrays, to_arrays
from collab.personal import kept_local
from collab.rng import derive, generator
from collab.training import Rows, Trained, mean_loss, outputs, train, train_early_stopped
from protocol.arrays import Arrays, check, digest, spec_of
from protocol.errors import DataError, MessageError, UpstreamError
from protocol.messages import (
    Assignment,
    Capability,
    Contribution,
    DataSummary,
    Subtask,
    SubtaskQuery,
    Trial,
)

Reply = dict[str, NDArray[Any]]

# The role of an upstream subtask's final model in a site's memory; its digest stands for its name there.
UPSTREAM = "upstream"


@dataclass(frozen=True)
class Desk:
    """What a site needs to work on one subtask: its rows, its kind and its memory."""

    site: Site
    state: SiteState
    subtask: Subtask

    @property
    def kind(self) -> Kind:
        """The kind of the subtask."""
        return named_kind(self.subtask.kind)

    @property
    def preprocessing(self) -> Preprocessing:
        """The federated preprocessing that the server merged."""
        if self.subtask.preprocessing is None:
            raise MessageError(f"subtask '{self.subtask.name}' came without its preprocessing")
        return Preprocessing.model_validate_json(self.subtask.preprocessing)

    def raw(self) -> SiteRows:
        """Return the site's rows before preprocessing."""
        return self.site.custody.rows(self.subtask)

    def rows(self, examples: Examples) -> Rows:
        """Return preprocessed inputs and targets on the site's device.

        Where the subtask comes after others, what their final models say of the rows is part of the inputs.
        """
        x = torch.as_tensor(self.inputs(examples)).to(self.site.device)
        return Rows(x, self.kind.target(examples.y).to(self.site.device))

    def inputs(self, examples: Examples) -> NDArray[np.float32]:
        """Return what a model of the subtask reads of ``examples``, upstream outputs included.

        Raises:
            UpstreamError: upstream models are not here.
            DataError: the site's memory does not hold one of them, or a column is missing.
        """
        arrays = self.upstream()
        if arrays and (mib := chain.memory_mib(self.subtask, arrays)) > self.site.capability.memory_mib:
            raise DataError(
                f"subtask '{self.subtask.name}': an upstream model takes {mib:.0f} MiB to predict"
            )
        return chain.inputs(self.subtask, lambda _: examples, arrays, self.site.device)

    def upstream(self) -> dict[str, Mapping[str, NDArray[Any]]]:
        """Return the arrays of the upstream models that are kept here and are those that the server means."""
        found = {}
        for one in self.subtask.upstream:
            kept = self.state.get(one.name, UPSTREAM)
            if kept is not None and one.settled is not None and kept.model == one.settled.digest:
                found[one.name] = kept.arrays
        missing = [one.name for one in self.subtask.upstream if one.name not in found]
        if missing:
            raise UpstreamError(
                f"subtask '{self.subtask.name}': no final model of {', '.join(missing)} here: send it along"
            )
        return found

    def upstream_cost(self, num_rows: int) -> int:
        """Return the work of upstream models on so many rows, in training examples: a third of one each."""
        return -(-num_rows * len(self.subtask.upstream) // 3)

    def keep_upstream(self, arrays: Arrays) -> None:
        """Check and keep upstream models that came with a message, as ``SUBTASK/NAME``.

        Raises:
            MessageError: some are of no subtask that this one comes after.
            UpstreamError, ArraysError: see ``chain.check_arrays``.
        """
        given: dict[str, Reply] = {}
        for key, array in arrays.items():
            name, _, rest = key.partition("/")
            given.setdefault(name, {})[rest] = array
        known = {one.name: one for one in self.subtask.upstream}
        for name, own in given.items():
            if name not in known:
                raise MessageError(f"subtask '{self.subtask.name}' does not come after the models sent along")
            chain.check_arrays(known[name], self.subtask, own)
            self.state.put(name, digest(own), own, role=UPSTREAM)

    def public(self) -> torch.Tensor:
        """Return the preprocessed public set; refuse one that differs from the server's."""
        x = self.preprocessing.transform(self.site.custody.public(self.subtask))
        if digest({"x": x}) != self.subtask.public_digest:
            raise DataError(f"subtask '{self.subtask.name}': the public set here differs from the server's")
        return torch.as_tensor(x).to(self.site.device)

    def fresh(self, name: str) -> nn.Module:
        """Return the model ``name`` with the parameters that every site of this seed starts from."""
        seed = derive(self.subtask.seed, self.subtask.name, name, "initial")
        shape = chain.input_shape(self.subtask)
        return build(name, shape, self.subtask.outputs, seed).to(self.site.device)

    def model(self, name: str, arrays: Arrays) -> nn.Module:
        """Return the model ``name`` holding ``arrays``, which are checked first."""
        module = self.fresh(name)
        check(arrays, spec_of(to_arrays(module)))
        from_arrays(module, arrays)
        return module

    def with_own_layers(self, name: str, arrays: Arrays) -> Arrays:
        """Return shared arrays, completed by the layers that this site keeps for itself.

        A site that has not trained yet has the layers that every site of this seed starts from.
        """
        personal = self.subtask.personal
        if personal is None or not personal.keeps_layers:
            return arrays
        module = self.fresh(name)
        names = self.kept_names(module)
        kept = self.state.get(self.subtask.name)
        own = kept.arrays if kept and kept.model == name else to_arrays(module)
        return {**arrays, **{n: own[n] for n in names}}

    def kept_names(self, module: nn.Module) -> frozenset[str]:
        """Return the names of the arrays of ``module`` that never leave this site."""
        personal = self.subtask.personal
        return frozenset() if personal is None else kept_local(module, personal.rule)

    def current(self, name: str) -> nn.Module:
        """Return the site's own model, digested if it has digested since, or a fresh one."""
        kept = self.state.get(self.subtask.name, "digested") or self.state.get(self.subtask.name)
        return self.model(name, kept.arrays) if kept and kept.model == name else self.fresh(name)


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
    losses = {}
    for name in query.models:
        module = desk.fresh(name)
        rng = generator(desk.subtask.seed, desk.subtask.name, desk.site.name, name, "trial")
        train(module, rows, desk.kind, desk.subtask.train, rng)
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
    own = train_early_stopped(module, rows, validation, desk.kind, desk.subtask.train, rng, epochs=epochs)
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
    given = train_early_stopped(module, rows, validation, desk.kind, desk.subtask.train, rng, epochs=epochs)
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


def raw_outputs(desk: Desk, module: nn.Module, rows: Rows) -> NDArray[np.float64]:
    """Return probabilities [N, C] or predictions [N, 1] on ``rows``."""
    return desk.kind.predict(outputs(module, rows.x))


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
        digest=digest(given),
    )
