"""A group of subtasks at a site: one encoder, a head for each that the site has, affinities on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clients import egress
from clients.reading import SiteRows
from clients.work import Desk, Reply, batches_of, contribution
from collab.data.content import fingerprints
from collab.data.examples import concatenate
from collab.decomposition.lookahead import Lookahead, train_measured
from collab.decomposition.shared_encoder import Part, SharedEncoder, build_shared, joint_kind, joint_rows
from collab.rng import generator
from collab.training import Rows, Trained, train_counted
from protocol.arrays import Arrays
from protocol.errors import DataError, MessageError
from protocol.messages import Assignment, Contribution, Joint, TrainSpec

AFFINITY = "affinity/"


@dataclass(frozen=True)
class _Done:
    """What training took and, where affinities were measured, their sums and what those took."""

    trained: Trained
    looked: int = 0
    sums: Mapping[str, NDArray[np.float64]] | None = None


def train_joint(leading: Desk, assignment: Assignment, arrays: Arrays) -> tuple[Contribution, Reply]:
    """Train a group's encoder and the heads of what the site has of it; return them, and sums of affinities.

    Of each subtask the site keeps an ordinary model as its own. Rows with the same inputs are one row with
    several targets.

    Args:
        leading: the desk of the subtask that leads the group; its rows are not looked at.
        assignment: with ``joint``.
        arrays: as ``SharedEncoder.shared_arrays`` names them.

    Raises:
        MessageError: the assignment is of no group.
        DataError: a row that tests or validates one of the subtasks would train another, or blocks that
            read the same rows in unlike ways hide whether it would.
        ArraysError: the arrays are not those of the model.
    """
    joint = assignment.joint
    if joint is None:
        raise MessageError("train.joint without a group")
    desks = [_desk(leading, joint, place) for place in range(len(joint.subtasks))]
    leading.site.custody.check_family([desk.subtask.name for desk in desks])
    raw = {desk.subtask.name: desk.raw() for desk in desks}
    refuse_leaks(raw)
    weighed = zip(desks, joint.importances, strict=True)
    parts = [Part(d.subtask.name, d.kind, d.subtask.outputs, importance) for d, importance in weighed]
    model = build_shared(assignment.model, leading.preprocessing.input_shape, parts, leading.subtask.seed)
    model.load_shared(arrays)
    model.to(leading.site.device)
    rows = joint_rows(parts, _rows(desks, raw))
    done = _train(leading, assignment, joint, model, rows)
    for part in parts:
        leading.state.put(part.name, assignment.model, model.plain_arrays(part.name))
    given: Reply = dict(model.shared_arrays())
    if done.sums is not None:
        given |= {AFFINITY + name: array for name, array in done.sums.items()}
    took = Trained(done.trained.processed + done.looked, done.trained.steps)
    said = contribution(leading, assignment, len(rows), took, given)
    return said.model_copy(update={"looked": done.looked}), given


def refuse_leaks(raw: Mapping[str, SiteRows]) -> None:
    """Refuse subtasks of which one trains on what another is tested or validated with.

    Splits by content agree by themselves; what files say of their rows' sides may not.

    Raises:
        DataError: it is so; the message names both.
    """
    held = {name: set(fingerprints(concatenate([r.validation, r.test]))) for name, r in raw.items()}
    for name, rows in raw.items():
        trains = set(fingerprints(rows.train))
        for other, found in held.items():
            # A row that stands on both sides of one file already says nothing of the other.
            if other != name and trains & (found - held[name]):
                raise DataError(
                    f"subtask '{name}' trains on rows that test or validate '{other}': "
                    "give both the same split, by column or drawn from the same features"
                )


def _desk(leading: Desk, joint: Joint, place: int) -> Desk:
    """Return the desk of one of the group, with the preprocessing that all share."""
    subtask = joint.subtasks[place]
    shared = {"preprocessing": leading.subtask.preprocessing}
    return Desk(leading.site, leading.state, subtask.model_copy(update=shared))


def _rows(desks: list[Desk], raw: Mapping[str, SiteRows]) -> dict[str, Rows]:
    """Return each subtask's train rows; equal inputs are one tensor, so that they share a pass."""
    found: dict[str, Rows] = {}
    for desk in desks:
        rows = desk.rows(raw[desk.subtask.name].train)
        same = next((r.x for r in found.values() if torch.equal(r.x, rows.x)), rows.x)
        found[desk.subtask.name] = Rows(same, rows.y)
    return found


def _train(leading: Desk, assignment: Assignment, joint: Joint, model: SharedEncoder, rows: Rows) -> _Done:
    spec: TrainSpec = leading.subtask.train.shortened(joint.budget, len(rows))
    rng, tick = batches_of(leading, assignment), leading.tick
    if joint.every is None:
        return _Done(train_counted(model, rows, joint_kind(model.parts), spec, rng, tick=tick))
    if not leading.site.egress.affinities:
        done = train_counted(model, rows, joint_kind(model.parts), spec, rng, tick=tick)
        return _Done(done, 0, egress.no_affinities(len(model.parts)))
    name, site = leading.subtask.name, leading.site.name
    look = generator(leading.subtask.seed, assignment.round, name, site, "look")
    found = train_measured(model, rows, spec, Lookahead(every=joint.every), rng, look, tick=tick)
    sums = egress.affinities(found.sums, len(model.parts))
    return _Done(Trained(found.processed, found.steps), found.looked, sums)
