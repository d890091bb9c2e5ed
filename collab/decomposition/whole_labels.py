"""What a gate and experts answer together, and how well: sums over a site's rows.

Legend of shapes: N rows, C labels in scope; the answer has C columns, or C + 1 with OTHER last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab import metrics
from collab.decomposition import gate as fusions
from collab.decomposition import out_of_scope
from collab.decomposition.label_hierarchy import GATE
from collab.decomposition.terms import LabelHierarchyTerms
from protocol.arrays import Arrays, ArraySpec, Spec, check
from protocol.errors import ArraysError

Floats = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]

FUSED: Final = "fused"
NAIVE: Final = "closed_set"
OUTSIDE: Final = "outside"
THRESHOLD: Final = "threshold"
_JUST_ABOVE: Final = 1e-6


def fuse(terms: LabelHierarchyTerms, outputs: Outputs, state: Arrays) -> Floats:
    """Return the whole's answer [N, C], or [N, C + 1] with OTHER last where there is an ``outside``.

    Args:
        terms: the decomposition.
        outputs: calibrated probabilities by the parts' short names.
        state: ``threshold`` [1] of ``out_of_scope``, if one was chosen.

    Raises:
        ArraysError: a part is missing, shapes do not match, or rows or the threshold are not probabilities.
    """
    answer_NK = _fused(terms, outputs)
    if terms.outside is None or not state:
        return answer_NK
    check(state, {THRESHOLD: ArraySpec((1,), "float64")})
    return refuse(answer_NK, float(state[THRESHOLD][0]))


def refuse(answer_NK: Floats, threshold: float) -> Floats:
    """Return the answer with OTHER, the last column, the surest where no label reaches the threshold.

    Raises:
        ArraysError: the threshold is not between 0 and 1.
    """
    if not 0.0 <= threshold <= 1.0:
        raise ArraysError(f"a threshold is a probability, found {threshold:g}")
    surest_N = answer_NK[:, :-1].max(axis=1)
    low_N = surest_N < threshold
    changed_NK, low_LK = answer_NK.copy(), answer_NK[low_N]
    low_LK[:, -1] = np.maximum(low_LK[:, -1], surest_N[low_N] * (1.0 + _JUST_ABOVE))
    changed_NK[low_N] = low_LK / low_LK.sum(axis=1, keepdims=True)
    return np.asarray(changed_NK)


def refusals(terms: LabelHierarchyTerms, outputs: Outputs, y_N: NDArray[Any]) -> dict[str, Floats]:
    """Return a site's sums over validation rows, from which a threshold is chosen (``out_of_scope``)."""
    answer_NK, classes = _fused(terms, outputs), len(terms.hierarchy.labels)
    labels_NC = answer_NK[:, :classes]
    outside_N = np.asarray(y_N) >= classes
    # Where OTHER is surest the row is refused whatever the threshold.
    confidence_N = np.where(answer_NK.argmax(axis=1) == classes, 0.0, labels_NC.max(axis=1))
    return out_of_scope.statistics(confidence_N, labels_NC.argmax(axis=1) == y_N, outside_N)


def _fused(terms: LabelHierarchyTerms, outputs: Outputs) -> Floats:
    experts, sizes = _experts(terms, outputs), terms.hierarchy.sizes
    if terms.fusion == "closed_set":
        return fusions.closed_set(experts, sizes)
    if terms.fusion == "open_set":
        return fusions.open_set(experts, sizes)
    gate_NH = outputs.get(GATE)
    if gate_NH is None:
        raise ArraysError("the gate's answer is missing")
    rule = fusions.soft_gate if terms.fusion == "soft_gate" else fusions.hard_gate
    return rule(gate_NH, experts, sizes)


def naive(terms: LabelHierarchyTerms, outputs: Outputs) -> Floats:
    """Return [N, C]: the experts side by side on their own labels alone, the surest wins.

    Raises:
        ArraysError: as ``fuse``, or a group has one label: its expert is sure of every row.
    """
    if not terms.has_naive:
        raise ArraysError("a group of one label is no expert to ask without a gate")
    sizes = terms.hierarchy.sizes
    own: list[NDArray[Any] | None] = []
    for expert_NM, size in zip(_experts(terms, outputs), sizes, strict=True):
        if expert_NM is None:
            own.append(None)
            continue
        floored_NL = np.maximum(np.asarray(expert_NM, np.float64)[:, :size], metrics.PROBABILITY_FLOOR)
        own.append(floored_NL / floored_NL.sum(axis=1, keepdims=True))
    return fusions.closed_set(own, sizes)


def statistics(
    terms: LabelHierarchyTerms, outputs: Outputs, y_N: NDArray[Any], state: Arrays
) -> dict[str, Floats]:
    """Return a site's sums: of the fusion and of the naive one on rows in scope, and of those outside.

    Args:
        terms: the decomposition.
        outputs: as ``fuse``.
        y_N: index into ``terms.labels``; C where a row is outside.
        state: as ``fuse``.

    Returns:
        ``fused/...`` and, if there is a naive answer, ``closed_set/...`` as
        ``metrics.classification_statistics``; with an ``outside`` also ``outside/counts`` [2]: rows out of
        scope that were refused, and all of them.
    """
    answer_NK = fuse(terms, outputs, state)
    classes = len(terms.hierarchy.labels)
    inside_N = np.asarray(y_N) < classes
    found = {FUSED: metrics.classification_statistics(answer_NK[inside_N], y_N[inside_N])}
    if terms.has_naive:
        found[NAIVE] = metrics.classification_statistics(naive(terms, outputs)[inside_N], y_N[inside_N])
    if terms.outside is not None:
        refused_N = answer_NK[~inside_N].argmax(axis=1) == classes
        found[OUTSIDE] = {"counts": np.array([refused_N.sum(), len(refused_N)], np.float64)}
    return {f"{group}/{name}": array for group, sums in found.items() for name, array in sums.items()}


def statistics_spec(terms: LabelHierarchyTerms) -> dict[str, Spec]:
    """Return what the sums look like, by group."""
    classes = len(terms.hierarchy.labels)
    found: dict[str, Spec] = {FUSED: metrics.statistics_spec("classification", len(terms.labels))}
    if terms.has_naive:
        found[NAIVE] = metrics.statistics_spec("classification", classes)
    return found if terms.outside is None else found | {OUTSIDE: {"counts": ArraySpec((2,), "float64")}}


def check_statistics(groups: Mapping[str, Arrays], terms: LabelHierarchyTerms, rows: int) -> None:
    """Raise ``ArraysError`` for sums that a site's ``rows`` test rows cannot have."""
    spec = statistics_spec(terms)
    if groups.keys() != spec.keys():
        raise ArraysError("sums of a whole have other names")
    for name, sums in groups.items():
        check(sums, spec[name])
    counts_2 = groups[OUTSIDE]["counts"] if OUTSIDE in groups else np.zeros(2)
    if not 0 <= counts_2[0] <= counts_2[1] <= rows:
        raise ArraysError("rows out of scope are more than the site has")
    for name in groups.keys() - {OUTSIDE}:
        metrics.check_sums(groups[name], rows - round(float(counts_2[1])))


def _experts(terms: LabelHierarchyTerms, outputs: Outputs) -> list[NDArray[Any] | None]:
    """Return each group's answer, None for a group of one label; in the order of the groups."""
    found: list[NDArray[Any] | None] = []
    for group in terms.hierarchy.names:
        if group in terms.parts and group not in outputs:
            raise ArraysError(f"the answer of the expert for '{group}' is missing")
        found.append(outputs.get(group))
    return found
