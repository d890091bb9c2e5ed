"""A bounded memory: what was used longest ago goes first, and what was made of a thing goes with it."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clients.reading import SiteRows
from collab.data.examples import Examples
from collab.data.ngrams import Grams
from collab.training import Rows

# What a short text costs in CPython beside the pointer to it.
_TEXT_BYTES = 64


@dataclass(frozen=True)
class Entry:
    """What is kept, and by what it is known to be still good.

    Attributes:
        stamp: equal as long as what it was made of has not changed.
        versions: of its tensors, which torch counts up whenever somebody writes in one.
        source: what it was made of, if that is an object: with its end the entry goes.
    """

    value: Any
    stamp: Hashable
    versions: tuple[int, ...]
    size: int
    source: weakref.ref[object] | None


class Store:
    """Values by key, ``max_bytes`` of them at most."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self._used = 0

    @property
    def used(self) -> int:
        """How many bytes are kept."""
        return self._used

    def get(self, key: Hashable, stamp: Hashable) -> Any | None:
        """Return what is kept under ``key`` if it is still good; what is not goes."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.stamp != stamp or entry.versions != _versions(entry.value):
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: Hashable, stamp: Hashable, value: Any, source: object | None = None) -> None:
        """Keep ``value``, read-only, unless it alone is more than may be kept."""
        _protect(value)
        self.drop(key)
        size = size_of(value)
        if size > self.max_bytes:
            return
        alive = None if source is None else weakref.ref(source, lambda _: self.drop(key))
        self._entries[key] = Entry(value, stamp, _versions(value), size, alive)
        self._used += size
        while self._used > self.max_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, key: Hashable) -> None:
        """Forget what is kept under ``key``, if anything is."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._used -= entry.size

    def clear(self) -> None:
        """Forget everything."""
        # What goes may call ``drop`` for what was made of it: that must not meet a half cleared table.
        gone, self._entries, self._used = self._entries, OrderedDict(), 0
        gone.clear()


def size_of(value: Any) -> int:
    """Return about how many bytes a value holds."""
    return sum(_bytes(array) for array in parts(value))


def _bytes(array: NDArray[Any] | torch.Tensor) -> int:
    texts = array.size * _TEXT_BYTES if isinstance(array, np.ndarray) and array.dtype == object else 0
    return int(array.nbytes) + texts


def _protect(value: Any) -> None:
    """Make a value's arrays read-only: who writes in one that others will read fails at once."""
    for array in parts(value):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False


def _versions(value: Any) -> tuple[int, ...]:
    # A tensor cannot be made read-only. A model of an institution's own may write in its input, so torch's
    # own count of such writes, which views share, says whether a tensor is still what it was.
    return tuple(part._version for part in parts(value) if isinstance(part, torch.Tensor))  # noqa: SLF001


def parts(value: object) -> Iterator[NDArray[Any] | torch.Tensor]:
    """Yield the arrays and tensors that rows, or a tuple of them, hold."""
    if isinstance(value, np.ndarray | torch.Tensor):
        yield value
    elif isinstance(value, Grams):
        yield from parts(value.counts_NB)
    elif isinstance(value, csr_array):
        yield from (value.data, value.indices, value.indptr)
    elif isinstance(value, Examples | SiteRows | Rows):
        for part in vars(value).values():
            yield from parts(part)
    elif isinstance(value, tuple):
        for part in value:
            yield from parts(part)
