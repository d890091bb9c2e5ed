"""Reading a site's rows: the only file of a site that opens private data.

What the rows depend on is one value, a ``Reading``, and whoever keeps rows in memory keeps them under it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from collab.data.config import DataConfig, Inputs, Labels, Output
from collab.data.examples import Examples
from collab.data.formats import load_public
from collab.data.splits import split
from collab.scenario import site_file

T = TypeVar("T")


@dataclass(frozen=True)
class SiteRows:
    """The three splits of one subtask at one site, before preprocessing."""

    train: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True)
class Reading:
    """All that rows depend on, but what the files hold.

    Attributes:
        base: the folder that relative paths start from.
        drawn_from: the seed, the name of the data and the site: by these the splits are drawn.
    """

    config: DataConfig
    inputs: Inputs
    base: Path
    output: Output = "value"
    labels: Labels = None
    drawn_from: tuple[int, str, str] = (0, "", "")
    family: str | None = None


class Keeper(Protocol):
    """Where rows, and what is made of them, come from: made each time, or kept from the last time."""

    def rows(self, reading: Reading) -> SiteRows:
        """Return all rows of a site's own file, split."""
        ...

    def public(self, reading: Reading) -> Examples:
        """Return the rows of a public set, without labels."""
        ...

    def derived(self, source: object, key: Hashable, build: Callable[[], T]) -> T:
        """Return what ``build`` makes of ``source``; ``key`` is all else that it depends on."""
        ...


@dataclass(frozen=True)
class Anew:
    """Keeps nothing: what a process does that is gone after one message."""

    def rows(self, reading: Reading) -> SiteRows:
        """Return all rows of a site's own file, split."""
        r = reading
        return split_rows(site_file(r.config, r.output, r.inputs, r.labels, r.base), r)

    def public(self, reading: Reading) -> Examples:
        """Return the rows of a public set, without labels."""
        return load_public(reading.config, reading.inputs, reading.base)

    def derived(self, source: object, key: Hashable, build: Callable[[], T]) -> T:  # noqa: ARG002 - the contract
        """Return what ``build`` makes."""
        return build()


ANEW: Final = Anew()


def split_rows(examples: Examples, reading: Reading) -> SiteRows:
    """Return the rows split as ``reading`` says."""
    (seed, data_name, site), split_config = reading.drawn_from, reading.config.split
    parts = split(examples, split_config, seed=seed, data_name=data_name, site=site, family=reading.family)
    return SiteRows(
        train=examples.take(parts.train),
        validation=examples.take(parts.validation),
        test=examples.take(parts.test),
    )
