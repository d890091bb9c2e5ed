"""``after = [...]``: a graph without circles, and what a subtask may come after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collab.collaboration import Collaboration
from collab.decomposition.dag import MOST_UPSTREAM, ancestors, levels, order
from collab.settings import parse, parse_toml
from protocol.errors import ConfigError
from tests.chain_cases import VERDICT, block, three, two

Tables = dict[str, Any]
DIAMOND = {"d": ("b", "c"), "b": ("a",), "c": ("a",), "a": (), "e": ()}


def test_a_level_holds_what_may_be_worked_on_at_once() -> None:
    """Each name stands after all that it names, as early as it can; inside a level by name."""
    assert levels(DIAMOND) == (("a", "e"), ("b", "c"), ("d",))
    assert order(DIAMOND) == ("a", "e", "b", "c", "d")
    assert levels({}) == ()


def test_ancestors_are_all_that_must_be_over() -> None:
    """Direct or not, each once, each after all that it names itself."""
    assert ancestors("d", DIAMOND) == ("a", "b", "c")
    assert ancestors("b", DIAMOND) == ("a",)
    assert ancestors("e", DIAMOND) == ()


def test_a_circle_is_named() -> None:
    """The error says which subtasks wait for each other."""
    with pytest.raises(
        ConfigError, match=r"after goes round in a circle: (a|b) after (a|b) after (a|b); leave"
    ):
        levels({"a": ("b",), "b": ("a",)})


def _refusal(made: Tables) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(made, "test")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _changed(folder: Path, subtask: str, **keys: Any) -> Tables:
    made = three(folder)
    made["subtasks"][subtask] |= keys
    return made


def test_a_chain_of_three_is_accepted(tmp_path: Path) -> None:
    """The file says what comes after what; a subtask says nothing and comes first."""
    found = parse(three(tmp_path), "test")
    assert isinstance(found, Collaboration)
    assert {name: terms.after for name, terms in found.subtasks.items()} == {
        "side": (),
        "verdict": ("side",),
        "dose": ("verdict",),
    }


@pytest.mark.parametrize(
    ("subtask", "keys", "said"),
    [
        ("verdict", {"after": ["sid"]}, "unknown subtask 'sid' in after of subtask 'verdict'"),
        ("verdict", {"after": ["verdict"]}, "subtask 'verdict' cannot come after itself"),
        ("verdict", {"after": ["side", "side"]}, "subtask 'verdict': after names a subtask twice"),
        ("side", {"after": ["dose"]}, "after goes round in a circle"),
        (
            "verdict",
            {"exchange": "soft_labels", "soft_labels": {"public": {"holdout": 10}}},
            "subtask 'verdict': exchange = 'soft_labels' needs its inputs before the run",
        ),
        (
            "verdict",
            {"distillation": {"ensemble": True}, "soft_labels": {"public": {"holdout": 10}}},
            "subtask 'verdict': distillation.ensemble needs its inputs before the run",
        ),
        ("verdict", {"root": {"holdout": 10}}, "subtask 'verdict': root needs its inputs before the run"),
        ("verdict", {"select": "validation"}, "select = 'validation' needs its inputs before the run"),
        ("side", {"exchange": "prototypes"}, "'side', which exchanges prototypes: it has no final model"),
        ("side", {"personal": "fedper"}, "'side', which keeps layers at the sites: it has no final model"),
        ("side", {"until_round": None}, "so 'side' needs until_round, below 4"),
        (
            "side",
            {"until_round": 4},
            "whose until_round is 4: no round is left for 'verdict', whose last is 4",
        ),
        ("dose", {"until_round": 4}, "whose until_round is 4: no round is left for 'dose', whose last is 4"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, subtask: str, keys: Tables, said: str) -> None:
    """One line says which subtask, what stands against it and what to do."""
    made = _changed(tmp_path, subtask, **keys)
    made["subtasks"] = {n: {k: v for k, v in t.items() if v is not None} for n, t in made["subtasks"].items()}
    assert said in _refusal(made)


def test_nothing_comes_after_an_image(tmp_path: Path) -> None:
    """Outputs cannot be appended to pixels, and both must read the same rows."""
    made = two(tmp_path)
    image = {"kind": "image_classification", "labels": 10, "after": ["side"]}
    made["subtasks"]["digits"] = image
    made["data"]["digits"] = {"format": "sklearn", "name": "digits"}
    assert "subtask 'digits': after needs table or text inputs" in _refusal(made)
    made["subtasks"]["digits"] = {**image, "after": [], "until_round": 1}
    made["subtasks"]["verdict"]["after"] = ["digits"]
    assert "reads tables, but 'digits', which it comes after, images: both" in _refusal(made)


def test_a_part_of_a_whole_comes_after_none(tmp_path: Path) -> None:
    """A whole that is taken apart by its labels is measured whole, on its own rows alone."""
    made = two(tmp_path)
    made["subtasks"]["verdict"] = {k: v for k, v in VERDICT.items() if k != "labels"}
    groups = {"a": ["no"], "b": ["yes"]}
    made["decomposition"] = {"verdict": {"by": "label_hierarchy", "groups": groups}}
    assert "a whole that is taken apart comes after none" in _refusal(made)


def test_rows_of_one_file_need_given_sides(tmp_path: Path) -> None:
    """Drawn for each target alone, a row that upstream trained on could test downstream."""
    made = two(tmp_path)
    del made["data"]["verdict"]["split"]
    said = _refusal(made)
    assert "rows that one trains on must not be test rows of the other: give the same split.column" in said
    del made["data"]["side"]["split"]
    assert "must not be test rows" in _refusal(made)


def test_one_block_for_both_needs_given_sides_too(tmp_path: Path) -> None:
    """Which rows are drawn depends on holdouts and sites, which may differ from subtask to subtask."""
    made = two(tmp_path)
    made["subtasks"]["verdict"] |= {"data": "side", "labels": ["left", "right"]}
    parse(made, "test")
    del made["data"]["side"]["split"]
    assert "both read data 'side': rows that one trains on" in _refusal(made)


@pytest.mark.parametrize(("data", "column"), [("verdict", "side"), ("side", "verdict")])
def test_no_true_label_of_the_other_is_a_feature(tmp_path: Path, data: str, column: str) -> None:
    """Neither downstream may read upstream's true labels, nor upstream the labels it is to help predict."""
    made = two(tmp_path)
    made["data"][data] = block(Path(made["data"][data]["path"]), data, "w", column)
    assert f"column '{column}' is a target, and the other reads it as a feature" in _refusal(made)
    del made["data"][data]["features"]
    assert f"column '{column}' is a target" in _refusal(made)
    made["data"][data]["drop"] = ["dose", column]
    parse(made, "test")


def test_more_upstream_than_a_message_describes_is_refused() -> None:
    """A chain is bounded as everything is that travels."""
    chain = {f"s{i}": {"after": [f"s{i - 1}"]} if i else {} for i in range(MOST_UPSTREAM + 2)}
    tables: Tables = {
        name: {"kind": "tabular_classification", "labels": 2, "until_round": i + 1, **keys}
        for i, (name, keys) in enumerate(chain.items())
    }
    said = _refusal({"name": "long", "rounds": 200, "subtasks": tables})
    assert f"comes after {MOST_UPSTREAM + 1} subtasks, at most {MOST_UPSTREAM}" in said


def test_the_example_of_the_docs_is_accepted() -> None:
    """What docs/design.md shows of ``after`` can be copied."""
    text = (Path(__file__).parents[2] / "docs" / "design.md").read_text(encoding="utf-8")
    example = text.split("## Subtasks that come after others")[1].split("```toml")[1].split("```")[0]
    found = parse(parse_toml(f'name = "docs"\n{example}', "design.md"), "design.md")
    assert found.subtasks["tumour"].after == ("organ",)
