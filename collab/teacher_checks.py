"""Whether an imported model can join a subtask, as its terms stand."""

from __future__ import annotations

from collections.abc import Sequence

from collab.plugins import load
from collab.soft_labels import contract as soft_labels
from collab.terms import SubtaskTerms
from protocol.errors import ConfigError


def check_teacher(terms: SubtaskTerms, models: Sequence[str], student: str) -> None:
    """Refuse an imported model that could not join: no public set to speak on, or nothing to start.

    Raises:
        ConfigError: it could not.
    """
    teacher = terms.teacher
    if teacher is None:
        return
    if teacher.join == "teacher":
        if terms.exchange != "soft_labels" or terms.soft_labels is None:
            raise ConfigError("a teacher speaks on a public set: it needs exchange = 'soft_labels'")
        rule = terms.soft_labels.combine.rule
        if soft_labels.needs(load("soft_labels", rule)):
            raise ConfigError(
                f"soft_labels '{rule}' needs of each voter what an imported teacher cannot tell"
            )
        return
    if terms.exchange == "prototypes":
        raise ConfigError("prototypes exchange no model: there is nothing that a teacher could start")
    starts = [student] if terms.exchange == "soft_labels" else list(models)
    if teacher.model not in starts:
        raise ConfigError(
            f"teacher: its model is '{teacher.model}', but what it could start is: {', '.join(starts)}"
        )
