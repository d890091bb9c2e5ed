"""A site's vote: the other sites' models, ranked on its own validation rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clients.measure import candidate_outputs, forward_cost, targets
from clients.work import Desk
from collab.metrics import PROBABILITY_FLOOR
from protocol.arrays import Arrays
from protocol.fusing import BallotPaper, FusionRequest

Floats = NDArray[np.float64]


def ballot(desk: Desk, request: FusionRequest, arrays: Arrays) -> BallotPaper:
    """Rank the other sites' models by their loss on this site's validation rows, best first."""
    examples = desk.raw().validation
    said = BallotPaper(run=request.run, subtask=desk.subtask.name, site=desk.site.name, order=())
    if not len(examples):
        return said
    outputs_MNK = candidate_outputs(desk, request.candidates, arrays, desk.rows(examples))
    targets_NK = targets(desk, examples)
    others = sorted(
        (_mean_loss(outputs_NK, targets_NK), candidate.name)
        for candidate, outputs_NK in zip(request.candidates, outputs_MNK, strict=True)
        if candidate.name != desk.site.name
    )
    constant_NK = np.broadcast_to(targets_NK.mean(axis=0), targets_NK.shape)
    limit = _mean_loss(constant_NK, targets_NK)
    return said.model_copy(
        update={
            "order": tuple(name for _, name in others),
            "approved": tuple(name for loss, name in others if loss < limit),
            "examples_processed": forward_cost(len(examples) * len(request.candidates))
            + desk.upstream_cost(len(examples)),
        }
    )


def _mean_loss(outputs_NK: Floats, targets_NK: Floats) -> float:
    """Return the mean log loss of probabilities against one-hot rows, or the mean squared error."""
    if targets_NK.shape[1] == 1:
        return float(np.square(outputs_NK - targets_NK).mean())
    return -float((targets_NK * np.log(np.clip(outputs_NK, PROBABILITY_FLOOR, 1.0))).sum(axis=1).mean())
