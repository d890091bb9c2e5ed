"""Rows known by their inputs alone: the same inputs go to the same side, whatever label a block gives them.

Subtasks of one family may read the same rows with different targets, each from a block of its own, and at
sites that differ. A draw that stratifies by label, or that counts rows, would let a row that tests one of
them train another. So their sides are a function of (seed, family, inputs), or of the row's group.

Shape suffixes: N rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from collab.data.examples import Examples, Text
from collab.data.split_config import SplitConfig
from collab.rng import derive

_BITS = 53  # what a float64 holds exactly


def fingerprints(examples: Examples) -> list[bytes]:
    """Return 16 bytes for each row, the same for the same inputs; columns are taken in order of name."""
    numeric = np.argsort(np.array(examples.numeric_names, dtype=object), kind="stable").astype(np.int64)
    texts = np.argsort(np.array(examples.categorical_names, dtype=object), kind="stable").astype(np.int64)
    # Not a number has many bit patterns, and zero has two.
    numbers_NP = np.where(np.isnan(examples.numeric_NP), np.nan, examples.numeric_NP + 0.0)[:, numeric]
    words_NQ = examples.categorical_NQ[:, texts]
    found = []
    for n in range(len(examples)):
        row = hashlib.blake2b(np.ascontiguousarray(numbers_NP[n]).tobytes(), digest_size=16)
        row.update("\0".join(words_NQ[n].tolist()).encode("utf-8", "surrogatepass"))
        if examples.image_NCHW is not None:
            row.update(np.ascontiguousarray(examples.image_NCHW[n]).tobytes())
        if examples.grams is not None:
            counts = examples.grams.counts_NB
            span = slice(int(counts.indptr[n]), int(counts.indptr[n + 1]))
            order = np.argsort(counts.indices[span], kind="stable")
            row.update(counts.indices[span][order].astype(np.int64).tobytes())
            row.update(counts.data[span][order].astype(np.int64).tobytes())
        found.append(row.digest())
    return found


def sides(examples: Examples, config: SplitConfig, seed: int, name: str) -> Text:
    """Return each row's side; the shares are met on average, and for each side within what chance allows.

    Args:
        examples: the rows to be drawn.
        config: the shares; with official test rows none is drawn to test.
        seed: of the collaboration.
        name: of the family: the same inputs are on the same side for all who split under this name.
    """
    keys = fingerprints(examples) if examples.group_N is None else _groups(examples.group_N)
    u_N = _uniform(keys, derive(seed, name, "split by content"))
    test = 0.0 if config.has_official_test else config.test
    side_N = np.full(len(examples), "train", dtype=object)
    side_N[u_N < test + config.validation] = "validation"
    side_N[u_N < test] = "test"
    return side_N


def _groups(group_N: Text) -> list[bytes]:
    return [str(group).encode("utf-8", "surrogatepass") for group in group_N]


def _uniform(keys: Sequence[bytes], secret: int) -> NDArray[np.float64]:
    """Return a number of [0, 1) for each key."""
    key = secret.to_bytes(16, "little")
    digests = (hashlib.blake2b(k, key=key, digest_size=8).digest() for k in keys)
    whole_N = [int.from_bytes(d, "little") >> (64 - _BITS) for d in digests]
    return np.asarray(np.array(whole_N, dtype=np.float64) / 2**_BITS)
