"""Which subtasks train together: at first all of a family, then its groups.

The first subtask of a group leads it: the group is allocated, sent and merged under the leader's name; the
others follow, and are measured like any subtask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Group = tuple[str, ...]


class Groups:
    """The groups of a run. They change through ``split`` alone.

    Args:
        families: the subtasks of each family, in order.
    """

    def __init__(self, families: Mapping[str, Sequence[str]]) -> None:
        self._of_family: dict[str, tuple[Group, ...]] = {n: (tuple(f),) for n, f in families.items()}

    def of(self, subtask: str) -> Group:
        """Return who trains together with a subtask, itself among them, the leader first."""
        groups = (group for groups in self._of_family.values() for group in groups if subtask in group)
        return next(groups, (subtask,))

    def led_by(self, subtask: str) -> Group:
        """Return who trains under this name: a group, the subtask alone, or nobody where it follows."""
        group = self.of(subtask)
        return group if group[0] == subtask else ()

    def leaders(self, subtasks: Iterable[str]) -> list[str]:
        """Return those that do not follow another, in the order given."""
        return [name for name in subtasks if self.led_by(name)]

    def split(self, family: str, groups: Sequence[Sequence[str]]) -> bool:
        """Take the groups of a family; False, and nothing changes, if they are no partition of it."""
        before = sorted(name for group in self._of_family.get(family, ()) for name in group)
        after = tuple(tuple(group) for group in groups)
        if not before or sorted(name for group in after for name in group) != before or () in after:
            return False
        self._of_family[family] = after
        return True
