"""The data that ships with scikit-learn."""

import numpy as np
import pytest
from sklearn import datasets

from collab.data.config import DataConfig
from collab.data.formats import load, load_public
from protocol.errors import ConfigError, DataError


def test_labels_are_matched_by_name_not_by_scikit_learns_order() -> None:
    """Class benign is 0 if the subtask says so, although scikit-learn has malignant = 0."""
    config = DataConfig(format="sklearn", name="breast_cancer")
    rows, names = load(config, ("benign", "malignant"), "classes", "table", None)
    assert names == ("benign", "malignant")
    np.testing.assert_array_equal(rows.y, 1 - datasets.load_breast_cancer().target)
    with pytest.raises(DataError, match="none of the 2 labels"):
        load(config, ("good", "bad"), "classes", "table", None)


def test_digits_are_images_or_a_table() -> None:
    """The same pixels in [0, 1], as [N, 1, 8, 8] or as 64 columns."""
    config = DataConfig(format="sklearn", name="digits")
    images = load(config, 10, "classes", "image", None)[0].image_NCHW
    table = load(config, 10, "classes", "table", None)[0].numeric_NP
    assert images is not None
    assert images.shape == (1797, 1, 8, 8)
    assert images.min() == 0
    assert images.max() == 1
    np.testing.assert_array_equal(images.reshape(1797, 64), table.astype(np.float32))


def test_diabetes_comes_unscaled() -> None:
    """No statistic of all rows is in the columns: ages are years, not shares of their spread."""
    rows = load(DataConfig(format="sklearn", name="diabetes"), None, "value", "table", None)[0]
    age = rows.numeric_NP[:, rows.numeric_names.index("age")]
    assert (age == np.floor(age)).all()
    assert age.max() > 60
    assert rows.y.dtype == np.float64


@pytest.mark.parametrize(
    ("name", "classes"), [("wine", 3), ("iris", 3), ("breast_cancer", 2), ("digits", 10)]
)
def test_labels_can_be_inferred(name: str, classes: int) -> None:
    """Without labels the classes are named as scikit-learn names them."""
    config = DataConfig.model_validate({"format": "sklearn", "name": name})
    rows, names = load(config, None, "classes", "table", None)
    assert names is not None
    assert len(names) == classes
    assert set(rows.y.tolist()) == set(range(classes))


def test_a_table_has_no_images() -> None:
    """Only the digits can be asked for as images."""
    with pytest.raises(ConfigError, match="only 'digits'"):
        load(DataConfig(format="sklearn", name="iris"), 3, "classes", "image", None)


def test_a_public_set_has_no_labels() -> None:
    """As a public set the rows come without targets."""
    assert not np.isfinite(load_public(DataConfig(format="sklearn", name="iris"), "table", None).y).any()
