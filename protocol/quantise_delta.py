"""What a site changed in a model, as int8 with a scale for each block, and what that left out.

A block of ``BLOCK`` numbers x travels as q = rint(x / s), s = max |x| / 127: one byte a number and four
a block. It is the *delta* of the arrays that travels, not the arrays: a delta is small beside them and
so is its rounding. What the rounding leaves out is added to the same site's next delta (error feedback:
Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019, https://arxiv.org/abs/1901.09847), so that
over rounds nothing is lost but the last residual, for each element at most max |delta| / 253:

    sum of decoded = sum of deltas - last residual

For sites that contribute round after round over links that weights fill. In the first rounds a delta
is nearly as large as the arrays, and its error little smaller than theirs would be. A residual belongs
to one site, subtask and model, and is dropped where the model changes.

Integer arrays, running statistics (which are averaged, not stepped) and arrays too small to gain travel
as they are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import Arrays, ArraySpec, Spec, check, check_finite, spec_of
from protocol.errors import ArraysError

Floating = NDArray[Any]

# The smallest power of 2 with 3.9 times fewer bytes than float32; each doubling costs an eighth more error.
BLOCK = 256
SCALE = "#scale"
_LARGEST = 127
_RUNNING = ("running_mean", "running_var")
# An array's scales are named and placed in the header of the message, which takes some 90 bytes; an
# array of 32 float32 saves 92.
_SMALLEST = 32


def encode_delta(
    delta: Arrays, residual: Arrays | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return ``delta`` plus ``residual`` as it travels, and the residual for the next round.

    Args:
        delta: new arrays minus those received, all arrays of the model. Not changed.
        residual: what this function returned in the site's last round; None in its first.

    Raises:
        ArraysError: a value that is not finite or does not fit; a residual of other arrays; or a
            name that ends in "#scale".
    """
    spec = spec_of(delta)
    names = _quantised(spec)
    check_finite(delta)
    if residual is not None:
        check(residual, {name: ArraySpec(spec[name].shape, str(_precise(spec[name]))) for name in names})
    wire: dict[str, NDArray[Any]] = dict(delta)
    left: dict[str, NDArray[Any]] = {}
    for name in names:
        wanted = delta[name].astype(_precise(spec[name]))
        if residual is not None:
            wanted += residual[name]
        wire[name], wire[name + SCALE] = to_int8(wanted, BLOCK)
        wanted -= from_int8(wire[name], wire[name + SCALE], wanted.dtype, BLOCK)
        left[name] = wanted
    return wire, left


def decode_delta(wire: Arrays, spec: Spec) -> dict[str, NDArray[Any]]:
    """Return the delta, with the names, shapes and dtypes of ``spec``, which is the model's.

    Raises:
        ArraysError: the arrays are not what ``encode_delta`` makes of such a delta.
    """
    names = _quantised(spec)
    check(wire, wire_spec(spec))
    delta: dict[str, NDArray[Any]] = {name: wire[name] for name in spec}
    for name in names:
        if (wire[name] < -_LARGEST).any() or (wire[name + SCALE] < 0).any():
            raise ArraysError(f"array '{name}' has a level below -{_LARGEST} or a negative scale")
        with np.errstate(over="ignore"):  # refused below
            delta[name] = from_int8(wire[name], wire[name + SCALE], _precise(spec[name]), BLOCK).astype(
                spec[name].dtype
            )
    check_finite(delta)
    return delta


def wire_spec(spec: Spec) -> dict[str, ArraySpec]:
    """Return the names, shapes and dtypes with which arrays of ``spec`` travel."""
    expected = dict(spec)
    for name in _quantised(spec):
        expected[name] = ArraySpec(spec[name].shape, "int8")
        expected[name + SCALE] = ArraySpec((_blocks(spec[name]),), "float32")
    return expected


def to_int8(values: Floating, block: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return levels in the shape of ``values`` (float32 or float64), and a scale for each block of them.

    Raises:
        ArraysError: a value that float32 does not hold.
    """
    blocks = _in_blocks(values, block)
    peaks = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    with np.errstate(over="ignore"):
        scales = (peaks / _LARGEST).astype(np.float32)
        fits = np.isfinite(scales * np.float32(_LARGEST)).all()
    if not fits:
        raise ArraysError("a delta holds values that float32 does not hold")
    scales[scales < np.finfo(np.float32).tiny] = 0.0  # one cannot divide by what is smaller
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0.0)
    levels = blocks * inverse[:, None]
    return _out_of_blocks(np.rint(levels, out=levels).astype(np.int8), values.shape), scales


def from_int8(
    levels: NDArray[np.int8], scales: NDArray[np.float32], dtype: np.dtype[Any], block: int
) -> Floating:
    """Return the values of ``levels``, which are off by at most half of their block's scale."""
    return _out_of_blocks(np.multiply(_in_blocks(levels, block), scales[:, None], dtype=dtype), levels.shape)


def _in_blocks(values: NDArray[Any], block: int) -> NDArray[Any]:
    """Return ``values`` as [blocks, block], the last one filled up with zeros; a view where it can be."""
    flat = values.reshape(-1)
    short = -flat.size % block
    padded = np.concatenate([flat, np.zeros(short, flat.dtype)]) if short else flat
    return padded.reshape(-1, block)


def _out_of_blocks(blocks: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return blocks.reshape(-1)[: math.prod(shape)].reshape(shape)


def _quantised(spec: Spec) -> list[str]:
    """Return the names of the arrays that travel as int8: sender and receiver agree by the spec alone."""
    reserved = sorted(name for name in spec if name.endswith(SCALE))
    if reserved:
        raise ArraysError(f"array '{reserved[0]}' has a name that ends in '{SCALE}', which is reserved")
    return [
        name
        for name, array in spec.items()
        if array.dtype.startswith("float")
        and not name.endswith(_RUNNING)
        and math.prod(array.shape) > _SMALLEST
    ]


def _blocks(array: ArraySpec) -> int:
    return math.ceil(math.prod(array.shape) / BLOCK)


def _precise(array: ArraySpec) -> np.dtype[Any]:
    """Return what to compute in: at least float32, for residuals are small."""
    return np.promote_types(array.dtype, np.float32)
