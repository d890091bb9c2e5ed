"""What the parts of a decomposition answer together, and how well: each rule's own, under one name.

``whole_labels`` and ``whole_modality`` say what the sums are. Legend of shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.decomposition import whole_labels, whole_modality
from collab.decomposition.modality_terms import ModalityTerms
from collab.decomposition.terms import WholeTerms
from protocol.arrays import Arrays, Spec

Floats = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]


def fuse(terms: WholeTerms, outputs: Outputs, state: Arrays) -> Floats:
    """Return the whole's answer [N, C], or [N, C + 1] with OTHER last where there is an ``outside``.

    Args:
        terms: the decomposition.
        outputs: calibrated probabilities by the parts' short names; NaN where a row lacks a modality.
        state: the class priors of ``whole_modality.fit``; by labels a threshold, or nothing.

    Raises:
        ArraysError: a part is missing, shapes do not match, or rows are not probabilities.
    """
    if isinstance(terms, ModalityTerms):
        return whole_modality.fuse(terms, outputs, state)
    return whole_labels.fuse(terms, outputs, state)


def statistics(terms: WholeTerms, outputs: Outputs, y_N: NDArray[Any], state: Arrays) -> dict[str, Floats]:
    """Return a site's sums as ``GROUP/NAME``; y_N is an index into ``terms.labels``; raises as ``fuse``."""
    if isinstance(terms, ModalityTerms):
        return whole_modality.statistics(terms, outputs, y_N, state)
    return whole_labels.statistics(terms, outputs, y_N, state)


def statistics_spec(terms: WholeTerms) -> dict[str, Spec]:
    """Return what the sums look like, by group."""
    if isinstance(terms, ModalityTerms):
        return whole_modality.statistics_spec(terms)
    return whole_labels.statistics_spec(terms)


def check_statistics(groups: Mapping[str, Arrays], terms: WholeTerms, rows: int) -> None:
    """Raise ``ArraysError`` for sums that a site's ``rows`` test rows cannot have."""
    if isinstance(terms, ModalityTerms):
        whole_modality.check_statistics(groups, terms, rows)
    else:
        whole_labels.check_statistics(groups, terms, rows)
