"""Split a task by modality: each group of columns, or the image, is a subtask with the same labels.

    imaging = "image"
    laboratory = ["age", "chol", "lab_*"]

Each modality's models see their own columns alone, so a site that lacks a modality, or has rows without it,
still takes part in the others. What they say of one row is fused at prediction by the rule ``product``,
which divides the prior out that each has put in: exact where modalities are independent given the class
(Kittler, Hatef, Duin and Matas, IEEE PAMI 1998), and too sure where they say the same thing twice. Measure
on validation rows whether it beats one model of all columns: nothing is gained by splitting what all have.

Shape suffixes: N rows of a site, R rows that have a modality, M modalities, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from collab.data.examples import Examples, select
from collab.plugins import unknown
from protocol.errors import ArraysError, ConfigError, DataError

IMAGE: Final = "image"
# A modality is the image, or names of columns in which * and ? stand for any characters and for one.
Columns = Literal["image"] | Sequence[str]


@dataclass(frozen=True, repr=False)
class View:
    """One modality's part of a site's rows.

    Attributes:
        examples: the rows that have it, with its columns alone.
        present_N: which of the site's rows these are.
    """

    examples: Examples
    present_N: NDArray[np.bool_]

    def __repr__(self) -> str:
        """Shapes alone: a row must not end in a log by way of a repr."""
        return f"View({self.examples!r} of {len(self.present_N)} rows)"


def kinds(modalities: Mapping[str, Columns], output: str) -> dict[str, str]:
    """Return the kind of each modality's subtask.

    Raises:
        ConfigError: fewer than two modalities, an empty one, two images, or no classes: ``product`` has no
            meaning for values.
    """
    if output != "classes":
        raise ConfigError(
            f"modalities are fused as probabilities: the task must have classes, not a {output}"
        )
    if len(modalities) < 2:
        raise ConfigError(f"a split by modality needs at least two, found {len(modalities)}")
    images = [name for name, columns in modalities.items() if isinstance(columns, str)]
    for name, columns in modalities.items():
        if isinstance(columns, str) and columns != IMAGE:
            raise ConfigError(f"modality '{name}' is \"{IMAGE}\" or a list of columns, found a word")
        if not columns:
            raise ConfigError(f"modality '{name}' has no columns: list some, or leave it out")
    if len(images) > 1:
        raise ConfigError(f"a row has one image, but modalities {' and '.join(images)} both ask for it")
    return {
        name: "image_classification" if name in images else "tabular_classification" for name in modalities
    }


def assign(
    modalities: Mapping[str, Columns], columns: Sequence[str], *, has_image: bool
) -> dict[str, tuple[str, ...]]:
    """Return each modality's columns, in the order of ``columns``; none for the image.

    Raises:
        ConfigError: a column or the image is in no modality or in two, or a name matches no column.
    """
    _check_image(modalities, has_image=has_image)
    owner: dict[str, str] = {}
    for modality, patterns in modalities.items():
        for pattern in () if isinstance(patterns, str) else patterns:
            matched = [column for column in columns if fnmatchcase(column, pattern)]
            if not matched:
                raise ConfigError(unknown(f"column '{pattern}' of modality '{modality}'", pattern, columns))
            for column in matched:
                if owner.setdefault(column, modality) != modality:
                    raise ConfigError(f"column '{column}' is in modalities {owner[column]} and {modality}")
    if left := [column for column in columns if column not in owner]:
        raise ConfigError(
            f"{len(left)} column(s) are in no modality, the first is '{left[0]}': add it to one, or leave it "
            "out of the data"
        )
    return {name: tuple(c for c in columns if owner[c] == name) for name in modalities}


def view(examples: Examples, modality: Columns) -> View:
    """Return one modality's view of the rows; labels, groups and sides of the split go with them.

    A row lacks a modality if all its columns are missing there, or if no pixel of its image is a number.

    Raises:
        DataError: there is no image, an image is partly no numbers, or a name matches no column.
    """
    if isinstance(modality, str):
        return _present(select(examples, (), ()))
    names = (*examples.numeric_names, *examples.categorical_names)
    for pattern in modality:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = names if len(names) <= 20 else names[:5]
            if not names:
                raise DataError("the rows have no columns, only other inputs")
            raise DataError(unknown(f"column '{pattern}' of a modality", pattern, near))
    numeric, categorical = (
        [name for name in of if any(fnmatchcase(name, pattern) for pattern in modality)]
        for of in (examples.numeric_names, examples.categorical_names)
    )
    return _present(replace(select(examples, numeric, categorical), image_NCHW=None))


def has_inputs(examples: Examples, modality: Columns) -> bool:
    """Return whether the data has the modality at all: the image, or a column of each name."""
    if isinstance(modality, str):
        return examples.image_NCHW is not None
    names = (*examples.numeric_names, *examples.categorical_names)
    return all(any(fnmatchcase(name, pattern) for name in names) for pattern in modality)


def present(own: Examples) -> NDArray[np.bool_]:
    """Return which of the rows of one modality have it: a pixel that is a number, or a cell that is known.

    Raises:
        DataError: an image has some pixels that are no numbers.
    """
    if own.numeric_names or own.categorical_names:
        known_N = ~np.isnan(own.numeric_NP).all(axis=1) | (own.categorical_NQ != "").any(axis=1)
        return np.asarray(known_N)
    return _has_image(own)


def outputs(
    probabilities: Sequence[NDArray[Any]], present: Sequence[NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """Return what all modalities say of all rows, [M, N, C], as ``fusion.product`` takes it.

    Args:
        probabilities: of each modality for the rows that have it, [R, C].
        present: which these are, [N] each.

    Returns:
        NaN throughout where a row lacks a modality: its factor is then left out of the product.

    Raises:
        ArraysError: the shapes do not match.
    """
    if not probabilities or len(probabilities) != len(present):
        raise ArraysError(
            f"{len(probabilities)} modalities have outputs, {len(present)} say which rows they have"
        )
    rows, classes = len(present[0]), np.shape(probabilities[0])[-1]
    said_MNC = np.full((len(present), rows, classes), np.nan)
    for said_NC, own_RC, present_N in zip(said_MNC, probabilities, present, strict=True):
        expected = (int(present_N.sum()), classes)
        if present_N.shape != (rows,) or np.shape(own_RC) != expected:
            raise ArraysError(
                f"a modality has outputs {np.shape(own_RC)}, expected {expected} of {rows} rows"
            )
        said_NC[present_N] = own_RC
    return said_MNC


def _check_image(modalities: Mapping[str, Columns], *, has_image: bool) -> None:
    is_asked = IMAGE in [columns for columns in modalities.values() if isinstance(columns, str)]
    if is_asked and not has_image:
        raise ConfigError(
            "a modality asks for the image, but the data has none: images beside columns need format 'npz' "
            "with inputs and table, the arrays of images and of columns"
        )
    if has_image and not is_asked:
        raise ConfigError(f'the data has an image that is in no modality: add one that is "{IMAGE}"')


def _present(own: Examples) -> View:
    present_N = present(own)
    return View(own.take(present_N), present_N)


def _has_image(examples: Examples) -> NDArray[np.bool_]:
    if examples.image_NCHW is None:
        raise DataError("the rows have no images")
    missing_NP = np.isnan(
        examples.image_NCHW.reshape(len(examples), math.prod(examples.image_NCHW.shape[1:]))
    )
    partly = int((missing_NP.any(axis=1) & ~missing_NP.all(axis=1)).sum())
    if partly:
        raise DataError(f"{partly} image(s) have pixels that are no numbers")
    return np.asarray(~missing_NP.all(axis=1))
