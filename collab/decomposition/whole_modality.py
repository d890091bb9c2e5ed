"""What the models of all modalities answer together, beside each of them alone on the same rows.

    p(y | x₁ … x_M) ∝ p(y) Π_m p_m(y | x_m) / p_m(y)      over the modalities m that the row has

Each part was trained where its modality is known, by other sites and on other class shares than its
neighbours: so the prior p_m(y) that is divided out is its own, and p(y), that of the whole, comes in once.
That is the rule ``fusion.product`` on answers moved to the whole's prior. A row without a modality gets p(y).

The shares are of the sites' train rows, as far as they tell: exact or rounded counts as they are; a site that
gives a mask counts with its train rows spread evenly over the classes that it has; a class on which it
abstains counts as none there. Of the whole's rows a site tells nothing, only of each part's: the most that a
part has of a class stands for them, which is exact where some modality is known of all rows.

Legend of shapes: N rows, M modalities, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from collab import metrics
from collab.decomposition.modality_terms import ModalityTerms
from collab.fusion import product
from collab.fusion.contract import equal_weights
from collab.paired import compare
from protocol.arrays import Arrays, ArraySpec, Spec, check, spec_of
from protocol.errors import ArraysError

Floats = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]
Counts = Mapping[str, Mapping[str, NDArray[Any]]]

FUSED: Final = "fused"
ROWS: Final = "rows"
# More than any difference of two losses of one row, in nats.
_WORST: Final = 2 * -float(np.log(metrics.PROBABILITY_FLOOR))


def only(part: str) -> str:
    """Return the group of the sums of one part's answer alone."""
    return f"only.{part}"


def against(part: str) -> str:
    """Return the group of the sums of all parts' losses minus one part's, row by row."""
    return f"against.{part}"


def told(counts_C: NDArray[Any], rows: int) -> Floats:
    """Return a site's train rows of each class: as told, or ``rows`` spread over the classes of a mask."""
    counts_C = np.asarray(counts_C, np.float64)
    if counts_C.size and counts_C.max() <= 1.0 and 0.0 < counts_C.sum() < rows:
        counts_C = counts_C * (rows / counts_C.sum())
    return counts_C


def fit(terms: ModalityTerms, counts: Counts) -> dict[str, Floats]:
    """Return ``log_prior`` [C] of the whole and ``log_priors`` [M, C] of the parts.

    Args:
        terms: the decomposition.
        counts: by part and site the train rows of each class (``told``).
    """
    none_C = np.zeros(len(terms.labels))
    sites = sorted({site for found in counts.values() for site in found})
    by_part_MSC = np.array(
        [[np.asarray(counts[part].get(site, none_C), np.float64) for site in sites] for part in terms.names]
    ).reshape(len(terms.names), len(sites), len(terms.labels))
    shares_MC = np.concatenate([by_part_MSC.sum(axis=1), by_part_MSC.max(axis=0).sum(axis=0)[None]])
    smoothed_MC = shares_MC + product.PRIOR_PSEUDOCOUNT
    log_MC = np.log(smoothed_MC / smoothed_MC.sum(axis=1, keepdims=True))
    return {"log_prior": log_MC[-1], "log_priors": log_MC[:-1]}


def fuse(terms: ModalityTerms, outputs: Outputs, state: Arrays) -> Floats:
    """Return the answer of all modalities [N, C].

    Args:
        terms: the decomposition.
        outputs: each part's probabilities [N, C]; NaN throughout where a row lacks it.
        state: of ``fit``.

    Raises:
        ArraysError: a part is missing, shapes do not match, a row is partly NaN, or is no probabilities.
    """
    return _fused(_moved(terms, outputs, state), state)


def statistics(terms: ModalityTerms, outputs: Outputs, y_N: NDArray[Any], state: Arrays) -> dict[str, Floats]:
    """Return a site's sums over all its rows.

    Returns:
        ``fused/...`` and ``only.PART/...`` as ``metrics.classification_statistics``, where a part answers
        rows that lack it with the prior; ``against.PART/...`` as ``paired.compare`` of the fused answer
        and the part's; ``rows/counts`` [M]: the rows that have each modality.

    Raises:
        ArraysError: as ``fuse``.
    """
    moved_MNC = _moved(terms, outputs, state)
    fused_NC = _fused(moved_MNC, state)
    present_MN = np.asarray(~np.isnan(moved_MNC).all(axis=2))
    found = {
        FUSED: metrics.classification_statistics(fused_NC, y_N),
        ROWS: {"counts": present_MN.sum(axis=1).astype(np.float64)},
    }
    for part, moved_NC, present_N in zip(terms.names, moved_MNC, present_MN, strict=True):
        alone_NC = np.where(present_N[:, None], moved_NC, np.exp(state["log_prior"]))
        found[only(part)] = metrics.classification_statistics(alone_NC, y_N)
        found[against(part)] = compare(fused_NC, alone_NC, y_N)
    return {f"{group}/{name}": array for group, sums in found.items() for name, array in sums.items()}


def statistics_spec(terms: ModalityTerms) -> dict[str, Spec]:
    """Return what the sums look like, by group."""
    classes = len(terms.labels)
    sums = metrics.statistics_spec("classification", classes)
    row_1C = np.full((1, classes), 1.0 / classes)
    paired = spec_of(compare(row_1C, row_1C, np.zeros(1)))
    found: dict[str, Spec] = {FUSED: sums, ROWS: {"counts": ArraySpec((len(terms.names),), "float64")}}
    return found | {only(part): sums for part in terms.names} | {against(p): paired for p in terms.names}


def check_statistics(groups: Mapping[str, Arrays], terms: ModalityTerms, rows: int) -> None:
    """Raise ``ArraysError`` for sums that a site's ``rows`` test rows cannot have."""
    spec = statistics_spec(terms)
    if groups.keys() != spec.keys():
        raise ArraysError("sums of a whole have other names")
    for name, sums in groups.items():
        check(sums, spec[name])
    counts_M = groups[ROWS]["counts"]
    if ((counts_M < 0) | (counts_M > rows)).any():
        raise ArraysError("rows that have a modality are more than the site has")
    for name in (FUSED, *map(only, terms.names)):
        metrics.check_sums(groups[name], rows)
    for part in terms.names:
        _check_paired(groups[against(part)], rows)


def _check_paired(sums: Arrays, rows: int) -> None:
    if float(sums["n"][0]) != rows:
        raise ArraysError(f"a comparison is of {float(sums['n'][0]):g} rows, the message says {rows}")
    for name in sums.keys() - {"n"}:
        total, squares = (float(value) for value in sums[name])
        if not 0.0 <= squares <= rows * _WORST**2 or total**2 > rows * squares * 1.001 + 1e-9:
            raise ArraysError(f"a comparison has sums of '{name}' that no rows have")


def _moved(terms: ModalityTerms, outputs: Outputs, state: Arrays) -> Floats:
    """Return each part's answer at the whole's prior, [M, N, C]."""
    modalities, classes = len(terms.names), len(terms.labels)
    check(
        state,
        {
            "log_prior": ArraySpec((classes,), "float64"),
            "log_priors": ArraySpec((modalities, classes), "float64"),
        },
    )
    lost = [part for part in terms.names if part not in outputs]
    if lost:
        raise ArraysError(f"the answer of modality '{lost[0]}' is missing")
    shapes = {np.shape(outputs[part]) for part in terms.names}
    if len(shapes) > 1 or np.shape(outputs[terms.names[0]])[1:] != (classes,):
        raise ArraysError(f"modalities answer in shapes {sorted(shapes)}, expected [N, {classes}] of each")
    said_MNC = np.array([outputs[part] for part in terms.names], np.float64)
    known_MN = ~np.isnan(said_MNC).all(axis=2)
    rows_RC = said_MNC[known_MN]
    if not np.isfinite(rows_RC).all() or (rows_RC < 0).any() or (abs(rows_RC.sum(axis=1) - 1) > 1e-4).any():
        raise ArraysError("a modality has rows that are no probabilities")
    log_MNC = np.log(np.clip(said_MNC, metrics.PROBABILITY_FLOOR, 1.0))
    shift_M1C = (state["log_prior"] - state["log_priors"])[:, None, :]
    moved_MNC: Floats = np.exp(log_softmax(log_MNC + shift_M1C, axis=2))
    return moved_MNC


def _fused(moved_MNC: Floats, state: Arrays) -> Floats:
    rule = {"weights": equal_weights(len(moved_MNC)), "log_prior": np.asarray(state["log_prior"])}
    return product.apply(moved_MNC, rule)
