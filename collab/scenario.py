"""The data of a scenario: read once, dealt out to the sites, the public and root sets held out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from collab.collaboration import Collaboration, kind_of
from collab.data.config import DataConfig, Inputs, Labels, Output, PartitionConfig
from collab.data.dataset import ScenarioData, build_scenario_examples, load_root, load_site
from collab.data.examples import Examples
from collab.data.formats import load, load_public
from collab.decomposition.view import inputs_of, rows_of
from collab.kinds.contract import Kind
from protocol.errors import ConfigError, DataError
from protocol.parts import PartOf


@dataclass(frozen=True)
class _Like:
    """A block that reads the same rows: by its targets they are dealt out."""

    config: DataConfig
    labels: Labels
    output: Output
    inputs: Inputs


@dataclass(frozen=True)
class _Deal:
    """All that the rows of a subtask's sites depend on: what differs in nothing else shares them."""

    config: DataConfig
    partition: PartitionConfig
    sites: tuple[str, ...]
    labels: Labels
    output: Output
    inputs: Inputs
    seed: int
    data_name: str
    holdout: int
    root: int
    like: _Like | None = None


def scenario_data(collaboration: Collaboration, subtask: str) -> ScenarioData:
    """Return the data of a scenario's subtask, dealt out to its sites; the last few stay in memory.

    Of a part of a decomposition: the data of the whole, under the whole's labels (``decomposition.view``).
    Of a family whose blocks read one file: a site gets the same rows for each subtask; the first one's
    targets say which.

    Raises:
        DataError, ConfigError: see ``build_scenario_examples``.
    """
    terms = collaboration.subtasks[subtask]
    kind = kind_of(terms)
    public = terms.soft_labels.public.holdout if terms.soft_labels else None
    whole, config, first = (
        terms.part_of,
        collaboration.data[str(terms.data)],
        _of_one_file(collaboration, subtask)[0],
    )
    return _dealt(
        _Deal(
            config=config,
            partition=collaboration.partition_of(first),
            sites=_sites(collaboration, subtask),
            labels=terms.labels if whole is None else collaboration.wholes[whole].labels,
            output=kind.output,
            inputs=inputs_wanted(config, kind, collaboration.view_of(subtask)),
            seed=collaboration.seed,
            data_name=str(collaboration.subtasks[first].data),
            holdout=public or 0,
            root=(terms.root.holdout if terms.root else None) or 0,
            like=_like(collaboration, subtask, first),
        )
    )


def _of_one_file(collaboration: Collaboration, subtask: str) -> list[str]:
    """Return the subtasks of its family whose blocks read the same file, in order of name."""
    terms = collaboration.subtasks[subtask]
    if terms.family is None:
        return [subtask]
    family = [n for n, t in sorted(collaboration.subtasks.items()) if t.family == terms.family]
    source = collaboration.data[str(terms.data)].source
    return [n for n in family if collaboration.data[str(collaboration.subtasks[n].data)].source == source]


def _like(collaboration: Collaboration, subtask: str, first: str) -> _Like | None:
    """Return the block by whose targets the rows are dealt out; None: by its own, or the file says."""
    terms = collaboration.subtasks[first]
    named = collaboration.partition_of(first).kind in ("column", "files")
    if first == subtask or (named and collaboration.data[str(terms.data)].rows is None):
        return None
    kind = kind_of(terms)
    return _Like(collaboration.data[str(terms.data)], terms.labels, kind.output, kind.inputs)


def inputs_wanted(config: DataConfig, kind: Kind, part: PartOf | None) -> Inputs:
    """Return what is read of a data block: for one of its modalities all that it holds, else the kind's."""
    if part is None or not part.is_modality:
        return kind.inputs
    if config.table is not None:
        return "mixed"
    held: Mapping[str, Inputs] = {"csv": "table", "images": "image", "idx": "image"}
    return held.get(config.format, kind.inputs)


def _sites(collaboration: Collaboration, subtask: str) -> tuple[str, ...]:
    """Return the sites that rows of the subtask, its whole or its family's file are dealt out to."""
    whole = collaboration.subtasks[subtask].part_of
    names = _of_one_file(collaboration, subtask)
    names = names if whole is None else list(collaboration.parts_of(whole).values())
    return tuple(sorted({site for name in names for site in collaboration.sites_of(name)}))


def public_set(collaboration: Collaboration, subtask: str) -> Examples:
    """Return the public set of a scenario's subtask, without labels.

    Raises:
        DataError: it has none, or its data cannot be read.
    """
    terms = collaboration.subtasks[subtask]
    source = terms.soft_labels.public.data if terms.soft_labels else None
    part = collaboration.view_of(subtask)
    if source is not None:
        config = collaboration.data[source]
        public = load_public(config, inputs_wanted(config, kind_of(terms), part), None)
    else:
        held_out = scenario_data(collaboration, subtask).public
        if held_out is None:
            raise DataError(f"subtask '{subtask}' has no public set: give soft_labels.public")
        public = held_out
    return public if part is None else inputs_of(public, part).examples


def root_set(collaboration: Collaboration, subtask: str) -> Examples:
    """Return the labelled rows that the server has for itself: no site's, not public, never test rows.

    Raises:
        DataError: the subtask has none, or its data cannot be read.
        ConfigError: it names the data of the sites.
    """
    terms, part = collaboration.subtasks[subtask], collaboration.view_of(subtask)
    if terms.root is None:
        raise DataError(f"subtask '{subtask}' has no root set: give root = {{ holdout = ROWS }}")
    if terms.root.data == terms.data:
        raise ConfigError(f"subtask '{subtask}': the sites have these rows: give root = {{ holdout = ROWS }}")
    if terms.root.data is not None:
        kind, config = kind_of(terms), collaboration.data[terms.root.data]
        rows = load_root(config, terms.labels, kind.output, inputs_wanted(config, kind, part), None)
        # By labels the file has the part's own labels; by modality all inputs of the whole.
        return rows if part is None or not part.is_modality else rows_of(rows, part)
    root = scenario_data(collaboration, subtask).root
    if root is None:
        raise DataError(f"subtask '{subtask}' has an empty root set")
    return root if part is None else rows_of(root, part)


@lru_cache(maxsize=32)
def _dealt(deal: _Deal) -> ScenarioData:
    # A pure function of its arguments and the files: the cache only saves reading and dealing out again.
    other = deal.like
    like = None if other is None else load(other.config, other.labels, other.output, other.inputs, None)[0]
    return build_scenario_examples(
        config=deal.config,
        partition=deal.partition,
        sites=deal.sites,
        labels=deal.labels,
        output=deal.output,
        inputs=deal.inputs,
        seed=deal.seed,
        data_name=deal.data_name,
        holdout=deal.holdout,
        root=deal.root,
        base=None,
        like=like,
    )


@lru_cache(maxsize=16)
def site_file(
    config: DataConfig, output: Output, inputs: Inputs, labels: tuple[str, ...] | int | None, base: Path
) -> Examples:
    """Return all rows of a real site's file, with these inputs; ``base`` is where paths start."""
    return load_site(config, labels=labels, output=output, inputs=inputs, base=base)
