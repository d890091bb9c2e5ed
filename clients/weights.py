"""Exchange ``weights`` at a site: train what came, keep what is its own, give back the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from clients.work import Desk, Reply, batches_of, contribution
from collab import ridge_head
from collab.models.contract import to_arrays
from collab.personal import train_ditto, train_fedrep
from collab.progress import within
from collab.rng import generator
from collab.scaffold import scaffold_step
from collab.training import Rows, Trained, train_counted
from protocol.arrays import Arrays
from protocol.messages import Assignment, Contribution
from protocol.quantise_delta import encode_delta

CONTROL = "control/"

# Beside ``local``: the site's SCAFFOLD control, and what 8 bits left out of its last contribution.
_CONTROL, _RESIDUAL = "control", "residual"


def train_weights(desk: Desk, assignment: Assignment, arrays: Arrays) -> tuple[Contribution, Reply]:
    """Train the global model on private rows and return what leaves of it."""
    received = {name: a for name, a in arrays.items() if not name.startswith(CONTROL)}
    module = desk.model(assignment.model, desk.with_own_layers(assignment.model, received))
    rows = desk.rows(desk.raw().train)
    if desk.subtask.train.objective == "normal_equations":
        sums: Reply = dict(ridge_head.statistics(module, rows, desk.kind, desk.subtask.outputs))
        return contribution(desk, assignment, len(rows), Trained(len(rows), 1), sums), sums
    trained, extra = _train(desk, assignment, module, rows, arrays)
    made = to_arrays(module)
    kept = desk.kept_names(module)  # they stay, whatever the server sent
    given = {**{name: made[name] for name in received if name not in kept}, **extra}
    trained = _keep(desk, assignment, rows, received, made, trained)
    wire = _as_it_travels(desk, assignment, {**received, **_zeros(extra)}, given)
    return contribution(desk, assignment, len(rows), trained, wire), wire


def _train(
    desk: Desk, assignment: Assignment, module: nn.Module, rows: Rows, arrays: Arrays
) -> tuple[Trained, Reply]:
    """Train ``module`` in place; return what it took, and what is given beside its arrays."""
    spec, rng, personal = desk.subtask.train, batches_of(desk, assignment), desk.subtask.personal
    twice = personal is not None and personal.rule == "ditto"
    tick = within(desk.tick, 0.0, 0.5) if twice else desk.tick
    if "control" in desk.subtask.asks:
        control = {n.removeprefix(CONTROL): a for n, a in arrays.items() if n.startswith(CONTROL)}
        kept = desk.state.get(desk.subtask.name, _CONTROL)
        own = kept.arrays if kept and kept.model == assignment.model else None
        done = scaffold_step(module, rows, desk.kind, spec, rng, control, own, tick=tick)
        desk.state.put(desk.subtask.name, assignment.model, done.control, role=_CONTROL)
        return done.trained, {CONTROL + name: change for name, change in done.change.items()}
    if personal is not None and personal.rule == "fedrep":
        return train_fedrep(module, rows, desk.kind, spec, rng, personal.head_epochs, tick=tick), {}
    return train_counted(module, rows, desk.kind, spec, rng, tick=tick), {}


def _keep(
    desk: Desk, assignment: Assignment, rows: Rows, received: Arrays, made: Reply, trained: Trained
) -> Trained:
    """Keep the site's own model: what it trained, or with Ditto the one that it pulls towards the global."""
    personal = desk.subtask.personal
    if personal is None or personal.rule != "ditto":
        desk.state.put(desk.subtask.name, assignment.model, made)
        return trained
    kept = desk.state.get(desk.subtask.name)
    start = kept.arrays if kept and kept.model == assignment.model else received
    own = desk.model(assignment.model, start)
    name, site = desk.subtask.name, desk.site.name
    rng = generator(desk.subtask.seed, assignment.round, name, site, "ditto")
    spec, half = desk.subtask.train, within(desk.tick, 0.5, 1.0)
    second = train_ditto(own, received, rows, desk.kind, spec, rng, personal.strength, tick=half)
    desk.state.put(name, assignment.model, to_arrays(own))
    return Trained(trained.processed + second.processed, trained.steps)


def _as_it_travels(desk: Desk, assignment: Assignment, received: Arrays, given: Reply) -> Reply:
    """Return ``given``, or with ``int8_delta`` its difference to what was received, quantised."""
    if desk.subtask.wire.form != "int8_delta":
        return given
    delta = {n: a - received[n] if a.dtype.kind == "f" else a for n, a in given.items()}
    kept = desk.state.get(desk.subtask.name, _RESIDUAL)
    residual = kept.arrays if kept and kept.model == assignment.model else None
    wire, left = encode_delta(delta, residual)
    desk.state.put(desk.subtask.name, assignment.model, left, role=_RESIDUAL)
    return wire


def _zeros(arrays: Mapping[str, NDArray[Any]]) -> Reply:
    return {name: np.zeros_like(array) for name, array in arrays.items()}
