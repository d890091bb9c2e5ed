"""Custody of a site's rows: which rows a subtask gets, and which it is refused.

Nothing here leaves the site but statistics and shapes. What it returns has a repr without values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clients.reading import ANEW, Keeper, Reading, SiteRows, split_rows
from collab.collaboration import Collaboration, named_kind
from collab.data.config import DataConfig
from collab.data.examples import Examples
from collab.data.locate import locate
from collab.data.targets import class_mask
from collab.decomposition.dag import conflicts
from collab.decomposition.families import unlike
from collab.decomposition.view import inputs_of, rows_of
from collab.plugins import unknown
from collab.scenario import inputs_wanted, public_set, scenario_data
from protocol.errors import ConfigError, DataError
from protocol.messages import Subtask

__all__ = ["Custody", "DeploymentCustody", "ScenarioCustody", "SiteRows"]


class Custody(Protocol):
    """How a site gets at its rows."""

    def rows(self, subtask: Subtask) -> SiteRows:
        """Return the site's rows of ``subtask``, split."""
        ...

    def whole(self, subtask: Subtask) -> SiteRows:
        """Return all rows, with all inputs, of the whole that ``subtask`` is a part of, under its labels."""
        ...

    def public(self, subtask: Subtask) -> Examples:
        """Return the public set of ``subtask``, without labels."""
        ...

    def speaks(self, subtask: Subtask) -> NDArray[np.bool_]:
        """Return [C]: on which classes the site gives an opinion; all, unless ``abstain`` names some."""
        ...

    def check_family(self, names: Sequence[str]) -> None:
        """Refuse subtasks of one family whose blocks read the same rows in unlike ways."""
        ...


@dataclass(frozen=True)
class ScenarioCustody:
    """A simulated site: its part of a data set that the collaboration file deals out."""

    collaboration: Collaboration
    site: str

    def rows(self, subtask: Subtask) -> SiteRows:
        """Return the part of the data that the partition gives to this site, split.

        A site whose profile says ``attack = "label_flip"`` trains and validates on flipped labels; its
        test rows stay as they are, so that what the attack does is measured on true ones.
        """
        rows = _viewed(self.whole(subtask), subtask)
        if self.collaboration.sites[self.site].attack != "label_flip":
            return rows
        return replace(
            rows, train=_flipped(rows.train, subtask), validation=_flipped(rows.validation, subtask)
        )

    def whole(self, subtask: Subtask) -> SiteRows:
        """Return what the partition gives to this site of the whole, or of a subtask that is no part."""
        known = self.collaboration.subtasks
        if subtask.name not in known:
            raise DataError(unknown(f"subtask '{subtask.name}' at site '{self.site}'", subtask.name, known))
        data = scenario_data(self.collaboration, subtask.name)
        if self.site not in data.by_site:
            raise DataError(f"subtask '{subtask.name}': site '{self.site}' has no data for it")
        name = str(self.collaboration.subtasks[subtask.name].data)
        seed = self.collaboration.seed
        reading = Reading(
            config=self.collaboration.data[name],
            inputs=named_kind(subtask.kind).inputs,
            base=Path(),
            drawn_from=(seed, name, self.site),
            family=subtask.family,
        )
        return split_rows(data.by_site[self.site], reading)

    def public(self, subtask: Subtask) -> Examples:
        """Return the rows that were held out of the data before it was dealt out."""
        return public_set(self.collaboration, subtask.name)

    def speaks(self, subtask: Subtask) -> NDArray[np.bool_]:
        """Return the mask that the data block and the site's profile make together."""
        data = self.collaboration.data[str(self.collaboration.subtasks[subtask.name].data)]
        silent = _of_labels(data.abstain, subtask)
        own = self.collaboration.sites[self.site].abstain.get(subtask.name, ())
        return class_mask(_labels(subtask), (*silent, *own))

    def check_family(self, names: Sequence[str]) -> None:
        """Refuse nothing: the collaboration file was checked when it was read."""


@dataclass(frozen=True)
class DeploymentCustody:
    """A real site: the files that its ``site.toml`` names."""

    data: Mapping[str, DataConfig]
    base: Path
    site: str
    keeper: Keeper = ANEW

    def rows(self, subtask: Subtask) -> SiteRows:
        """Return all rows of the site's own file, split; of a part, its view of the whole's file."""
        whole = self.whole(subtask)
        if subtask.part is None:
            return whole
        return self.keeper.derived(whole, ("view", subtask.part), lambda: _viewed(whole, subtask))

    def whole(self, subtask: Subtask) -> SiteRows:
        """Return all rows of the site's own file, split; a part's file is its whole's."""
        config = self._config(_block(subtask))
        named = {name for one in subtask.upstream for name in (one.whole or one.name, *one.beside)}
        for above in sorted(named & self.data.keys()):
            for why in conflicts(self._located(_block(subtask)), self._located(above)):
                raise DataError(f"data '{_block(subtask)}' and '{above}' at site '{self.site}': {why}")
        kind = named_kind(subtask.kind)
        reading = Reading(
            config=config,
            inputs=inputs_wanted(config, kind, subtask.part),
            base=self.base,
            output=kind.output,
            labels=subtask.labels if subtask.part is None else subtask.part.labels,
            drawn_from=(subtask.seed, subtask.data, self.site),
            family=subtask.family,
        )
        return self.keeper.rows(reading)

    def public(self, subtask: Subtask) -> Examples:
        """Return the public set, from the block ``[data.SUBTASK-public]`` of ``site.toml``."""
        config = self._config(f"{_block(subtask)}-public")
        inputs, part = inputs_wanted(config, named_kind(subtask.kind), subtask.part), subtask.part
        rows = self.keeper.public(Reading(config, inputs, self.base))
        if part is None or not part.is_modality:
            return rows
        return self.keeper.derived(rows, ("view", part), lambda: inputs_of(rows, part).examples)

    def speaks(self, subtask: Subtask) -> NDArray[np.bool_]:
        """Return the mask that the site's own data block makes."""
        silent = self._config(_block(subtask)).abstain
        return class_mask(_labels(subtask), _of_labels(silent, subtask))

    def check_family(self, names: Sequence[str]) -> None:
        """Refuse blocks of the site's own that read the same rows in unlike ways."""
        for why in unlike({name: self._located(name) for name in names if name in self.data}):
            raise DataError(f"site '{self.site}': {why}")

    def _located(self, name: str) -> DataConfig:
        """Return a block with whole paths: two spellings of one file are one file."""
        return self.data[name].with_paths(self._resolve)

    def _resolve(self, path: str) -> str:
        try:
            return str(locate(path, self.base, origins={}, accept_folder=True).resolve())
        except DataError:
            return str((self.base / path).resolve())

    def _config(self, name: str) -> DataConfig:
        if name not in self.data:
            raise DataError(unknown(f"data '{name}' at site '{self.site}'", name, self.data))
        return self.data[name]


def _viewed(rows: SiteRows, subtask: Subtask) -> SiteRows:
    """Return of each split the rows that the subtask takes, where it is part of a whole."""
    part = subtask.part
    if part is None:
        return rows
    return SiteRows(rows_of(rows.train, part), rows_of(rows.validation, part), rows_of(rows.test, part))


def _block(subtask: Subtask) -> str:
    """Return the name of the site's data block: a part's is its whole's."""
    return subtask.name if subtask.part is None else subtask.part.whole


def _of_labels(classes: tuple[str, ...], subtask: Subtask) -> tuple[str, ...]:
    """Return the classes that the subtask has; a part need not have all of its whole's."""
    if subtask.part is None:
        return classes
    known = set(subtask.labels) if isinstance(subtask.labels, tuple) else set()
    return tuple(label for label in classes if label in known)


def _labels(subtask: Subtask) -> tuple[str, ...] | int:
    return subtask.outputs if subtask.labels is None else subtask.labels


def _flipped(examples: Examples, subtask: Subtask) -> Examples:
    """Return the rows with class c called C - 1 - c (the label flip of Byzantine studies)."""
    if examples.y.dtype.kind != "i":
        raise ConfigError(f"subtask '{subtask.name}': attack 'label_flip' needs classes, it predicts a value")
    return replace(examples, y=subtask.outputs - 1 - examples.y)
