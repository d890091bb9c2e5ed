"""The coverage statement: who was in, who was not, why, and what share of each class that removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collab.cohort import Task
from collab.collaboration import Collaboration
from collab.events import Send, SiteJoined
from server.class_coverage import missing_of_classes
from server.coverage import Statement, statement, statements
from server.coverage_view import announced, is_whole, note, run_coverage, sentence
from tests.collab.round_cases import Story, arrived, evaluated, joined, lost, passed, rejected, terms
from tests.collab.test_rounds_groups import story as family_story
from tests.collab.test_rounds_groups import terms as family_terms
from tests.small import SOFT_LABELS, run, sites, tables


def site(name: str, *counts: float, rows: int | None = None) -> SiteJoined:
    """A site with these class counts of ``a``."""
    said = joined(name, a=int(sum(counts)) if rows is None else rows)
    return said.model_copy(update={"class_counts": {"a": counts}})


def said(story: Story, collaboration: Collaboration, round_: int = 1, subtask: str = "a") -> Statement:
    """The statement of one cohort."""
    found = statement(story.machine, collaboration, round_, subtask)
    assert found is not None
    return found


def task(name: str, counts: tuple[float, ...], rows: int, attempt: int = 1) -> Task:
    """An assignment of a site with these counts."""
    send = Send(round=1, subtask="a", site=name, attempt=attempt, model="m", score=0, reason="r")
    return Task(send, {"a": rows}, {"a": counts} if counts else {})


def test_a_silent_site_and_the_classes_it_takes_along() -> None:
    """Its examples and the share of each class are missing, under its name and with the reason."""
    made = terms(quorum=0.5)
    story = Story(made, site("east", 30, 10), site("west", 10, 30))
    story.tell(arrived(1, "east"), passed(6))
    one = said(story, made)
    assert (one.ended, one.inside, [o.site for o in one.out]) == ("merged", ("east",), ["west"])
    assert (one.examples_asked, one.examples_in, one.examples_share) == (80, 40, 0.5)
    assert one.classes == {"a": {"1": 0.75, "0": 0.25}}
    assert sentence(one.as_json()) == (
        "1 of 2 sites, 50 % of the examples; without west (silent: no answer by 6.0 s); "
        "missing of classes: 1 75 %, 0 25 %"
    )
    story.tell(arrived(7, "west"))
    assert [o.why for o in said(story, made).out] == ["late"]


def test_a_substitute_stands_in() -> None:
    """Who failed is out and says who was asked in its stead, as often as it was handed on."""
    made = terms({"a": {"max_sites": 1}})
    story = Story(made, site("east", 5, 5), site("north", 4, 4), site("west", 3, 3))
    first = next(iter(story.machine.cohorts["a"].tasks.values())).send.site
    story.tell(rejected(1, first))
    second = list(story.machine.cohorts["a"].tasks.values())[-1].send.site
    story.tell(lost(second, 2))
    third = list(story.machine.cohorts["a"].tasks.values())[-1].send.site
    assert len({first, second, third}) == 3
    story.tell(arrived(3, third, attempt=3))
    one = said(story, made)
    assert {(o.site, o.why, o.handed_on_to) for o in one.out} == {
        (first, "rejected", second),
        (second, "lost", third),
    }
    assert one.inside == (third,)
    assert not one.not_asked
    assert not is_whole(one.as_json())


def test_nobody_contributed() -> None:
    """A skipped cohort has the statement of its own round, though the next has begun by then."""
    made = terms(quorum=1)
    story = Story(made, joined("east"), joined("west"))
    story.tell(passed(60))
    assert story.machine.round == 2
    one = said(story, made)
    assert (one.ended, one.inside, [o.why for o in one.out]) == ("skipped", (), ["silent"] * 2)
    assert one.examples_share == 0.0
    assert "nothing was merged" in sentence(one.as_json())


def test_below_the_declared_coverage() -> None:
    """The cohort that stopped the run is stated, and so is one that was still open."""
    made = terms(["a", "b"], min_coverage=0.5)
    story = Story(made, joined("east", a=100), joined("west", a=1, b=50))
    story.tell(lost("east", 1))
    told = story.tell(arrived(2, "west"))
    assert told[0].startswith("abort")
    found = {one.subtask: one for one in statements(story.machine, made)}
    assert found["a"].ended == "stopped"
    assert (found["b"].ended, [o.why for o in found["b"].out]) == ("open", ["asked"])


def test_who_was_not_asked() -> None:
    """By the policy, by feasibility, because too few would have been asked, and because it has left."""
    made = terms({"a": {"max_sites": 1, "needs": {"min_examples": 10}}}, rounds=9)
    story = Story(made, site("east", 50, 50), site("north", 20, 20), site("poor", 1, 1))
    asked = next(iter(story.machine.cohorts["a"].tasks.values())).send.site
    other = ({"east", "north"} - {asked}).pop()
    assert said(story, made).not_asked == {"infeasible": ("poor",), "policy": (other,)}
    story.tell(arrived(1, asked), lost("poor", 2), evaluated(3))
    assert said(story, made, 2).not_asked["gone"] == ("poor",)
    few = terms({"a": {"min_sites": 2}, "b": {}})
    alone = Story(few, joined("east", a=5, b=5))
    assert said(alone, few).not_asked == {"min_sites": ("east",)}
    assert said(alone, few).examples_share is None


def test_a_family_is_stated_as_one() -> None:
    """A group has one statement with the classes of each of its subtasks."""
    story, made = family_story(), family_terms()
    story.tell(arrived(1, "one"), rejected(2, "two"))
    one = said(story, made)
    assert one.together == ("a", "b", "c")
    assert (one.examples_asked, one.examples_in) == (70, 30)
    assert [o.site for o in one.out] == ["two"]
    assert one.classes == {}  # these sites let no class counts out


@pytest.mark.parametrize(
    ("given", "missing", "expected"),
    [
        (((6, 0), 6), ((2, 4), 6), (0.25, 1.0)),
        (((1, 1), 6), ((2, 0), 2), (None, 0.0)),  # a mask: which classes it has is known, not how many
        (((1, 0), 6), ((0, 1), 6), (0.0, 1.0)),
        (((3, 3), 6), ((), 6), (None, None)),
        (((), 6), ((0, 4), 4), (0.0, None)),
        (((0, 0), 6), ((4, 0), 4), (None, 0.0)),
    ],
)
def test_what_is_known_of_a_class(given: Any, missing: Any, expected: Any) -> None:
    """From exact counts a share; from a mask or nothing only what cannot be otherwise."""
    came, away = task("in", *given), task("out", *missing)
    assert missing_of_classes("a", [came, away], [came]) == pytest.approx(expected)
    assert all(share == 0 for share in missing_of_classes("a", [came, away], [came, away]))


def test_a_substitute_counts_for_the_classes_it_has() -> None:
    """What the first had is missing only as far as its substitute does not bring it."""
    first, after = task("first", (10, 10), 20), task("after", (20, 5), 25, attempt=2)
    assert missing_of_classes("a", [first], [after]) == (0.0, 0.5)
    assert missing_of_classes("a", [task("r", (), 20)], []) == ()


def test_a_run_says_what_it_lacked(tmp_path: Path) -> None:
    """Summary, listener and totals agree; soft labels of an earlier round are said to count still."""
    made = tables({"iris": SOFT_LABELS}, rounds=6, sites=sites(beta={"dropout": 0.5}))
    made["coordination"] |= {"quorum": 0.5, "grace_s": 1}
    found = run(made, tmp_path)
    outcomes = found.outcomes("beta")
    told = [event for event in found.told if event["type"] == "coverage"]
    assert [e["whole"] for e in told] == [o == "contributed" for o in outcomes]
    assert [e["out"] for e in told] == [c["out"] for c in found.summary["coverage"]]
    total = run_coverage(found.summary)
    assert [(s.site, s.asked, s.out) for s in total.sites] == [("beta", 6, outcomes.count("silent"))]
    assert total.asked - total.contributed == outcomes.count("silent")
    assert {label.split("_")[0] for label in (c.label for c in total.classes)} == {
        "setosa",
        "versicolor",
        "virginica",
    }
    for i, covered in enumerate(found.summary["coverage"]):
        before = [n + 1 for n, outcome in enumerate(outcomes[:i]) if outcome == "contributed"]
        assert [one["counts_from"] for one in covered["out"]] in ([], [max(before, default=0)])
    points = found.summary["subtasks"]["iris"]["curve"]
    assert [list(p["without"]) for p in points] == [["beta"] if o == "silent" else [] for o in outcomes]


def test_a_run_that_lacked_nothing(tmp_path: Path) -> None:
    """One line says so."""
    total = run_coverage(run(tables(rounds=2), tmp_path).summary)
    assert total.lines == [
        "Nothing was missing: in each of 2 cohorts, every site that was asked contributed."
    ]


def test_the_status_keeps_the_last_round_that_lacked() -> None:
    """How many rounds lacked somebody, and what the last of them said."""
    made, given = terms(quorum=0.5, rounds=2), dict[str, Any]()
    story = Story(made, joined("east"), joined("west"))
    story.tell(arrived(1, "east"), passed(6))
    note(given, announced(said(story, made)))
    story.tell(evaluated(7), arrived(8, "east", round_=2), arrived(8, "west", round_=2))
    note(given, announced(said(story, made, 2)))
    kept = given["coverage"]["a"]
    assert (kept["closed"], kept["lacking"], kept["round"]) == (2, 1, 1)
    assert "without west" in kept["text"]
