"""Who has which rows: a scenario deals one data set out to its sites, a deployed site has its own file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.data.apportion import apportion
from collab.data.config import DataConfig, Inputs, Output, PartitionConfig
from collab.data.content import fingerprints
from collab.data.examples import Examples, Text
from collab.data.formats import describe, load, require_all_rows
from collab.data.partition import partition as deal
from collab.data.public import draw_public, draw_subset
from collab.rng import generator
from protocol.errors import ConfigError, DataError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ScenarioData:
    """One data set, dealt out.

    Attributes:
        by_site: each site's rows, train, validation and test together (see ``splits.split``).
        public: rows without labels that no site has, or None.
        labels: the classes, position = index in y; None if y is a value.
        root: rows with labels that the server has and no site, or None.
    """

    by_site: Mapping[str, Examples]
    public: Examples | None
    labels: tuple[str, ...] | None
    root: Examples | None = None


def build_scenario_examples(  # noqa: PLR0913 - each argument is one independent fact of the scenario
    config: DataConfig,
    partition: PartitionConfig,
    sites: Sequence[str],
    *,
    labels: Sequence[str] | int | None,
    output: Output,
    inputs: Inputs,
    seed: int,
    data_name: str,
    holdout: int = 0,
    root: int = 0,
    base: Path | None = None,
    like: Examples | None = None,
) -> ScenarioData:
    """Read a data set, hold out the public and the root set, deal the rest out, then the official test rows.

    A function of its arguments and the file: every engine, policy and baseline gets the same rows.

    Args:
        config: the data block ``data_name``.
        partition: how it is dealt out.
        sites: the sites that have the subtask.
        labels: see ``formats.load``.
        output: see ``formats.load``.
        inputs: see ``formats.load``.
        seed: of the collaboration.
        data_name: makes the draws of two data sets independent.
        holdout: rows of the public set, 0 for none.
        root: rows of the root set, 0 for none; asking for it leaves the public set as it is.
        base: see ``formats.load``.
        like: the same rows as another block reads them, whose targets decide who gets what in place of these.

    Raises:
        DataError: see ``formats.load``; too few rows, one class alone, a site without rows, or rows that are
            not those of ``like``.
        ConfigError: keys that do not go together.
    """
    rows, names = load(config, labels, output, inputs, base)
    _require_two_classes(rows, config)
    keys = rows if like is None else replace(rows, y=_targets_of(like, rows, config))
    keys = replace(keys, image_NCHW=None)  # who gets what is decided without copying pixels
    test = _official_test(rows, config)
    mine = np.setdiff1d(np.arange(len(rows)), test)
    if config.rows is not None:
        mine = mine[draw_subset(keys.take(mine), config.rows, generator(seed, data_name, "rows"))]
    public, mine = _hold_out(keys, mine, holdout, generator(seed, data_name, "public"), "public")
    trusted, mine = _hold_out(keys, mine, root, generator(seed, data_name, "root"), "root")
    pool = keys.take(mine)
    rng = generator(seed, data_name, "partition")
    dealt = deal(pool.y, pool.site_N, partition, sites, rng, group_N=pool.group_N)
    indices = {site: mine[at] for site, at in dealt.items()}
    official = _deal_test(keys, test, indices, partition, generator(seed, data_name, "test"))
    return ScenarioData(
        by_site={site: rows.take(np.concatenate([indices[site], official[site]])) for site in sites},
        public=rows.take(public).without_targets() if holdout else None,
        labels=names,
        root=rows.take(trusted) if root else None,
    )


def _targets_of(like: Examples, rows: Examples, config: DataConfig) -> NDArray[Any]:
    """Return the targets by which rows are dealt out that another block reads too.

    Raises:
        DataError: the two do not read the same rows in the same order.
    """
    if len(like) != len(rows) or fingerprints(like) != fingerprints(rows):
        raise DataError(
            f"{describe(config)}: subtasks of one family read other rows or columns of it: give their blocks "
            "the same features and missing_rows; or name each row's site, for partition 'column'"
        )
    return like.y


def load_site(
    config: DataConfig, labels: Sequence[str] | int | None, output: Output, inputs: Inputs, base: Path | None
) -> Examples:
    """Return the rows of a deployed site: all rows of its file are its own.

    Raises:
        ConfigError: the subtask has no labels, which no site can infer from its own rows alone, or
            ``files`` or ``rows``, which are for scenarios.
        DataError: see ``formats.load``.
    """
    if output == "classes" and labels is None:
        raise ConfigError(
            "the subtask needs labels in the collaboration file: a site sees its own classes alone and could "
            "number them otherwise than another"
        )
    if config.files is not None:
        raise ConfigError("files is for scenarios: a site's own data block has one path")
    require_all_rows(config)
    return load(config, labels, output, inputs, base)[0]


def load_root(
    config: DataConfig, labels: Sequence[str] | int | None, output: Output, inputs: Inputs, base: Path | None
) -> Examples:
    """Return the labelled rows of a server's own file, without those that its split names test rows.

    Raises:
        ConfigError: ``rows``, which is for data that is dealt out.
        DataError: see ``formats.load``.
    """
    require_all_rows(config)
    rows = load(config, labels, output, inputs, base)[0]
    return rows if rows.split_N is None else rows.take(rows.split_N != "test")


def _hold_out(
    rows: Examples, mine: Indices, count: int, rng: np.random.Generator, what: str
) -> tuple[Indices, Indices]:
    """Return which of the rows ``mine`` are held out, and which are left."""
    if not count:
        return mine[:0], mine
    held_out, rest = draw_public(rows.take(mine), count, rng, what)
    return mine[held_out], mine[rest]


def _require_two_classes(rows: Examples, config: DataConfig) -> None:
    if rows.y.dtype.kind == "i" and len(np.unique(rows.y)) < 2:
        raise DataError(f"{describe(config)}: the target has one class only: there is nothing to learn")


def _official_test(rows: Examples, config: DataConfig) -> Indices:
    if not config.split.has_official_test or rows.split_N is None:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(rows.split_N == "test")


def _deal_test(
    rows: Examples,
    test: Indices,
    train: Mapping[str, Indices],
    config: PartitionConfig,
    rng: np.random.Generator,
) -> dict[str, Indices]:
    """Deal the official test rows out: by site if they name it, else as their class's train rows lie.

    A site with 30 % of the train rows of a class gets 30 % of its test rows; values are one class.
    """
    if config.kind in ("column", "files") and rows.site_N is not None and (rows.site_N[test] != "").all():
        return _by_site(rows.site_N, test, list(train))
    parts: dict[str, list[Indices]] = {site: [np.empty(0, dtype=np.int64)] for site in train}
    for label in np.unique(_strata(rows, test)):
        members = rng.permutation(test[_strata(rows, test) == label])
        shares = [int((_strata(rows, at) == label).sum()) for at in train.values()]
        cuts = np.cumsum(apportion(len(members), shares))[:-1]
        for site, part in zip(train, np.split(members, cuts), strict=True):
            parts[site].append(part)
    return {site: np.sort(np.concatenate(chunks)) for site, chunks in parts.items()}


def _by_site(site_N: Text, test: Indices, sites: Sequence[str]) -> dict[str, Indices]:
    named = {site: test[site_N[test] == site] for site in sites}
    strangers = len(test) - sum(map(len, named.values()))
    if strangers:
        raise DataError(f"{strangers} official test rows belong to sites that do not have this subtask")
    return named


def _strata(rows: Examples, indices: Indices) -> Indices:
    is_class = rows.y.dtype.kind == "i"
    return rows.y[indices] if is_class else np.zeros(len(indices), dtype=np.int64)
