"""Text tables: read as the block says, or refused in one line that quotes no cell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collab.data.config import DataConfig
from collab.data.examples import Examples
from collab.data.formats import load, load_inputs, load_public
from collab.data.preprocess import Preprocessing, measure
from protocol.errors import ConfigError, DataError

CELL = "diagnosis-of-one-patient"
BASIC = "age,sex,y\n30,f,no\n41,m,yes\n52,f,yes\n"


def _load(folder: Path, text: str, labels: Any = ("no", "yes"), **keys: Any) -> Examples:
    (folder / "table.csv").write_text(text, encoding="utf-8")
    config = DataConfig.model_validate({"format": "csv", "path": "table.csv", "target": "y"} | keys)
    return load(config, labels, "value" if labels is None else "classes", "table", folder)[0]


def test_columns_get_their_roles(tmp_path: Path) -> None:
    """Target, categorical columns and numbers end in their own arrays, in the file's order."""
    rows = _load(tmp_path, BASIC, categorical=["sex"])
    assert rows.numeric_names == ("age",)
    assert rows.numeric_NP.tolist() == [[30], [41], [52]]
    assert rows.categorical_NQ.tolist() == [["f"], ["m"], ["f"]]
    assert rows.y.tolist() == [0, 1, 1]
    assert rows.y.dtype == np.int64


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.floats(-1e50, 1e50), min_size=1, max_size=20),
    separator=st.sampled_from(",;\t|"),
    has_header=st.booleans(),
)
def test_what_was_written_is_read(
    tmp_path: Path, numbers: list[float], separator: str, has_header: bool
) -> None:
    """Numbers come back to the last bit, under any separator, with a header or given names."""
    lines = [f"{x!r}{separator}{-x!r}" for x in numbers]
    names = {} if has_header else {"header": False, "columns": ["x", "y"]}
    text = "\n".join([f"x{separator}y", *lines] if has_header else lines) + "\n"
    rows = _load(tmp_path, text, labels=None, separator=separator, **names)
    np.testing.assert_allclose(rows.numeric_NP[:, 0], numbers, rtol=1e-15)
    np.testing.assert_allclose(rows.y, [-x for x in numbers], rtol=1e-15)


@pytest.mark.parametrize("marker", ["", "?", "NA", "nan", "-9"])
def test_missing_cells_are_gaps(tmp_path: Path, marker: str) -> None:
    """Empty cells, usual markers in numbers, and the block's own markers are missing."""
    text = f"a,c,y\n{marker},{marker},no\n1,q,yes\n"
    rows = _load(tmp_path, text, missing=["?", "-9", "NA", "nan"], categorical=["c"])
    assert np.isnan(rows.numeric_NP[:, 0]).tolist() == [True, False]
    assert rows.categorical_NQ[:, 0].tolist() == ["", "q"]


def test_text_that_looks_missing_stays_a_category(tmp_path: Path) -> None:
    """Without a marker for it, NA is Namibia and None an answer."""
    rows = _load(tmp_path, "c,y\nNA,no\nNone,yes\n", categorical=["c"])
    assert rows.categorical_NQ[:, 0].tolist() == ["NA", "None"]


def test_rows_with_gaps_are_dropped_where_asked(tmp_path: Path) -> None:
    """missing_rows = "drop" leaves whole rows; a gap in a dropped column does not count."""
    text = "a,b,y,z\n1,,no,1\n2,5,yes,\n,7,no,1\n3,8,,1\n"
    rows = _load(tmp_path, text, missing_rows="drop", drop=["z"])
    assert rows.numeric_NP.tolist() == [[2, 5]]
    with pytest.raises(DataError, match="the first is data row 3"):  # as in the file, not of those kept
        _load(tmp_path, "a,y\n,no\n1,yes\n2,other\n", missing_rows="drop")
    with pytest.raises(DataError, match="leaves none"):
        _load(tmp_path, "a,b,y\n1,,no\n,2,yes\n", missing_rows="drop")


@pytest.mark.parametrize(
    ("text", "keys", "said"),
    [
        (BASIC, {"target": "yy"}, "unknown column 'yy': did you mean 'y'"),
        (BASIC, {"features": ["agee"]}, "did you mean 'age'"),
        (BASIC, {"drop": ["wing"]}, "unknown column 'wing'.*there are: age, sex, y"),
        (BASIC, {"categorical": ["sexx"]}, "did you mean 'sex'"),
        (BASIC, {"site": "hospital", "categorical": ["sex"]}, "unknown column 'hospital'"),
        (f"a,y\n1,no\n{CELL},yes\n", {}, "'a' is not a number in 1 row.s., the first is data row 2; list"),
        ("a,y\nTrue,no\nFalse,yes\n", {}, "'a' is not a number in 2 row"),
        ("a,y\ninf,no\n1,yes\n", {}, "'a' is infinite or absurdly large in 1 row"),
        ("a,y\n1,no\n1e300,yes\n", {}, "infinite or absurdly large in 1 row.s., the first is data row 2"),
        ("a,y\n1,no\n2,\n", {}, "target is missing in 1 row.s., the first is data row 2"),
        (f"a,y\n1,no\n2,{CELL}\n", {}, "none of the 2 labels in 1 row"),
        ("a,y\n1,no,3\n", {}, "a line has 3 cells, but 2 columns"),
        (f"a,y\n1,no\n1,{CELL},3\n", {}, "do all lines have 2 cells"),
        (f'a,y\n1,no\n1,"{CELL}\n', {}, "do all lines have 2 cells|not a table"),
        ("a,a,y\n1,2,no\n", {}, "'a'"),
        ("a,y\n", {}, "no rows"),
        ("", {}, "is empty"),
        ("1,no\n", {"header": False, "columns": ["a", "b", "y"]}, "a line has 2 cells, but 3 columns"),
        ("a,s,y\n1,x,no\n2,,yes\n", {"site": "s"}, "'s' is empty in 1 row"),
        ("a,s,y\n1,St X,no\n2,St-X,yes\n", {"site": "s"}, "2 different sites would have 1 names"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    tmp_path: Path, text: str, keys: dict[str, Any], said: str
) -> None:
    """Each fault has a message with file, column, count or row and what to do, and no cell."""
    with pytest.raises(DataError, match=said) as caught:
        _load(tmp_path, text, **keys)
    assert "table.csv" in str(caught.value)
    assert CELL not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A binary file is no table."""
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00\x01" * 10)
    with pytest.raises(DataError, match="UTF-8"):
        load(DataConfig(format="csv", path="table.csv", target="y"), 2, "classes", "table", tmp_path)


def test_a_table_has_no_images(tmp_path: Path) -> None:
    """Images from a text table are refused, and so is a table without a target."""
    (tmp_path / "table.csv").write_text(BASIC)
    config = DataConfig(format="csv", path="table.csv", target="y")
    with pytest.raises(ConfigError, match="images need format npz"):
        load(config, 2, "classes", "image", tmp_path)
    with pytest.raises(ConfigError, match="needs target"):
        load(DataConfig(format="csv", path="table.csv"), 2, "classes", "table", tmp_path)


def test_files_become_sites(tmp_path: Path) -> None:
    """A file a site: rows know their site, and columns are matched by name."""
    (tmp_path / "a.csv").write_text("u,v,y\n1,2,no\n")
    (tmp_path / "b.csv").write_text("v,y,u\n4,yes,3\n")
    config = DataConfig(format="csv", files={"A": "a.csv", "B": "b.csv"}, target="y")
    rows, names = load(config, None, "classes", "table", tmp_path)
    assert rows.site_N is not None
    assert rows.site_N.tolist() == ["A", "B"]
    assert rows.numeric_NP.tolist() == [[1, 2], [3, 4]]
    assert names == ("no", "yes")


def test_site_cells_become_names(tmp_path: Path) -> None:
    """A site's name can stand in a path and a key; different cells stay different."""
    rows = _load(tmp_path, "a,s,y\n1,St. Mary's,no\n2,Zürich,yes\n3,1.0,yes\n", site="s")
    assert rows.site_N is not None
    assert rows.site_N.tolist() == ["St.-Mary-s", "Zurich", "1"]


def test_a_public_set_needs_no_target(tmp_path: Path) -> None:
    """Public rows are read without their target, there or not, and have no label."""
    for text in (BASIC, "age,sex\n30,f\n41,m\n52,f\n"):
        (tmp_path / "table.csv").write_text(text)
        config = DataConfig(format="csv", path="table.csv", target="y", categorical=("sex",))
        rows = load_public(config, "table", tmp_path)
        assert rows.numeric_NP[:, 0].tolist() == [30, 41, 52]
        assert (rows.y == -1).all()


def test_new_rows_to_predict_are_all_kept(tmp_path: Path) -> None:
    """A new file without target, with gaps, more columns and another order gives the model's inputs."""
    config = DataConfig(
        format="csv", path="table.csv", target="y", categorical=("sex",), missing_rows="drop", drop=()
    )
    (tmp_path / "table.csv").write_text(BASIC)
    train = load(config, ("no", "yes"), "classes", "table", tmp_path)[0]
    fitted = Preprocessing.fit(measure(train))
    new = tmp_path / "new.csv"
    new.write_text("note,sex,age\nhello,f,30\nworld,,\n")
    x = fitted.transform(load_inputs(new, config, fitted))
    np.testing.assert_array_equal(x[0], fitted.transform(train)[0])
    assert x[1].tolist() == [0, 0, 0]
    new.write_text("sex\nf\n")
    with pytest.raises(DataError, match="unknown column 'age'"):
        load_inputs(new, config, fitted)


def test_a_model_of_embedded_data_predicts_on_files(tmp_path: Path) -> None:
    """Whatever the training data came from, new rows may come as a text table or an archive."""
    config = DataConfig(format="sklearn", name="iris")
    rows = load(config, 3, "classes", "table", None)[0]
    fitted = Preprocessing.fit(measure(rows))
    table = tmp_path / "new.csv"
    cells = ("5.1,3.5,1.4,0.2", ",,,")
    table.write_text("\n".join([",".join(rows.numeric_names), *cells]))
    assert fitted.transform(load_inputs(table, config, fitted)).shape == (2, 4)
    digits = DataConfig(format="sklearn", name="digits")
    images = load(digits, 10, "classes", "image", None)[0]
    np.savez(tmp_path / "new.npz", x=images.image_NCHW)
    seen = Preprocessing.fit(measure(images))
    again = seen.transform(load_inputs(tmp_path / "new.npz", digits, seen))
    np.testing.assert_array_equal(again, seen.transform(images))
    with pytest.raises(DataError, match="is missing"):
        load_inputs(tmp_path / "nothing.csv", config, fitted)


def test_a_public_set_is_one_file() -> None:
    """Files that belong to sites are no public set."""
    config = DataConfig(format="csv", files={"a": "a.csv"})
    with pytest.raises(ConfigError, match="one path"):
        load_public(config, "table", None)


def test_a_marker_may_mean_missing_in_one_column_alone(tmp_path: Path) -> None:
    """Zero is no cholesterol, but it is a sex and an answer; a column that is not there is refused."""
    text = "chol,sex,kind,y\n0,0,x,no\n210,1,?,yes\n0,1,z,yes\n"
    rows = _load(
        tmp_path, text, missing_in={"chol": ["0"], "kind": ["z"]}, missing=["?"], categorical=["kind"]
    )
    assert np.isnan(rows.numeric_NP).tolist() == [[True, False], [False, False], [True, False]]
    assert rows.categorical_NQ[:, 0].tolist() == ["x", "", ""]
    with pytest.raises(DataError, match="'coll': did you mean 'chol'"):
        _load(tmp_path, text, missing_in={"coll": ["0"]}, categorical=["kind"])
