"""The weighted mean of arrays as a running mean in place: memory does not grow with the sites.

    W ← W + w,   mean ← mean + (w / W) (x − mean)

One array of state a parameter and one small scratch block, both made once: at these sizes the
first touch of fresh memory costs as much as the arithmetic. Against a running sum, equal inputs
are returned to the bit and no partial sum can overflow. float32 stays float32; float16 is
accumulated in float32. The order of ``add`` decides the last bits, so callers add in site order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.aggregation.contract import is_averaged
from protocol.arrays import Arrays, check_finite, check_spec, spec_of
from protocol.errors import ArraysError, RunError

# Elements worked on at a time: input, mean and scratch of a block stay in the L2 cache.
_BLOCK = 65_536


class Accumulator:
    """The weighted mean of the contributions added so far.

    Args:
        like: the global arrays; contributions must have their names, shapes and dtypes, and the mean
            returns their own arrays where these are not floating point.
    """

    def __init__(self, like: Arrays) -> None:
        self._spec = spec_of(like)
        self._fixed = {name: array.copy() for name, array in like.items() if not is_averaged(array)}
        self._means: dict[str, NDArray[Any]] = {
            name: np.zeros(array.size, np.promote_types(array.dtype, np.float32))
            for name, array in like.items()
            if is_averaged(array)
        }
        longest = max([1, *(mean.size for mean in self._means.values())])
        self._scratch = {
            dtype: np.empty(min(longest, _BLOCK), dtype)
            for dtype in {mean.dtype for mean in self._means.values()}
        }
        self._total = 0.0

    def add(self, arrays: Arrays, weight: float) -> None:
        """Add a contribution, e.g. a site's arrays with its number of examples as weight.

        Raises:
            ArraysError: names, shapes or dtypes differ, or the weight is negative or not finite; nothing
                was added.
        """
        check_spec(arrays, self._spec)
        if not (math.isfinite(weight) and weight >= 0.0):
            raise ArraysError("a contribution's weight must be finite and not negative")
        if weight == 0.0:
            return
        self._total += weight
        share = weight / self._total
        with np.errstate(over="ignore", invalid="ignore"):  # `mean` refuses what is not finite
            for name, mean in self._means.items():
                _move(mean, arrays[name].reshape(-1), share, self._scratch[mean.dtype])

    def mean(self) -> dict[str, NDArray[Any]]:
        """Return the mean, new arrays with the names, shapes and dtypes of ``like``.

        Raises:
            RunError: nothing was added, or only contributions of weight 0.
            ArraysError: a contribution held NaN or infinite values.
        """
        if self._total == 0.0:
            raise RunError("no contribution has any weight: there is nothing to average")
        check_finite(self._means)
        return {name: self._result(name) for name in self._spec}

    def _result(self, name: str) -> NDArray[Any]:
        if name in self._fixed:
            return self._fixed[name].copy()
        spec = self._spec[name]
        return self._means[name].reshape(spec.shape).astype(spec.dtype)


def _move(mean: NDArray[Any], values: NDArray[Any], share: float, scratch: NDArray[Any]) -> None:
    """Move ``mean`` by ``share`` of the way to ``values``, in place, block by block."""
    for start in range(0, mean.size, len(scratch)):
        block = mean[start : start + len(scratch)]
        step = scratch[: block.size]
        np.subtract(values[start : start + len(scratch)], block, out=step)
        step *= share
        block += step
