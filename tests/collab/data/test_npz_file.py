"""Archives of arrays: shapes are recognised, objects are refused."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collab.data import npz_file
from collab.data.config import DataConfig, Inputs, SplitConfig
from collab.data.examples import Examples
from collab.data.formats import load, load_public
from protocol.errors import DataError


def _load(folder: Path, inputs: Inputs = "table", labels: Any = 2, **arrays: Any) -> Examples:
    np.savez(folder / "a.npz", **arrays)
    config = DataConfig(format="npz", path="a.npz")
    return load(config, labels, "value" if labels is None else "classes", inputs, folder)[0]


def test_a_table_keeps_numbers_gaps_and_sites(tmp_path: Path) -> None:
    """A table x [N, F] becomes columns, NaN stays a gap, and an array site names each row's site."""
    x = np.array([[1.0, np.nan], [3.0, 4.0]])
    rows = _load(tmp_path, x=x, y=np.array([0, 1]), site=np.array(["a", "b"]))
    np.testing.assert_array_equal(rows.numeric_NP, x)
    assert rows.site_N is not None
    assert rows.site_N.tolist() == ["a", "b"]
    assert rows.y.tolist() == [0, 1]


@pytest.mark.parametrize(("shape", "expected"), [
    ((5, 4, 6), (5, 1, 4, 6)),
    ((5, 3, 4, 6), (5, 3, 4, 6)),
    ((5, 4, 6, 3), (5, 3, 4, 6)),
    ((5, 1, 4, 6), (5, 1, 4, 6)),
])  # fmt: skip
def test_images_become_channels_first(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """Grey, channels-first and channels-last images become [N, C, H, W]; bytes lie in [0, 1]."""
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    image = _load(tmp_path, "image", x=pixels, y=np.array([0, 1, 0, 1, 0])).image_NCHW
    assert image is not None
    assert image.shape == expected
    assert image.dtype == np.float32
    assert 0 <= image.min() <= image.max() <= 1
    if shape[-1] == 3:
        np.testing.assert_array_equal(
            image.transpose(0, 2, 3, 1), (pixels / np.float32(255)).astype(np.float32)
        )


def test_a_column_of_values(tmp_path: Path) -> None:
    """An array y [N, 1] of floats is the target of a regression."""
    rows = _load(tmp_path, labels=None, x=np.ones((2, 1)), y=np.array([[0.5], [2.0]]))
    assert rows.y.tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("inputs", "arrays", "said"),
    [
        ("table", {"X": np.ones((2, 1)), "y": np.ones(2)}, "unknown array 'x'"),
        ("table", {"x": np.ones((2, 1))}, "unknown array 'y'"),
        ("table", {"x": np.ones((3, 1)), "y": np.ones(2)}, "3 rows but y has 2"),
        ("table", {"x": np.array([["a"]]), "y": np.ones(1)}, "x must be rows of numbers"),
        ("table", {"x": np.array([[1.0], [np.inf]]), "y": np.ones(2)}, "infinite .* the first is data row 2"),
        ("table", {"x": np.ones((0, 1)), "y": np.ones(0)}, "x has no rows"),
        ("table", {"x": np.ones((2, 1)), "y": np.array([0.0, np.nan])}, "target is missing in 1 row"),
        ("table", {"x": np.ones((2, 1)), "y": np.array([0, 7])}, "whole number from 0 to 1"),
        ("table", {"x": np.ones((2, 1)), "y": np.ones(2), "site": np.array(["a"])}, "'site' has shape"),
        ("table", {"x": np.array([{}, {}], dtype=object), "y": np.ones(2)}, "object arrays are refused"),
        ("image", {"x": np.full((2, 4, 4), np.nan), "y": np.ones(2)}, "NaN or infinite"),
        ("image", {"x": np.ones((2, 9)), "y": np.ones(2)}, "must be images"),
        ("image", {"x": np.ones((2, 5, 6, 7)), "y": np.ones(2)}, "must be images"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused(tmp_path: Path, inputs: Inputs, arrays: dict[str, Any], said: str) -> None:
    """Names, shapes, dtypes and finiteness are checked before anything reads the arrays."""
    with pytest.raises(DataError, match=said) as caught:
        _load(tmp_path, inputs, **arrays)
    assert "a.npz" in str(caught.value)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    """Other bytes, a bare array file included, are a DataError."""
    config = DataConfig(format="npz", path="a.npz")
    for content in (b"not an archive", b""):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"no \.npz archive"):
            load(config, 2, "classes", "table", tmp_path)


def test_an_archive_is_measured_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many zeros that compress to little count with their full size."""
    monkeypatch.setattr(npz_file, "MAX_BYTES", 100_000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((100_000, 1)), y=np.zeros(100_000))
    assert (tmp_path / "a.npz").stat().st_size < 100_000
    with pytest.raises(DataError, match="unpacks to"):
        load(DataConfig(format="npz", path="a.npz"), 2, "classes", "table", tmp_path)


def test_groups_and_sides_have_arrays_of_their_own(tmp_path: Path) -> None:
    """split.group and split.column name arrays; a public set needs x alone."""
    np.savez(tmp_path / "a.npz", x=np.ones((2, 1)), y=np.array([0, 1]), patient=np.array([7, 8]))
    config = DataConfig(format="npz", path="a.npz", split=SplitConfig(group="patient"))
    rows = load(config, 2, "classes", "table", tmp_path)[0]
    assert rows.group_N is not None
    assert rows.group_N.tolist() == ["7", "8"]
    np.savez(tmp_path / "a.npz", x=np.ones((2, 1)))
    assert len(load_public(config, "table", tmp_path)) == 2


def test_arrays_have_the_names_that_the_block_gives(tmp_path: Path) -> None:
    """inputs, target and the official test arrays may stand under other names in one file."""
    arrays = {
        "train_images": np.zeros((4, 2, 2), np.uint8), "train_labels": np.array([[0], [1], [0], [1]]),
        "test_images": np.full((2, 2, 2), 255, np.uint8), "test_labels": np.array([[1], [0]]),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", site=np.zeros(9), **arrays)
    split = {"test_inputs": "test_images", "test_target": "test_labels"}
    config = DataConfig.model_validate(
        {"format": "npz", "path": "a.npz", "inputs": "train_images", "target": "train_labels", "split": split}
    )
    rows = load(config, 2, "classes", "image", tmp_path)[0]
    assert rows.split_N is not None
    assert rows.split_N.tolist() == ["", "", "", "", "test", "test"]
    assert rows.y.tolist() == [0, 1, 0, 1, 1, 0]
    assert rows.image_NCHW is not None
    assert rows.image_NCHW[:, 0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1]
    assert len(load_public(config, "image", tmp_path)) == 4


@pytest.mark.parametrize("shape", [(10**12, 1), (10**12, 0), (-1, 8)])
def test_a_header_cannot_claim_more_than_follows(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """The shape in an array's header is checked against its bytes before anything of that size is made."""
    header = str({"descr": "<f8", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", array)
        archive.writestr("y.npy", array)
    with pytest.raises(DataError, match=r"a\.npz"):
        load(DataConfig(format="npz", path="a.npz"), 2, "classes", "table", tmp_path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_of_an_array_in_its_file_does_not_matter(tmp_path: Path, order: Any) -> None:
    """Row-major and column-major arrays are read as what they were."""
    x = np.asarray(np.arange(6.0).reshape(3, 2), order=order)
    np.testing.assert_array_equal(_load(tmp_path, x=x, y=np.array([0, 1, 0])).numeric_NP, x)


def _both(folder: Path, inputs: Inputs = "mixed", **changes: Any) -> Examples:
    arrays = {"image": np.ones((2, 3, 4), np.float32), "table": np.array([[1.0, np.nan], [3.0, 4.0]])}
    np.savez(folder / "b.npz", y=np.array([0, 1]), **{**arrays, **changes.pop("arrays", {})})
    config = DataConfig.model_validate(
        {"format": "npz", "path": "b.npz", "inputs": "image", "table": "table", "columns": ["age", "chol"]}
        | changes
    )
    return load(config, 2, "classes", inputs, folder)[0]


def test_images_and_columns_of_the_same_rows(tmp_path: Path) -> None:
    """Both for a whole, either for a plain subtask; an image of NaN alone is missing, names are optional."""
    lost = np.ones((2, 3, 4), np.float32)
    lost[1] = np.nan
    rows = _both(tmp_path, arrays={"image": lost})
    assert rows.image_NCHW is not None
    assert np.isnan(rows.image_NCHW).all(axis=(1, 2, 3)).tolist() == [False, True]
    assert rows.numeric_names == ("age", "chol")
    np.testing.assert_array_equal(rows.numeric_NP, [[1.0, np.nan], [3.0, 4.0]])
    table = _both(tmp_path, "table")
    assert table.image_NCHW is None
    assert table.numeric_names == ("age", "chol")
    images = _both(tmp_path, "image")
    assert images.numeric_names == ()
    assert images.image_NCHW is not None
    assert _both(tmp_path, columns=[]).numeric_names == ("x0", "x1")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arrays": {"image": np.ones((3, 3, 4))}}, "3 images, but 2 rows of columns"),
        ({"arrays": {"image": np.array([[[np.nan, 1.0]]] * 2)}}, "NaN or infinite"),
        ({"arrays": {"image": np.array([[[np.inf, np.inf]]] * 2)}}, "NaN or infinite"),
        ({"columns": ["age"]}, "2 columns, but columns has 1 names"),
        ({"table": "tabel"}, "unknown array 'tabel'"),
    ],
)
def test_images_and_columns_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """Torn images, other numbers of rows, and names that are none of the columns."""
    with pytest.raises(DataError, match=said):
        _both(tmp_path, **changes)
