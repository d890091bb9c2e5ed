"""The learner that each exchange asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from collab.collaboration import Collaboration
from server.joint_learner import JointLearner
from server.learner import Learner
from server.preparation import Prepared
from server.prototype_learner import PrototypeLearner
from server.soft_label_learner import SoftLabelLearner
from server.spool import Spool
from server.weights_learner import WeightsLearner

_LEARNERS: Final[Mapping[str, Callable[..., Learner]]] = {
    "weights": WeightsLearner,
    "soft_labels": SoftLabelLearner,
    "prototypes": PrototypeLearner,
}


def make(collaboration: Collaboration, prepared: Prepared, run: str, spool: Spool) -> Learner:
    """Return the learner that the subtask's exchange asks for."""
    made = _LEARNERS[prepared.subtask.exchange]
    if any(prepared.subtask.name in family.subtasks for family in collaboration.families.values()):
        made = JointLearner
    learner: Learner = made(collaboration, prepared, run, spool)
    return learner
