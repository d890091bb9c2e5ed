"""Arrays of every dtype that travels, for the tests of protocol/."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from protocol.arrays import DTYPES

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF), min_size=1, max_size=12).filter(
    lambda name: name.isprintable() and name != "__metadata__"
)


def named_arrays(max_size: int = 4) -> st.SearchStrategy[dict[str, NDArray[Any]]]:
    """Up to ``max_size`` arrays of any dtype that travels; some scalars, some without elements."""
    shapes = st.one_of(st.just(()), array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3))
    one = st.sampled_from(sorted(DTYPES)).flatmap(lambda dtype: arrays(np.dtype(dtype), shapes))
    return st.dictionaries(NAMES, one, max_size=max_size)


def same_bits(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> bool:
    """Whether both have the same names, dtypes, shapes and bytes; NaN equals itself."""
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in a
    )
