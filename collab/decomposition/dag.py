"""Subtasks that come after others: a directed acyclic graph, declared by ``after = [...]``.

A subtask is worked on once all that it names are over, and takes their *predicted* soft outputs as further
inputs. Trained on true labels in their place it would meet inputs at prediction time that it never saw in
training (exposure bias; Ranzato et al., ICLR 2016, https://arxiv.org/abs/1511.06732).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final

from collab.data.config import DataConfig, Inputs
from collab.plugins import unknown
from collab.terms import SubtaskTerms
from protocol.errors import ConfigError

# A message about a subtask describes all that it comes after.
MOST_UPSTREAM: Final = 100

After = Mapping[str, Sequence[str]]


def levels(after: After) -> tuple[tuple[str, ...], ...]:
    """Return the names level by level, each after all that it names; by name inside a level.

    Raises:
        ConfigError: there is a cycle; it names one.
    """
    sorter = TopologicalSorter(after)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " after ".join(reversed(error.args[1]))
        raise ConfigError(f"after goes round in a circle: {circle}; leave one of them out") from None
    found = []
    while sorter.is_active():
        ready = tuple(sorted(sorter.get_ready()))
        sorter.done(*ready)
        found.append(ready)
    return tuple(found)


def order(after: After) -> tuple[str, ...]:
    """Return the names, each after all that it names.

    Raises:
        ConfigError: there is a cycle.
    """
    return tuple(name for level in levels(after) for name in level)


def ancestors(name: str, after: After) -> tuple[str, ...]:
    """Return all that ``name`` comes after, directly or not, each after all that it names itself."""
    found, waiting = set[str](), list(after[name])
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting.extend(after[one])
    return tuple(n for n in order(after) if n in found)


def siblings(name: str, subtasks: Mapping[str, SubtaskTerms]) -> tuple[str, ...]:
    """Return the others of the subtask's family: their rows trained its encoder too."""
    family = subtasks[name].family
    if family is None:
        return ()
    return tuple(n for n, t in sorted(subtasks.items()) if t.family == family and n != name)


def edges(subtasks: Mapping[str, SubtaskTerms]) -> dict[str, tuple[str, ...]]:
    """Return what each subtask comes after."""
    return {name: terms.after for name, terms in subtasks.items()}


def problems(
    subtasks: Mapping[str, SubtaskTerms],
    inputs: Callable[[SubtaskTerms], Inputs],
    data: Mapping[str, DataConfig],
    rounds: int,
) -> Iterator[str]:
    """Yield what is wrong with ``after``, one sentence each.

    Args:
        subtasks: the terms of all subtasks.
        inputs: what the kind of a subtask reads.
        data: the data blocks that the file has; none in a deployment.
        rounds: of the collaboration.
    """
    named = list(_names(subtasks))
    yield from named
    if named:
        return  # the rest follows the names
    try:
        levels(edges(subtasks))
    except ConfigError as error:
        yield str(error)
        return
    for name, terms in subtasks.items():
        if not terms.after:
            continue
        yield from _downstream(name, terms, inputs(terms))
        for upstream in terms.after:
            above = subtasks[upstream]
            yield from _upstream(name, upstream, above)
            yield from _in_time(name, terms, upstream, above, rounds)
            if inputs(above) != inputs(terms):
                yield (
                    f"subtask '{name}' reads {inputs(terms)}s, but '{upstream}', which it comes after, "
                    f"{inputs(above)}s: both must read the same rows"
                )
        all_above = ancestors(name, edges(subtasks))
        if len(all_above) > MOST_UPSTREAM:
            found = f"subtask '{name}' comes after {len(all_above)} subtasks"
            yield f"{found}, at most {MOST_UPSTREAM} are possible: shorten the chain"
        for upstream in all_above:
            yield from _same_rows(name, terms, f"'{upstream}'", subtasks[upstream], data)
            for other in siblings(upstream, subtasks):
                both = f"'{upstream}', which trains with '{other}'"
                yield from _same_rows(name, terms, both, subtasks[other], data)


def _names(subtasks: Mapping[str, SubtaskTerms]) -> Iterator[str]:
    for name, terms in subtasks.items():
        if len(set(terms.after)) < len(terms.after):
            yield f"subtask '{name}': after names a subtask twice"
        for upstream in terms.after:
            if upstream == name:
                yield f"subtask '{name}' cannot come after itself"
            elif upstream not in subtasks:
                parts = [n for n, t in sorted(subtasks.items()) if t.part_of == upstream]
                what = f"subtask '{upstream}' in after of subtask '{name}'"
                if parts:
                    yield f"{what} is taken apart, it has no model of its own: name {' or '.join(parts)}"
                else:
                    yield unknown(what, upstream, subtasks.keys() - {name})


def _downstream(name: str, terms: SubtaskTerms, inputs: Inputs) -> Iterator[str]:
    """Yield what a subtask may not be that takes others' predictions."""
    if terms.part_of is not None:
        yield f"subtask '{name}' is a part of '{terms.part_of}': a whole that is taken apart comes after none"
    if inputs == "image":
        yield f"subtask '{name}': after needs table or text inputs: outputs cannot be appended to an image"
    # The server's own rows would need the upstream models' outputs bit for bit as the sites compute them.
    for key, is_given, instead in (
        ("exchange = 'soft_labels'", terms.exchange == "soft_labels", "exchange weights"),
        ("distillation.ensemble", terms.distillation.ensemble, "leave it out"),
        ("root", terms.root is not None, "use an aggregation rule that needs no rows at the server"),
        ("select = 'validation'", terms.select == "validation", "use select = 'memory'"),
    ):
        if is_given:
            yield (
                f"subtask '{name}': {key} needs its inputs before the run, and with after they are there "
                f"only once its upstream subtasks are over: {instead}"
            )


def _upstream(name: str, upstream: str, terms: SubtaskTerms) -> Iterator[str]:
    keeps = terms.personal is not None and terms.personal.keeps_layers
    if terms.exchange == "prototypes" or keeps:
        why = "exchanges prototypes" if terms.exchange == "prototypes" else "keeps layers at the sites"
        yield f"subtask '{name}' comes after '{upstream}', which {why}: it has no final model to predict with"


def _in_time(
    name: str, terms: SubtaskTerms, upstream: str, above: SubtaskTerms, rounds: int
) -> Iterator[str]:
    """Yield why a subtask would never start; a target may not be reached, so it is no end."""
    last = rounds if terms.until_round is None else min(terms.until_round, rounds)
    if above.until_round is None:
        yield (
            f"subtask '{name}' comes after '{upstream}', so '{upstream}' needs until_round, below {last}: "
            f"'{name}' starts after that round, or earlier once a target of '{upstream}' is reached"
        )
    elif above.until_round >= last:
        yield (
            f"subtask '{name}' comes after '{upstream}', whose until_round is {above.until_round}: no round "
            f"is left for '{name}', whose last is {last}; set until_round of '{upstream}' below {last}"
        )


def _same_rows(
    name: str, terms: SubtaskTerms, upstream: str, above: SubtaskTerms, data: Mapping[str, DataConfig]
) -> Iterator[str]:
    """Yield where one subtask would see the true labels of the other, or train on its test rows."""
    own, others = data.get(str(terms.data)), data.get(str(above.data))
    if own is not None and others is not None:
        both = f"data '{terms.data}' and '{above.data}' read the same rows"
        if terms.data == above.data:
            both = f"both read data '{terms.data}'"
        yield from (
            f"subtask '{name}' comes after {upstream}, and {both}: {why}" for why in conflicts(own, others)
        )


def conflicts(own: DataConfig, others: DataConfig) -> Iterator[str]:
    """Yield why a subtask that reads ``own`` cannot come after one that reads ``others``.

    Sides that are drawn depend on the rows that a subtask deals out, so they differ even within one
    block. Blocks of unlike files are never in conflict: nothing is known of their rows.
    """
    if own.source != others.source:
        return
    if not _same_sides(own, others):
        yield (
            "rows that one trains on must not be test rows of the other: give the same split.column "
            "or split.test_path in both"
        )
    for reads, target in ((own, others.target), (others, own.target)):
        if target is not None and reads.target != target and _is_feature(target, reads):
            yield f"column '{target}' is a target, and the other reads it as a feature: drop it there"


def _same_sides(own: DataConfig, others: DataConfig) -> bool:
    """Return whether both say alike which rows are test rows, in place of drawing them for each target."""
    given = own.split.column is not None or own.split.has_official_test or bool(own.parts)
    split, other = own.split, others.split
    alike = (split.column, split.test_path, split.test_inputs, own.parts) == (
        other.column,
        other.test_path,
        other.test_inputs,
        others.parts,
    )
    return given and alike


def _is_feature(column: str, config: DataConfig) -> bool:
    if config.format != "csv":
        return False
    return column not in config.drop if config.features == "all" else column in config.features
