"""A part's rows: those of the whole that it takes, under its own classes and with its own inputs.

The whole is dealt out and split once; its parts are views of that. So no row tests the whole that one
of its parts was trained on, whatever the split.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.data.examples import Examples
from collab.decomposition.modality import IMAGE, View, has_inputs, view
from protocol.parts import PartOf


def rows_of(examples: Examples, part: PartOf) -> Examples:
    """Return the rows that the part takes, y its own class index.

    Args:
        examples: rows of the whole, y [N] an index into ``part.labels``.
        part: the view.

    Raises:
        DataError: the rows have not the part's columns, or no images.
    """
    class_N = classes_of(examples.y, part)
    taken_N = class_N >= 0
    return inputs_of(replace(examples.take(taken_N), y=class_N[taken_N]), part).examples


def inputs_of(examples: Examples, part: PartOf) -> View:
    """Return the rows that have the part's modality, with its inputs alone; all, where it is none.

    Raises:
        DataError: as ``rows_of``.
    """
    if not part.is_modality:
        return View(examples, np.ones(len(examples), dtype=np.bool_))
    return view(examples, IMAGE if part.image else part.columns)


def lacks(examples: Examples, part: PartOf) -> bool:
    """Return whether the rows' data has the inputs of the part's modality nowhere."""
    return part.is_modality and not has_inputs(examples, IMAGE if part.image else part.columns)


def classes_of(y_N: NDArray[Any], part: PartOf) -> NDArray[np.int64]:
    """Return the part's class of each row of the whole, -1 where it takes none."""
    class_C = np.array([-1 if found is None else found for found in part.classes], dtype=np.int64)
    return np.asarray(class_C[np.asarray(y_N).astype(np.int64)])
