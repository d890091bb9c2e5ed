"""Split by modality: every column in one view, and the product of the views is what all columns say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.naive_bayes import GaussianNB

from collab.data.examples import Examples, of_images, of_table
from collab.decomposition.modality import IMAGE, Columns, View, assign, kinds, outputs, view
from collab.fusion import product
from collab.metrics import PROBABILITY_FLOOR
from protocol.errors import ArraysError, ConfigError, DataError

HEART: dict[str, Columns] = {"clinic": ["age", "sex"], "laboratory": ["chol", "lab_*"], "scan": "image"}


def split(examples: Examples, modalities: dict[str, Columns]) -> dict[str, View]:
    """Return each modality's view of the rows, once the split is known to be one."""
    kinds(modalities, "classes" if examples.y.dtype.kind == "i" else "value")
    names = (*examples.numeric_names, *examples.categorical_names)
    assigned = assign(modalities, names, has_image=examples.image_NCHW is not None)
    return {
        name: view(examples, IMAGE if isinstance(modalities[name], str) else own)
        for name, own in assigned.items()
    }


def heart(seed: int, rows: int = 30) -> Examples:
    """Rows of three modalities, cells and whole modalities missing here and there."""
    rng = np.random.default_rng(seed)
    numeric_NP = rng.normal(size=(rows, 4))
    numeric_NP[rng.random(numeric_NP.shape) < 0.3] = np.nan
    sex_N1 = rng.choice(np.array(["f", "m", ""], dtype=object), size=(rows, 1))
    image_NCHW = rng.random((rows, 1, 3, 3)).astype(np.float32)
    image_NCHW[rng.random(rows) < 0.3] = np.nan
    table = of_table(
        numeric_NP, ["age", "chol", "lab_a", "lab_b"], rng.integers(2, size=rows), sex_N1, ["sex"]
    )
    return replace(table, image_NCHW=image_NCHW, group_N=np.arange(rows).astype(str).astype(object))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_every_cell_is_in_one_view(seed: int) -> None:
    """The views' columns are all columns once; rows that are left out of a view have nothing there."""
    whole = heart(seed)
    views = split(whole, HEART)
    assert {name: (v.examples.numeric_names, v.examples.categorical_names) for name, v in views.items()} == {
        "clinic": (("age",), ("sex",)),
        "laboratory": (("chol", "lab_a", "lab_b"), ()),
        "scan": ((), ()),
    }
    for seen in views.values():
        np.testing.assert_array_equal(seen.examples.y, whole.y[seen.present_N])
        assert seen.examples.group_N is not None
        np.testing.assert_array_equal(seen.examples.group_N, np.flatnonzero(seen.present_N).astype(str))
    present = {name: view.present_N for name, view in views.items()}
    np.testing.assert_array_equal(
        present["clinic"], ~np.isnan(whole.numeric_NP[:, 0]) | (whole.categorical_NQ[:, 0] != "")
    )
    np.testing.assert_array_equal(present["laboratory"], ~np.isnan(whole.numeric_NP[:, 1:]).all(axis=1))
    assert whole.image_NCHW is not None
    np.testing.assert_array_equal(present["scan"], ~np.isnan(whole.image_NCHW[:, 0, 0, 0]))
    assert [view.examples.image_NCHW is None for view in views.values()] == [True, True, False]


def test_only_the_image_view_holds_pixels_that_are_numbers() -> None:
    """The image's view has the images of the rows that have one, in their order."""
    whole = heart(1)
    view = split(whole, HEART)["scan"]
    assert whole.image_NCHW is not None
    assert 0 < len(view.examples) < len(whole)
    np.testing.assert_array_equal(view.examples.image_NCHW, whole.image_NCHW[view.present_N])


def bayes(seed: int, missing: float) -> tuple[dict[str, Any], Examples, NDArray[np.float64]]:
    """Naive Bayes of each half of the irises' columns, the rows, and what all columns that a row has say."""
    x_NP, y_N = load_iris(return_X_y=True)
    rng = np.random.default_rng(seed)
    x_NP, y_N = x_NP.astype(np.float64), y_N.astype(np.int64)
    lost_NM = rng.random((len(y_N), 2)) < missing
    lost_NM[lost_NM.all(axis=1), 0] = False
    full = GaussianNB(priors=[1 / 3] * 3).fit(x_NP, y_N)
    full.var_ *= 25.0  # wide, so that few probabilities are below the floor of the product
    seen_NP = np.where(np.repeat(lost_NM, 2, axis=1), np.nan, x_NP)
    log_NC = np.zeros((len(y_N), 3))
    for p in range(4):
        variance_C, mean_C = full.var_[:, p], full.theta_[:, p]
        density_NC = -0.5 * ((seen_NP[:, [p]] - mean_C) ** 2 / variance_C + np.log(variance_C))
        log_NC += np.where(np.isnan(density_NC), 0.0, density_NC)
    joint_NC = np.exp(log_NC - log_NC.max(axis=1, keepdims=True))
    # A modality's own model must not smooth by the variance of its own columns: it takes that of all.
    halves = {"sepal": slice(0, 2), "petal": slice(2, 4)}
    models = {}
    for name, columns in halves.items():
        model = GaussianNB(priors=[1 / 3] * 3).fit(x_NP[:, columns], y_N)
        model.var_, model.theta_ = full.var_[:, columns], full.theta_[:, columns]
        models[name] = model
    rows = of_table(seen_NP, ["sepal_l", "sepal_w", "petal_l", "petal_w"], y_N)
    return models, rows, joint_NC / joint_NC.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_product_of_naive_bayes_views_is_naive_bayes_of_all(missing: float) -> None:
    """Of views independent given the class the product is the whole model, missing views or not."""
    models, rows, expected_NC = bayes(3, missing)
    views = split(rows, {"sepal": ["sepal_*"], "petal": ["petal_*"]})
    said = [models[name].predict_proba(view.examples.numeric_NP) for name, view in views.items()]
    said_MNC = outputs(said, [view.present_N for view in views.values()])
    state = product.fit(product.statistics(said_MNC, np.eye(3)[rows.y], {}), {}, 2)
    clear_N = np.nan_to_num(said_MNC, nan=1.0).min(axis=(0, 2)) > PROBABILITY_FLOOR
    assert clear_N.sum() > 100
    np.testing.assert_allclose(product.apply(said_MNC, state)[clear_N], expected_NC[clear_N], atol=1e-9)


def test_outputs_put_each_row_where_it_came_from() -> None:
    """Rows of a view return to their places, and a missing view is NaN throughout."""
    present = [np.array([True, False, True]), np.array([True, True, False])]
    said_MNC = outputs([np.array([[0.1, 0.9], [0.2, 0.8]]), np.array([[0.3, 0.7], [0.4, 0.6]])], present)
    np.testing.assert_array_equal(said_MNC[0, :, 0], [0.1, np.nan, 0.2])
    np.testing.assert_array_equal(said_MNC[1, :, 1], [0.7, 0.6, np.nan])
    with pytest.raises(ArraysError, match="expected"):
        outputs([np.ones((1, 2)), np.ones((2, 2))], present)
    with pytest.raises(ArraysError, match="modalities"):
        outputs([np.ones((2, 2))], present)


def test_kinds_follow_what_a_modality_is() -> None:
    """The image is a task of images, columns one of a table."""
    assert kinds(HEART, "classes") == {
        "clinic": "tabular_classification",
        "laboratory": "tabular_classification",
        "scan": "image_classification",
    }


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({"all": ["a", "b"]}, "at least two"),
        ({"one": ["a"], "two": []}, "no columns"),
        ({"one": "b", "two": ["a"]}, "found a word"),
        ({"one": IMAGE, "two": IMAGE}, "one image"),
        ({"one": ["a"], "two": IMAGE}, "the data has none"),
        ({"one": ["a"], "two": ["aa"]}, "did you mean 'a'"),
        ({"one": ["a", "b"], "two": ["b"]}, "'b' is in modalities one and two"),
        ({"one": ["a"], "two": ["[b]", "b?"]}, r"column 'b\?'"),
    ],
)
def test_what_is_no_split_is_refused(modalities: dict[str, Columns], message: str) -> None:
    """Each column must be in one modality, each name must match, and there must be two at least."""
    table = of_table(np.zeros((2, 2)), ["a", "b"], np.array([0, 1]))
    with pytest.raises(ConfigError, match=message):
        split(table, modalities)


def test_what_is_left_over_is_refused() -> None:
    """A column or an image in no modality, values in place of classes, images partly missing."""
    with pytest.raises(ConfigError, match=r"1 column\(s\) are in no modality, the first is 'c'"):
        assign({"one": ["a"], "two": ["b"]}, ["a", "b", "c"], has_image=False)
    with pytest.raises(ConfigError, match="image that is in no modality"):
        split(heart(0), {"clinic": ["age", "sex"], "laboratory": ["chol", "lab_*"]})
    with pytest.raises(ConfigError, match="must have classes"):
        split(of_table(np.zeros((2, 2)), ["a", "b"], np.array([0.5, 1.5])), {"one": ["a"], "two": ["b"]})
    torn = of_images(np.array([[[[0.0, np.nan]]]], np.float32), np.array([0]))
    whole = replace(torn, numeric_NP=np.zeros((1, 1)), numeric_names=("a",))
    with pytest.raises(DataError, match="1 image"):
        split(whole, {"one": ["a"], "two": "image"})


def test_a_view_shows_no_values() -> None:
    """The repr has shapes alone."""
    assert repr(split(heart(0), HEART)["laboratory"]).startswith("View(Examples(numeric_NP[")
