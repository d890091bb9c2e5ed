"""Soft labels as bytes: in full, in halves, in one byte a class, or of the likeliest classes alone.

Legend of shapes: N public rows, C classes, K kept classes, B bytes of a class's number.

| form | bytes a row | what travels |
|---|---|---|
| fp32 | 4 C | probabilities as they are |
| fp16 | 2 C | probabilities, scaled to sum to 1 on receipt |
| uint8 | C + 1 | logits, row-affine |
| topk | K (2 + B) | the K largest probabilities; the rest goes evenly to the other classes |

uint8 quantises logits and not probabilities, whose small values one byte cannot tell from 0. A row's
logits count from its largest, down to log ``FLOOR``, in 255 equal steps as wide as that row needs. The
softmax does not see a row's offset, so only its range travels, and one byte is enough for that too.
With a step of h <= 0.064 nats a logit is wrong by at most h / 2, and a row by KL <= h² / 8 (Hoeffding's
lemma) beside what the floor adds, at most C ``FLOOR``.

A row of zeros says that the site abstains, and comes back as a row of zeros in every form. A class of
probability 0 comes back from uint8 with at most ``FLOOR``: that a site never saw it, class counts say.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import Arrays, ArraySpec, check
from protocol.bounds import WireForm
from protocol.errors import ArraysError

# The wire forms that carry soft labels; any other is refused.
Form = Literal["fp32", "fp16", "uint8", "topk"]

# The smallest probability that uint8 can tell, relative to the row's largest.
FLOOR = 1e-7
_DEEPEST = -math.log(FLOOR)
_STEPS = 255
# How far from 1 a row may sum before it is rounded; and what float16 rounds by: a value of normal
# size by a part in 2^11, a smaller one by 2^-25.
_TOLERANCE = 1e-3
_HALF_ROUNDING, _HALF_SMALLEST = 2.0**-11, 2.0**-25


def encode_soft_labels(
    probabilities_NC: NDArray[Any], form: WireForm, top_k: int = 3
) -> dict[str, NDArray[Any]]:
    """Return ``probabilities_NC`` in ``form``; of topk, ``top_k`` classes a row, or all if there are fewer.

    Raises:
        ArraysError: they are not floating probabilities [N, C], each row summing to 1 or all 0;
            ``top_k`` is not positive; or there is no such form.
    """
    if probabilities_NC.ndim != 2 or probabilities_NC.shape[1] < 1 or probabilities_NC.dtype.kind != "f":
        found = f"{probabilities_NC.dtype} {probabilities_NC.shape}"
        raise ArraysError(f"soft labels are {found}, expected floating point [N, C] with at least one class")
    _check_rows(probabilities_NC, _TOLERANCE)
    match form:
        case "fp32":
            return {"probabilities": probabilities_NC.astype(np.float32)}
        case "fp16":
            return {"probabilities": probabilities_NC.astype(np.float16)}
        case "uint8":
            return _to_levels(probabilities_NC.astype(np.float32))
        case "topk":
            return _to_largest(probabilities_NC, top_k)
    raise ArraysError(f"soft labels have no wire form {form!r:.20}; allowed: fp32, fp16, uint8, topk")


def decode_soft_labels(arrays: Arrays, form: WireForm, rows: int, classes: int) -> NDArray[np.float32]:
    """Return soft labels [rows, classes]: each row sums to 1, or is all 0 where the site abstains.

    fp32 comes back bit for bit, rows included that sum to 1 within 1e-3 only.

    Raises:
        ArraysError: the arrays are not what ``encode_soft_labels`` makes of that many rows and
            classes, or there is no such form.
    """
    match form:
        case "fp32":
            check(arrays, wire_spec(form, rows, classes))
            _check_rows(arrays["probabilities"], _TOLERANCE)
            return arrays["probabilities"].astype(np.float32)
        case "fp16":
            check(arrays, wire_spec(form, rows, classes))
            _check_rows(arrays["probabilities"], _half_tolerance(classes))
            return _rows_to_one(arrays["probabilities"].astype(np.float32))
        case "uint8":
            return _from_levels(arrays, rows, classes)
        case "topk":
            return _from_largest(arrays, rows, classes)
    raise ArraysError(f"soft labels have no wire form {form!r:.20}; allowed: fp32, fp16, uint8, topk")


def wire_spec(form: WireForm, rows: int, classes: int, top_k: int = 3) -> dict[str, ArraySpec]:
    """Return the names, shapes and dtypes with which soft labels of so many rows and classes travel.

    Raises:
        ArraysError: there is no such form.
    """
    match form:
        case "fp32" | "fp16":
            return {"probabilities": ArraySpec((rows, classes), f"float{form[2:]}")}
        case "uint8":
            return {"levels": ArraySpec((rows, classes), "uint8"), "ranges": ArraySpec((rows,), "uint8")}
        case "topk":
            kept = min(top_k, classes)
            return {
                "classes": ArraySpec((rows, kept, _width(classes)), "uint8"),
                "probabilities": ArraySpec((rows, kept), "float16"),
            }
    raise ArraysError(f"soft labels have no wire form {form!r:.20}; allowed: fp32, fp16, uint8, topk")


def _to_levels(probabilities_NC: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    largest_N1 = probabilities_NC.max(axis=1, keepdims=True)
    known_N1 = largest_N1 > 0.0
    relative_NC = probabilities_NC / np.where(known_N1, largest_N1, 1.0)
    depth_NC = np.where(known_N1, -np.log(np.maximum(relative_NC, np.float32(FLOOR))), 0.0)
    # Rounded up, so that the deepest logit still has a level; 0 is left for rows that abstain.
    ranges_N1 = np.ceil(depth_NC.max(axis=1, keepdims=True) * (_STEPS / _DEEPEST)).clip(1, _STEPS)
    return {
        "levels": np.rint(depth_NC / _step(ranges_N1)).astype(np.uint8),
        "ranges": np.where(known_N1, ranges_N1, 0).astype(np.uint8)[:, 0],
    }


def _from_levels(arrays: Arrays, rows: int, classes: int) -> NDArray[np.float32]:
    check(arrays, wire_spec("uint8", rows, classes))
    levels_NC, ranges_N1 = arrays["levels"], arrays["ranges"][:, None]
    if levels_NC[ranges_N1[:, 0] == 0].any():
        raise ArraysError("soft labels have rows that abstain and yet have levels")
    return _rows_to_one(np.exp(levels_NC * -_step(ranges_N1)) * (ranges_N1 > 0))


def _step(ranges_N1: NDArray[Any]) -> NDArray[np.float32]:
    """Return how many nats apart two levels are, for rows of these ranges."""
    return ranges_N1.astype(np.float32) * np.float32(_DEEPEST / _STEPS**2)


def _to_largest(probabilities_NC: NDArray[Any], top_k: int) -> dict[str, NDArray[Any]]:
    classes = probabilities_NC.shape[1]
    if top_k < 1:
        raise ArraysError(f"top_k is {top_k}, expected 1 or more")
    kept = min(top_k, classes)
    index_NK = np.argpartition(-probabilities_NC, kept - 1, axis=1)[:, :kept]
    return {
        "classes": index_NK.astype("<u4").view(np.uint8).reshape(-1, kept, 4)[:, :, : _width(classes)],
        "probabilities": np.take_along_axis(probabilities_NC, index_NK, axis=1).astype(np.float16),
    }


def _from_largest(arrays: Arrays, rows: int, classes: int) -> NDArray[np.float32]:
    shape = arrays["probabilities"].shape if "probabilities" in arrays else ()
    if len(shape) != 2 or not 1 <= shape[1] <= classes:
        raise ArraysError(
            f"soft labels of the likeliest classes have shape {shape}, expected {rows} x 1 or more"
        )
    kept, width = shape[1], _width(classes)
    check(arrays, wire_spec("topk", rows, classes, kept))
    index_NK = arrays["classes"] @ 256 ** np.arange(width)
    if (index_NK >= classes).any() or (np.diff(np.sort(index_NK, axis=1), axis=1) == 0).any():
        raise ArraysError(
            f"soft labels name classes that are not {kept} different ones of {classes} in each row"
        )
    _check_rows(arrays["probabilities"], _half_tolerance(kept), complete=kept == classes)
    kept_NK = arrays["probabilities"].astype(np.float32)
    mass_N1, smallest_N1 = kept_NK.sum(axis=1, keepdims=True), kept_NK.min(axis=1, keepdims=True)
    # No class that was left out is likelier than one that was kept: what float16 lost is not theirs.
    rest_N1 = np.clip((1.0 - mass_N1) / max(classes - kept, 1), 0.0, smallest_N1)
    spread_NC = np.repeat(rest_N1, classes, axis=1)
    np.put_along_axis(spread_NC, index_NK, kept_NK, axis=1)
    return _rows_to_one(spread_NC)


def _width(classes: int) -> int:
    """Return how many bytes the number of a class takes."""
    return max(1, ((classes - 1).bit_length() + 7) // 8)


def _half_tolerance(values: int) -> float:
    return _TOLERANCE + _HALF_ROUNDING + values * _HALF_SMALLEST


def _check_rows(probabilities_NC: NDArray[Any], tolerance: float, *, complete: bool = True) -> None:
    """Refuse what is outside [0, 1] or not finite, and rows that sum to more than 1.

    Where they are ``complete``, rows that sum to less are refused as well, but for 0.
    """
    if not ((probabilities_NC >= 0.0) & (probabilities_NC <= 1.0)).all():  # nor is NaN
        raise ArraysError("soft labels hold values outside 0 to 1")
    mass_N = probabilities_NC.sum(axis=1, dtype=np.float64)
    wrong_N = (mass_N > 1.0 + tolerance) | (complete & (mass_N > 0.0) & (mass_N < 1.0 - tolerance))
    if wrong_N.any():
        raise ArraysError(
            f"soft labels of {int(wrong_N.sum())} of {len(mass_N)} rows do not sum to 1 or to 0"
        )


def _rows_to_one(values_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to sum to 1; a row of zeros stays as it is."""
    mass_N1 = values_NC.sum(axis=1, keepdims=True)
    scaled_NC: NDArray[np.float32] = values_NC / np.where(mass_N1 > 0.0, mass_N1, np.ones_like(mass_N1))
    return scaled_NC
