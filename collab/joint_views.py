"""A group that trains together, as a policy sees it: one subtask, worth what its subtasks are together.

With importance Σ λ and weight Σ λ w / Σ λ, and a gain Σ λ w g / Σ λ w, a policy's λ × w × gain is the sum
over the group; what a site has no rows of gains it nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from collab.allocation.contract import Belief, SubtaskView


def joint_view(views: Sequence[SubtaskView]) -> SubtaskView:
    """Return the group of these subtasks, the leader first, under the leader's name."""
    first = views[0]
    if len(views) == 1:
        return first
    importance = sum(v.importance for v in views)
    return replace(
        first,
        importance=importance,
        loss=sum(v.importance * v.loss for v in views) / importance,
        weight=sum(v.importance * v.weight for v in views) / importance,
        smallest_model_mib=max(v.smallest_model_mib for v in views),
        exploration=max(v.exploration for v in views),
        together=tuple(v.name for v in views),
    )


def joint_belief(views: Sequence[SubtaskView], beliefs: Mapping[str, Belief]) -> Belief:
    """Return what is believed of a site and a group.

    Args:
        views: the group's subtasks, each by itself.
        beliefs: of those that the site has, one at least; their seconds are not looked at.
    """
    if len(views) == 1:
        return beliefs[views[0].name]
    whole = sum(v.importance * v.weight for v in views)
    # f^(α-1) is 0 where nothing is left to learn: then none counts for more than another.
    share = {v.name: v.importance * v.weight / whole if whole > 0 else 1 / len(views) for v in views}
    own = {name: share[name] for name in beliefs}
    losses = [(own[n], b.loss) for n, b in beliefs.items() if b.loss is not None]
    total = sum(weight for weight, _ in losses)
    return Belief(
        gain=sum(own[n] * b.gain for n, b in beliefs.items()),
        gain_sd=math.sqrt(sum((own[n] * b.gain_sd) ** 2 for n, b in beliefs.items())),
        attempts=max(b.attempts for b in beliefs.values()),
        weight=max(b.weight for b in beliefs.values()),
        last_round=max(b.last_round for b in beliefs.values()),
        loss=sum(weight * loss for weight, loss in losses) / total if total > 0 else None,
    )
