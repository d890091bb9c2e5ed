"""Derived randomness: a generator is a function of the seed and of what it is for.

Never of a run id or an attempt, so two engines, or a run that was killed and resumed,
draw the same numbers. Never used for privacy noise, keys or nonces.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *keys: str | int) -> int:
    """Return a 128-bit seed that depends on ``seed`` and every key in order."""
    # repr keeps 1 and "1" apart, and the separator keeps ("a", "b") and ("ab",) apart.
    text = "\0".join([repr(seed), *map(repr, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def generator(seed: int, *keys: str | int) -> np.random.Generator:
    """Return the generator for one purpose, e.g. ``generator(7, round, subtask, site, "batches")``."""
    return np.random.default_rng(derive(seed, *keys))
