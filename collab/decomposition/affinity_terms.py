"""``[decomposition.NAME] by = "affinity"``: subtasks that train together first, then in groups.

The subtasks stay what they are: each has its own data, metric, curve and final model. While a group trains
together, its first subtask leads: a site is asked for the leader, and trains all of the group that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from collab.decomposition.affinity import Options
from collab.decomposition.tables import table_in
from collab.plugins import unknown
from collab.terms import SubtaskTerms, wire_of
from protocol.bounds import Frozen, Name
from protocol.errors import ConfigError

# What all of a family say alike: one model is trained for all of them, at the same sites, in one piece.
_ALIKE: Final = ("models", "train", "needs", "min_sites", "max_sites", "until_round", "coordination")
# What a family cannot have, and what it has in its place.
_FIXED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "exchange": "weights",
        "architectures": "common",
        "select": "memory",
        "personal": None,
        "teacher": None,
        "root": None,
        "composition": None,
        "from_round": 1,
        "after": (),
    }
)


class AffinityTerms(Frozen):
    """One family of subtasks.

    Attributes:
        subtasks: ordinary subtasks of the file; the first leads while all train together.
        merge_rounds: so many rounds all train together, and affinities are measured.
        every: they are measured before every so many batches (rho).
        min_groups: at least so many groups then.
        max_groups: at most so many, each an encoder to train and to hold; left out, as many as pay.
        min_gain: what each group beyond the first must add to the sum of affinities.
    """

    by: Literal["affinity"]
    subtasks: Annotated[tuple[Name, ...], Field(min_length=2, max_length=64)]
    merge_rounds: int = Field(5, ge=1, le=100_000)
    every: int = Field(5, ge=1, le=10**6)
    min_groups: int = Field(1, ge=1, le=64)
    max_groups: int | None = Field(None, ge=1, le=64)
    min_gain: float = Field(0.0, ge=0, le=1e6)

    @model_validator(mode="after")
    def _groups_can_be(self) -> AffinityTerms:
        if len(set(self.subtasks)) < len(self.subtasks):
            raise ValueError("a subtask stands twice in subtasks")
        if self.min_groups > len(self.subtasks):
            raise ValueError(f"min_groups is {self.min_groups}, but there are {len(self.subtasks)} subtasks")
        try:
            _ = self.options
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def options(self) -> Options:
        """How many groups there may be."""
        return Options(self.min_groups, self.max_groups, self.min_gain)


def name_family(tables: Mapping[str, Any], name: str, terms: AffinityTerms) -> dict[str, Any]:
    """Return the tables of a file with ``family = NAME`` in each subtask of the family.

    Raises:
        ConfigError: there is no such subtask, or it is of another family.
    """
    subtasks = table_in(tables, "subtasks")
    if name in subtasks:
        raise ConfigError("a family needs a name of its own: a subtask has this one")
    for member in terms.subtasks:
        if member not in subtasks:
            raise ConfigError(unknown(f"subtask '{member}' in subtasks", member, subtasks))
        table = table_in(subtasks, member, "subtasks")
        if table.get("family", name) != name:
            raise ConfigError(f"subtask '{member}' is of the family '{table['family']}' already")
        subtasks[member] = table | {"family": name}
    return {**tables, "subtasks": subtasks}


def problems(
    name: str,
    terms: AffinityTerms,
    subtasks: Mapping[str, SubtaskTerms],
    inputs: Mapping[str, str],
    rounds: int,
) -> Iterator[str]:
    """Yield what keeps a family from being trained together; each line says what to write.

    Args:
        name: of the family.
        terms: its table.
        subtasks: all of the file, resolved.
        inputs: what each subtask's kind reads: "table", "image" or "text".
        rounds: of the run.
    """
    where = f"decomposition '{name}'"
    lost = [s for s in terms.subtasks if s not in subtasks]
    if lost:
        yield unknown(f"subtask '{lost[0]}' of {where}", lost[0], subtasks)
        return
    if any(subtasks[s].family != name for s in terms.subtasks):
        yield f"{where} is not written out: read the file with collab.settings.parse"
    last = min(rounds, subtasks[terms.subtasks[0]].until_round or rounds)
    if terms.merge_rounds >= last:
        yield f"{where}: merge_rounds is {terms.merge_rounds} of {last} rounds: none is left for the groups"
    for member in terms.subtasks:
        yield from _of_one(where, member, subtasks[member])
    first = terms.subtasks[0]
    for member in terms.subtasks[1:]:
        pair = f"{where}: '{first}' and '{member}' train one model"
        if inputs[member] != inputs[first]:
            yield f"{pair}, but one reads {inputs[first]}s and the other {inputs[member]}s"
        for key in _ALIKE:
            if getattr(subtasks[member], key) != getattr(subtasks[first], key):
                yield f"{pair}: give both the same {key}"


def _of_one(where: str, name: str, terms: SubtaskTerms) -> Iterator[str]:
    what = f"{where}: subtask '{name}' trains together with others"
    if terms.part_of is not None:
        yield f"{where}: subtask '{name}' is a part of '{terms.part_of}': parts of a whole train apart"
    for key, only in _FIXED.items():
        if getattr(terms, key) != only:
            can = f"leave out {key}" if only in (None, 1, ()) else f'{key} can only be "{only}"'
            yield f"{what}: {can}"
    if terms.aggregation.rule != "fedavg" or terms.distillation.ensemble:
        yield f'{what}, by averages: aggregation can only be "fedavg", without distillation.ensemble'
    if wire_of(terms).form != "fp32":
        yield f'{what}: wire can only be "fp32"'
    if terms.train.proximal_mu or terms.train.objective != "supervised":
        yield f"{what} in plain training: leave out train.proximal_mu and train.objective"
