"""Which subtasks a round works on: those whose rounds they are, and whose upstream subtasks are over.

A subtask is over at its target or after ``until_round``, and where it trains together with others once all of
the group are: until then its model still changes. One that comes after others starts once all of
them are over and *settled*: their final models stand and no longer change. Where one of them came to no
final model it never starts, nor does what comes after it.
"""

from __future__ import annotations

from collections.abc import Mapping

from collab.decomposition.dag import ancestors, edges
from collab.groups import Groups
from collab.terms import SubtaskTerms


class Sequence:
    """What is over, settled and started of a run's subtasks. The state machine tells it what happened."""

    def __init__(self, subtasks: Mapping[str, SubtaskTerms], groups: Groups) -> None:
        self._subtasks = subtasks
        self._groups = groups
        self._after = edges(subtasks)
        self._above = {name: ancestors(name, self._after) for name, after in self._after.items() if after}
        self._stopped: set[str] = set()
        self._settled: dict[str, bool] = {}
        self._started: set[str] = set()

    def reached_target(self, name: str) -> None:
        """Nothing more is done for a subtask: it is as good as was asked."""
        self._stopped.add(name)

    def settled(self, name: str, *, has_model: bool) -> None:
        """Note that the final model of ``name`` stands, or that there is none."""
        self._settled[name] = has_model

    def unfinished(self, round_: int) -> list[str]:
        """Return the subtasks that something can still be done for after this round, by name."""
        return [n for n in sorted(self._subtasks) if not self._is_over(n, round_) and not self._lacking(n)]

    def unsettled(self, round_: int) -> list[str]:
        """Return the subtasks that are over, do not stand yet, and that an unfinished one comes after."""
        wanted = {above for name in self.unfinished(round_) for above in self._above.get(name, ())}
        return [n for n in sorted(wanted) if self._is_over(n, round_) and n not in self._settled]

    def active(self, round_: int) -> list[str]:
        """Return the subtasks that this round works on, by name; of a group its leader."""
        return [
            n
            for n in self._groups.leaders(self.unfinished(round_ - 1))
            if self._subtasks[n].from_round <= round_ and all(self._settled.get(a) for a in self._after[n])
        ]

    def start(self, names: list[str]) -> None:
        """Note that these have been worked on."""
        self._started.update(names)

    def all_over(self) -> str:
        """Return in which way every subtask is over."""
        if set(self._subtasks) == self._stopped:
            return "every subtask reached its target"
        return "every subtask reached its target or its last round"

    def never_started(self) -> str:
        """Return which subtasks that come after others never started, and why; empty if none."""
        said = []
        for name, after in sorted(self._after.items()):
            if after and name not in self._started:
                lacking = self._lacking(name)
                why = f"no final model of '{lacking}'" if lacking else f"it comes after {', '.join(after)}"
                said.append(f"'{name}' ({why})")
        return f"; never started: {', '.join(said)}" if said else ""

    def _is_over(self, name: str, round_: int) -> bool:
        """Return whether nothing is done for a subtask, nor for its group, after this round."""
        return all(self._is_done(member, round_) for member in self._groups.of(name))

    def _is_done(self, name: str, round_: int) -> bool:
        until = self._subtasks[name].until_round
        return name in self._stopped or (until is not None and round_ >= until)

    def _lacking(self, name: str) -> str:
        """Return an ancestor without a final model, for which ``name`` would wait for ever; empty if none."""
        found = (a for a in self._above.get(name, ()) if self._settled.get(a) is False)
        return next(found, "")
