"""A split by modality written out: parts with the whole's labels and their own inputs, errors in one line."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from collab.data.examples import of_table
from collab.decomposition.modality_terms import ModalityTerms
from collab.decomposition.view import inputs_of, lacks, rows_of
from collab.settings import parse
from protocol.errors import ConfigError, DataError
from protocol.parts import PartOf
from server.federation import to_toml

MODALITIES = {"imaging": "image", "laboratory": ["chol", "lab_*"], "history": ["age", "sex"]}
Tables = dict[str, Any]


def tables(whole: Tables | None = None, **decomposition: Any) -> Tables:
    """Return a file with one whole of three modalities, one other subtask and two sites."""
    made = {"by": "modality", "modalities": MODALITIES} | decomposition
    case = {"kind": "tabular_classification", "labels": ["no", "yes"], "models": ["linear"]}
    return copy.deepcopy(
        {
            "name": "clinic",
            "subtasks": {
                "case": {k: v for k, v in (case | (whole or {})).items() if v is not None},
                "other": {"kind": "tabular_classification", "labels": ["a", "b"]},
            },
            "decomposition": {"case": {k: v for k, v in made.items() if v is not None}},
            "data": {
                "case": {"format": "npz", "path": "case.npz", "inputs": "image", "table": "table"},
                "other": {"format": "csv", "path": "other.csv", "target": "y"},
            },
            "sites": {"north": {}, "south": {"subtasks": ["case"]}},
        }
    )


def test_the_whole_becomes_a_subtask_a_modality() -> None:
    """Each part has the whole's labels and metric and the kind of what it sees; its view has all classes."""
    found = parse(tables(), "file")
    assert sorted(found.subtasks) == ["case-history", "case-imaging", "case-laboratory", "other"]
    kinds = {name: found.subtasks[name].kind for name in found.parts_of("case").values()}
    assert kinds == {
        "case-imaging": "image_classification",
        "case-laboratory": "tabular_classification",
        "case-history": "tabular_classification",
    }
    for name in kinds:
        terms = found.subtasks[name]
        assert (terms.labels, terms.metric) == (("no", "yes"), "log_loss")
        assert (terms.data, terms.part_of) == ("case", "case")
    assert found.sites["south"].subtasks == ("case-imaging", "case-laboratory", "case-history")
    assert found.view_of("case-imaging") == PartOf(
        whole="case", labels=("no", "yes"), classes=(0, 1), image=True
    )
    laboratory = found.view_of("case-laboratory")
    assert laboratory is not None
    assert (laboratory.columns, laboratory.image, laboratory.classes) == (("chol", "lab_*"), False, (0, 1))


def test_a_part_may_say_otherwise() -> None:
    """What parts says of one replaces the whole's terms there alone; classes may be given by their number."""
    parts = {"imaging": {"models": ["cnn_small"], "importance": 2.0, "train": {"lr": 0.01}}}
    found = parse(tables({"labels": 3, "metric": "accuracy"}, parts=parts), "file")
    imaging, history = found.subtasks["case-imaging"], found.subtasks["case-history"]
    assert (imaging.models or ())[0].name == "cnn_small"
    assert (imaging.importance, imaging.train.lr, imaging.metric) == (2.0, 0.01, "accuracy")
    assert (history.models or ())[0].name == "linear"
    assert found.decomposition["case"].labels == history.labels == ("0", "1", "2")


def test_what_was_written_stays_and_is_written_out_once() -> None:
    """The resolved file, read again, is the same collaboration, and still holds the whole's own table."""
    made = tables(parts={"imaging": {"models": ["cnn_small"]}})
    found = parse(made, "file")
    assert found.decomposition["case"].subtask == made["subtasks"]["case"]
    again = parse(found.model_dump(mode="json", exclude_none=True), "kept")
    assert again == found
    assert to_toml(again) == to_toml(found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"by": "modalty"}, "by: unknown rule 'modalty': did you mean 'modality'"),
        ({"by": None}, "key 'by' is required: one of label_hierarchy, modality"),
        ({"modalities": None}, "key 'modalities' is required"),
        ({"modalities": {"all": ["a"]}}, "at least two, found 1"),
        ({"modalities": {"one": ["a"], "two": []}}, "'two' has no columns"),
        ({"modalities": {"one": ["a"], "two": "b"}}, "'two' is \"image\" or a list of columns"),
        ({"modalities": {"one": "image", "two": "image"}}, "one image"),
        ({"modalities": {"one": ["a", "b"], "two": ["b"]}}, "'b' is in modalities"),
        ({"modalities": {"one": ["lab_*"], "two": ["lab_x"]}}, "'lab_x' is in modalities two and one"),
        ({"modalities": {"x" * 62: ["a"], "two": ["b"]}}, "at most 64"),
        ({"fusion": "soft_gate"}, "fusion: .*'product'"),
        ({"groups": {"a": ["b"]}}, "unknown key 'groups'"),
        ({"parts": {"imagin": {}}}, "'imagin' in parts: did you mean 'imaging'"),
        ({"parts": {"imaging": {"labels": ["a", "b"]}}}, "parts.imaging.labels: it is the whole's"),
        ({"parts": {"imaging": {"family": "signs"}}}, "parts.imaging.family: it is the whole's"),
        ({"parts": {"imaging": {"metric": "f1"}}}, "parts.imaging.metric: it is the whole's"),
        ({"parts": {"imaging": {"colour": 1}}}, "case-imaging.colour"),
    ],
)
def test_an_error_names_file_and_key(changes: Tables, said: str) -> None:
    """What cannot be is refused in one line with the file, the decomposition or its part, and what to do."""
    with pytest.raises(ConfigError, match=rf"^file: .*case.*{said}|^file: .*{said}") as error:
        parse(tables(**changes), "file")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ({"labels": None}, "needs labels"),
        ({"labels": ["one"]}, "needs labels"),
        ({"kind": "tabular_regression"}, "must have classes"),
        ({"kind": "text_classification"}, "of texts"),
        ({"kind": "tabular_clasification"}, "did you mean 'tabular_classification'"),
        ({"teacher": {"path": "t.onnx"}}, "by modality: leave out teacher"),
    ],
)
def test_the_whole_must_be_a_classification_with_labels(whole: Tables, said: str) -> None:
    """What cannot be taken apart by modality is refused, and the message says where."""
    with pytest.raises(ConfigError, match=rf"^file: decomposition\.case: .*{said}"):
        parse(tables(whole), "file")


def test_a_view_has_its_own_columns_and_the_rows_that_have_them() -> None:
    """A row without any of a modality's cells is not in its view; one with some is."""
    nan = np.nan
    rows = of_table(
        np.array([[50.0, 1.0, nan], [nan, nan, nan], [40.0, nan, 2.0], [nan, 3.0, 4.0]]),
        ("age", "chol", "lab_a"),
        np.array([0, 1, 1, 0]),
        np.array([["f"], ["m"], [""], [""]], dtype=object),
        ("sex",),
    )
    terms = ModalityTerms.model_validate(
        {
            "by": "modality",
            "modalities": {"laboratory": ["chol", "lab_*"], "history": ["age", "sex"]},
            "subtask": {"labels": ["no", "yes"]},
        }
    )
    laboratory = rows_of(rows, terms.view("case", "laboratory"))
    assert (laboratory.numeric_names, laboratory.categorical_names) == (("chol", "lab_a"), ())
    assert laboratory.y.tolist() == [0, 1, 0]
    history = inputs_of(rows, terms.view("case", "history"))
    assert history.present_N.tolist() == [True, True, True, False]
    assert history.examples.categorical_names == ("sex",)


def test_data_without_a_modality_is_told_from_rows_without() -> None:
    """A file that has not the columns lacks the modality, and a view of it is refused by name."""
    rows = of_table(np.zeros((2, 1)), ("age",), np.array([0, 1]))
    view = PartOf(whole="case", labels=("no", "yes"), classes=(0, 1), columns=("chol", "lab_*"))
    assert lacks(rows, view)
    assert not lacks(rows, view.model_copy(update={"columns": ("ag?",)}))
    with pytest.raises(DataError, match="'chol'"):
        rows_of(rows, view)
    with pytest.raises(DataError, match="no images"):
        rows_of(rows, view.model_copy(update={"columns": (), "image": True}))
    with pytest.raises(ValueError, match="not both"):
        PartOf(whole="case", labels=("a",), classes=(0,), columns=("b",), image=True)
