"""The data sets that ship with scikit-learn: nothing to download, nothing to configure."""

from __future__ import annotations

from typing import Any

import numpy as np

from collab.data.config import DataConfig, Wanted
from collab.data.examples import Examples, of_images, of_table
from protocol.errors import ConfigError

# The digits' pixels are counts of 4x4 ink dots, 0 to 16.
_DIGITS_SCALE = 16.0


def read(config: DataConfig, wanted: Wanted) -> Examples:
    """Return the data set ``config.name``; y is raw (see ``targets.encode``).

    Raises:
        ConfigError: images are wanted of a table.
    """
    if wanted.inputs == "image" and config.name != "digits":
        raise ConfigError(f"scikit-learn's '{config.name}' is a table: only 'digits' has images")
    bunch = _load(config.name)
    y = _raw_target(bunch, wanted, is_compared=config.positive is not None)
    if config.name != "digits":
        return of_table(bunch.data.astype(np.float64), [str(name) for name in bunch.feature_names], y)
    if wanted.inputs == "image":
        return of_images((bunch.images / _DIGITS_SCALE).astype(np.float32)[:, None], y)
    return of_table(bunch.data / _DIGITS_SCALE, [f"pixel_{i}" for i in range(64)], y)


def _load(name: str | None) -> Any:
    from sklearn import datasets  # noqa: PLC0415 - a second to import, and a site with its own files needs none

    if name == "diabetes":
        # scaled=True is standardised with the statistics of all rows, test rows included.
        return datasets.load_diabetes(scaled=False)
    return getattr(datasets, f"load_{name}")()


def _raw_target(bunch: Any, wanted: Wanted, *, is_compared: bool) -> Any:
    """Names where the subtask's labels can be names, else numbers."""
    if (
        isinstance(wanted.labels, int)
        or is_compared
        or "target_names" not in bunch
        or wanted.output == "value"
    ):
        return bunch.target.astype(np.float64 if wanted.output == "value" else np.int64)
    names = np.array([str(name) for name in bunch.target_names], dtype=object)
    return names[bunch.target]
