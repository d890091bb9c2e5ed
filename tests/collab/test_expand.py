"""A decomposition written out: parts with the whole's terms, views of its rows, errors that name the key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.collaboration import Collaboration
from collab.data.examples import of_table
from collab.decomposition.terms import LabelHierarchyTerms, name_of
from collab.decomposition.view import classes_of, rows_of
from collab.decomposition.whole_labels import check_statistics, fuse, naive, statistics
from collab.settings import parse
from protocol.errors import ArraysError, ConfigError, DataError
from server.federation import to_toml

GROUPS = {"weather": ["rain", "wind"], "clock": ["alarm", "timer"], "chat": ["hello"]}
TWO = {group: labels for group, labels in GROUPS.items() if group != "chat"}
Tables = dict[str, Any]


def tables(**decomposition: Any) -> Tables:
    """Return a file with one whole, one other subtask and two sites."""
    made = {"by": "label_hierarchy", "groups": GROUPS} | decomposition
    return copy.deepcopy(
        {
            "name": "assistant",
            "subtasks": {
                "help": {"kind": "text_classification", "importance": 2.0, "train": {"lr": 0.1}},
                "other": {"kind": "text_classification", "labels": ["a", "b"]},
            },
            "decomposition": {"help": {k: v for k, v in made.items() if v is not None}},
            "data": {
                "help": {"format": "text", "path": "help.csv"},
                "other": {"format": "text", "path": "other.csv"},
            },
            "sites": {"north": {}, "south": {"subtasks": ["help"]}},
        }
    )


def test_the_whole_becomes_its_parts() -> None:
    """A gate over the groups and an expert a group of more than one label, each with the whole's terms."""
    found = parse(tables(), "file")
    assert sorted(found.subtasks) == ["help-clock", "help-gate", "help-weather", "other"]
    assert found.subtasks["help-gate"].labels == ("weather", "clock", "chat")
    assert found.subtasks["help-weather"].labels == ("rain", "wind")
    for name in found.parts_of("help").values():
        terms = found.subtasks[name]
        assert (terms.importance, terms.train.lr, terms.data, terms.part_of) == (2.0, 0.1, "help", "help")
    assert found.sites_of("help-gate") == ("north", "south")
    assert found.sites["south"].subtasks == ("help-gate", "help-weather", "help-clock")


def test_what_was_written_stays_and_is_written_out_once() -> None:
    """The resolved file, read again, is the same collaboration, and still holds the whole's own table."""
    made = tables(gate={"until_round": 1}, outside="oos")
    found = parse(made, "file")
    assert found.decomposition["help"].subtask == made["subtasks"]["help"]
    again = parse(found.model_dump(mode="json", exclude_none=True), "kept")
    assert again == found
    assert to_toml(again) == to_toml(found)


def test_the_gate_may_say_otherwise() -> None:
    """What gate says replaces the whole's terms in the gate alone."""
    found = parse(tables(gate={"aggregation": "normal_equations", "importance": 1.0}), "file")
    assert found.subtasks["help-gate"].aggregation.rule == "normal_equations"
    assert found.subtasks["help-gate"].importance == 1.0
    assert found.subtasks["help-clock"].aggregation.rule == "fedavg"


def test_without_a_gate_none_is_trained() -> None:
    """The naive fusion needs experts alone."""
    found = parse(tables(fusion="closed_set", groups=TWO), "file")
    assert sorted(found.parts_of("help").values()) == ["help-clock", "help-weather"]


def test_the_map_may_lie_beside_the_file(tmp_path: Path) -> None:
    """A map read from a file gives what the same groups give here, and the file is not needed again."""
    (tmp_path / "map.json").write_text(json.dumps(GROUPS), encoding="utf-8")
    found = parse(tables(groups=None, map="map.json"), "file", tmp_path)
    assert found.subtasks == parse(tables(), "file").subtasks
    again = parse(found.model_dump(mode="json", exclude_none=True), "kept")
    assert again.subtasks == found.subtasks
    with pytest.raises(DataError, match=r"map\.json"):
        parse(tables(groups=None, map="map.json"), "file", tmp_path / "elsewhere")


def test_rules_and_partition_of_the_whole_are_those_of_its_parts() -> None:
    """A rule is given to each part, and every part is dealt out as the whole is."""
    made = tables()
    made["allocation"] = {"rules": {"help": "memory_mib >= 64", "other": "memory_mib >= 32"}}
    made["partition"] = {"help": {"kind": "dirichlet", "alpha": 0.5}}
    found = parse(made, "file")
    parts = found.parts_of("help").values()
    assert found.allocation.rules == dict.fromkeys(parts, "memory_mib >= 64") | {"other": "memory_mib >= 32"}
    assert {found.partition_of(part).kind for part in parts} == {"dirichlet"}
    assert found.partition_of("other").kind == "iid"


def test_a_part_is_not_dealt_out_by_itself() -> None:
    """A partition of a part would be ignored, so it is refused."""
    made = tables() | {"partition": {"help-gate": {"kind": "iid"}}}
    said = r"partition\.help-gate\]: the rows are dealt out for the whole: \[partition\.help\]"
    with pytest.raises(ConfigError, match=said):
        parse(made, "file")


def test_a_group_a_site_says_whose_a_row_is() -> None:
    """The site of a group is the site of each of its labels, and rows are dealt by it."""
    owners = {"weather": "north", "clock": "south", "chat": "north", "oos": "south"}
    found = parse(tables(sites=owners, outside="oos"), "file")
    expected = {"rain": "north", "wind": "north", "alarm": "south", "timer": "south", "hello": "north"}
    assert found.data["help"].site_of_label == expected | {"oos": "south"}
    assert found.partition_of("help-gate").kind == "column"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"by": "colour"}, "by: .*label_hierarchy"),
        ({"fusion": "soft_gat"}, "fusion: .*'soft_gate'"),
        ({"groups": None}, "give map = FILE, or groups"),
        ({"map": "m.json"}, "give either map or groups, found both"),
        ({"groups": {"one": ["a", "b"]}}, "1 group"),
        ({"groups": {"one": ["a", "b"], "two": ["b", "c"]}}, "'b'"),
        ({"groups": {"one": ["a", "b"], "gate": ["c", "d"]}}, "cannot be called 'gate'"),
        ({"groups": {"one": ["a", "b"], "x" * 62: ["c", "d"]}}, "at most 64"),
        ({"outside": "rain"}, "'rain' is both a label"),
        ({"fusion": "open_set"}, "open_set.* needs outside"),
        ({"fusion": "closed_set", "outside": "oos"}, "cannot refuse a row"),
        ({"fusion": "closed_set"}, "two labels or more in each group"),
        ({"fusion": "closed_set", "gate": {"rounds": 1}}, "no gate: leave out gate"),
        ({"gate": {"labels": ["a"]}}, "gate.labels"),
        ({"gate": {"family": "signs"}}, "gate.family: it is the whole's"),
        ({"gate": {"colour": 1}}, "help-gate.*colour"),
        ({"sites": {"wether": "north"}}, "'wether'.*weather"),
        ({"sites": {"weather": "north"}}, "no site"),
    ],
)
def test_an_error_names_file_and_key(changes: Tables, said: str) -> None:
    """What cannot be is refused with the file, the decomposition or its part, and what is allowed."""
    with pytest.raises(ConfigError, match=rf"^file: .*help.*{said}|^file: .*{said}"):
        parse(tables(**changes), "file")


@pytest.mark.parametrize("key", ["labels", "teacher", "part_of"])
def test_the_whole_cannot_say_what_its_map_says(key: str) -> None:
    """Keys that mean nothing for the parts are refused, not passed over."""
    made = tables()
    made["subtasks"]["help"][key] = ["a", "b"]
    with pytest.raises(ConfigError, match=f"leave out {key}"):
        parse(made, "file")


def test_a_decomposition_of_nothing_is_refused() -> None:
    """A slip of the pen in the name of the subtask is answered with the nearest name."""
    made = tables()
    made["decomposition"] = {"halp": made["decomposition"]["help"]}
    with pytest.raises(ConfigError, match=r"file: decomposition.halp: .*help"):
        parse(made, "file")


def test_a_parts_name_may_be_taken() -> None:
    """Two subtasks of one name are refused."""
    made = tables()
    made["subtasks"]["help-gate"] = made["subtasks"]["other"]
    with pytest.raises(ConfigError, match="'help-gate' has the name of another subtask"):
        parse(made, "file")


def test_nobody_calls_itself_a_part() -> None:
    """part_of without its decomposition is refused."""
    made = tables()
    made["subtasks"]["other"]["part_of"] = "help"
    with pytest.raises(ConfigError, match="'other' is no part of 'help'"):
        parse(made, "file")
    made["subtasks"]["other"]["part_of"] = "hepl"
    with pytest.raises(ConfigError, match="'hepl'"):
        parse(made, "file")


def test_a_regression_is_not_taken_apart() -> None:
    """A kind that predicts a value has no labels to take apart."""
    made = tables()
    made["subtasks"]["help"]["kind"] = "tabular_regression"
    with pytest.raises(ConfigError, match="regression"):
        parse(made, "file")


def test_a_file_that_was_not_written_out_is_refused() -> None:
    """Whoever makes a collaboration past parse is told."""
    made = tables()
    with pytest.raises(ValueError, match="not written out"):
        Collaboration.model_validate(made)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    with_outside=st.booleans(),
)
def test_views_of_the_parts_are_the_whole(seed: int, sizes: list[int], with_outside: bool) -> None:
    """The gate takes every row; a row in scope has one expert at most, which calls it by its own label."""
    groups = {f"g{g}": [f"l{g}.{i}" for i in range(size)] for g, size in enumerate(sizes)}
    outside = "oos" if with_outside else None
    terms = LabelHierarchyTerms.model_validate(
        {"by": "label_hierarchy", "groups": groups, "outside": outside}
    )
    rng = np.random.default_rng(seed)
    y_N = rng.integers(0, len(terms.labels), size=60)
    rows = of_table(np.arange(60.0)[:, None], ("row",), y_N)
    seen = np.zeros(60, dtype=int)
    for name, part in terms.parts.items():
        taken = rows_of(rows, terms.view("w", name))
        at = taken.numeric_NP[:, 0].astype(int)
        called = [part.labels[c] for c in taken.y]
        truth = [terms.labels[y] for y in y_N[at]]
        assert called == [part.label_map.get(label, label) for label in truth]
        if name == "gate":
            assert len(taken) == 60
        else:
            seen[at] += 1
    in_scope_N = y_N < sum(sizes)
    has_expert_N = np.array([with_outside or sizes[_group(sizes, y)] > 1 for y in y_N[in_scope_N]], dtype=int)
    assert (seen[in_scope_N] == has_expert_N).all()


def _group(sizes: list[int], y: int) -> int:
    return int(np.searchsorted(np.cumsum(sizes), y, side="right"))


def _perfect(terms: LabelHierarchyTerms, y_N: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return what parts say that know every row of theirs and nothing of others' rows."""
    outputs = {}
    for name, part in terms.parts.items():
        classes_N = classes_of(y_N, terms.view("w", name))
        uniform_NC = np.full((len(y_N), len(part.labels)), 1 / len(part.labels))
        outputs[name] = np.where(
            (classes_N >= 0)[:, None], np.eye(len(part.labels))[np.maximum(classes_N, 0)], uniform_NC
        )
    return outputs


@pytest.mark.parametrize("fusion", ["soft_gate", "hard_gate", "open_set"])
def test_parts_that_know_all_make_a_whole_that_knows_all(fusion: str) -> None:
    """With parts that are right, every fusion is right in scope and refuses what is outside."""
    made = {"by": "label_hierarchy", "groups": GROUPS, "outside": "oos", "fusion": fusion}
    terms = LabelHierarchyTerms.model_validate(made)
    y_N = np.repeat(np.arange(6), 3)
    outputs = _perfect(terms, y_N)
    if fusion == "open_set":  # an expert must refuse what is others', which a perfect one was not shown
        for name, part in terms.parts.items():
            others_N = classes_of(y_N, terms.view("w", name)) < 0
            outputs[name][others_N] = np.eye(len(part.labels))[-1]
    assert (fuse(terms, outputs, {}).argmax(axis=1) == y_N).all()
    sums = statistics(terms, outputs, y_N, {})
    assert sums["outside/counts"].tolist() == [3.0, 3.0]
    assert np.trace(sums["fused/confusion"]) == 15
    check_statistics(_grouped(sums), terms, 18)


def test_the_naive_answer_is_the_surest_experts() -> None:
    """The experts' own labels side by side, each scaled to one; with a group of one label there is none."""
    terms = LabelHierarchyTerms.model_validate(
        {"by": "label_hierarchy", "groups": TWO, "outside": "oos", "fusion": "open_set"}
    )
    outputs = {"weather": np.array([[0.1, 0.5, 0.4]]), "clock": np.array([[0.2, 0.1, 0.7]])}
    assert naive(terms, outputs) == pytest.approx(np.array([[1 / 12, 5 / 12, 1 / 3, 1 / 6]]))
    single = LabelHierarchyTerms.model_validate({"by": "label_hierarchy", "groups": GROUPS})
    with pytest.raises(ArraysError, match="one label"):
        naive(single, outputs)


def test_sums_that_no_rows_have_are_refused() -> None:
    """More refusals than rows, another number of rows, or a missing group do not pass."""
    terms = LabelHierarchyTerms.model_validate(
        {"by": "label_hierarchy", "groups": GROUPS, "outside": "oos", "fusion": "soft_gate"}
    )
    y_N = np.repeat(np.arange(6), 3)
    good = _grouped(statistics(terms, _perfect(terms, y_N), y_N, {}))
    with pytest.raises(ArraysError):
        check_statistics(good, terms, 17)
    with pytest.raises(ArraysError):
        check_statistics({k: v for k, v in good.items() if k != "outside"}, terms, 18)
    with pytest.raises(ArraysError):
        check_statistics(good | {"outside": {"counts": np.array([4.0, 3.0])}}, terms, 18)


def test_a_missing_part_is_missed() -> None:
    """A whole does not answer without its gate or an expert."""
    terms = LabelHierarchyTerms.model_validate({"by": "label_hierarchy", "groups": GROUPS})
    outputs = _perfect(terms, np.repeat(np.arange(5), 2))
    for name in terms.parts:
        with pytest.raises(ArraysError, match="missing"):
            fuse(terms, {k: v for k, v in outputs.items() if k != name}, {})


def _grouped(sums: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, array in sums.items():
        group, _, rest = key.partition("/")
        found.setdefault(group, {})[rest] = array
    return found


def test_a_part_is_named_after_its_whole() -> None:
    """The name of a part says whose it is."""
    assert name_of("help", "gate") == "help-gate"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("data", "parts of 'help' are views .*: give all the same data"),
        ("family", "part of 'help', split as the others: leave out family"),
    ],
)
def test_parts_are_split_alike(key: str, said: str) -> None:
    """A part of its own data or family would train on rows that test the whole's other parts."""
    kept = parse(tables(), "file").model_dump(mode="json", exclude_none=True)
    kept["data"]["more"] = kept["data"]["help"]
    kept["subtasks"]["help-clock"][key] = "more"
    with pytest.raises(ConfigError, match=said):
        parse(kept, "kept")
