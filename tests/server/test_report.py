"""The HTML report: complete, offline, and safe whatever the run's names are."""

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.report import render, write_report

OUTCOMES = ("contributed", "late", "rejected", "lost", "silent")
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\x1b[31m\u202e'
VOID = {"meta", "img", "br", "link", "input"}


def subtask(sites: list[str], rounds: int, metric: str = "log_loss") -> dict[str, Any]:
    """Return a subtask's part of a summary: better for all sites but the last, which lost."""
    gains: dict[str, Any] = {
        s: {"own": 0.09, "alone": 0.12, "pooled": 0.07, "standard_error": 0.01} for s in sites
    }
    gains[sites[-1]] = {"own": 0.14, "alone": 0.12, "pooled": None, "standard_error": None}
    return {
        "kind": "tabular_classification",
        "metric": metric,
        "exchange": "weights",
        "target": 0.1,
        "collaboration": {"global": 0.08, "own": 0.09},
        "collaboration_metrics": {"global": {"accuracy": 0.97, metric: 0.08}, "own": {"accuracy": 0.96}},
        "fusion": {"rule": "least_squares", "weights": {"final": 0.7, sites[0]: 0.3}, "global": 0.075},
        "baselines": {
            "local_mean": {"global": 0.2, "own": 0.12},
            "local": {s: {"global": 0.2, "own": 0.12} for s in sites},
            "pooled": {"global": 0.07, "own": 0.08},
            "fedavg_smallest": {"global": 0.15, "own": 0.13},
        },
        "gains": gains,
        "models": dict.fromkeys(sites, "mlp_small"),
        "rounds_to_target": 5,
        "seconds_to_target": 31.2,
        "student": {"accepted": True, "temperature": "0.5", "round": rounds},
        "curve": [
            {"round": r, "simulated_s": 3.1 * r, "bytes": 120_000 * r, "value": 0.4 / r, "metrics": {}}
            for r in range(1, rounds + 1)
        ],
    }


def sample(sites: list[str] | None = None, rounds: int = 4, name: str = "tumour") -> dict[str, Any]:
    """Return a whole summary of one subtask, every site asked in every round."""
    sites = sites or ["north", "south", "edge"]
    asked = [(r, i, s) for r in range(1, rounds + 1) for i, s in enumerate(sites)]
    return {
        "schema": 1,
        "run_id": "clinic-20261123-210000",
        "name": "clinic",
        "engine": "local",
        "seed": 7,
        "rounds": rounds,
        "device": "cpu",
        "versions": {"consilium": "0.1.0", "flwr": "1.41.0"},
        "subtasks": {name: subtask(sites, rounds)},
        "sites": {
            s: {"assignments": 9, "bytes_up": 1500, "bytes_down": 2500, "simulated_s": 30.1, "metrics": {}}
            for s in sites
        },
        "totals": {"bytes": 4000, "bytes_up": 1500, "bytes_down": 2500, "simulated_s": 300.0, "wall_s": 40.0},
        "allocations": [
            {
                "round": r,
                "attempt": 1,
                "site": s,
                "subtask": name,
                "score": 0.4,
                "reason": "highest expected gain",
                "outcome": OUTCOMES[(r + i) % 5],
                "detail": "",
                "seconds": 2.1,
            }
            for r, i, s in asked
        ],
        "coverage": [
            {"round": r, "subtask": name, "asked": 3, "contributed": 2, "examples_share": 0.6}
            for r in range(1, rounds + 1)
        ],
        "notes": ["edge trained the small model."],
    }


class Page(HTMLParser):
    """The page's elements, attributes and text; fails on a tag that is closed in the wrong place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that opens."""
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element of a drawing that is empty."""
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        """Check that an element closes where it may."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.words += data


def assert_harmless(page: Page) -> None:
    """Check that nothing on the page runs, loads or leaves."""
    assert not {"script", "img", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "xlink:href"))


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """The page names no address, runs no script, and forbids both by its own policy."""
    html = render(sample())
    assert_harmless(Page(html))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    assert not re.search(r"https?:|@import|url\(", html)


def test_hostile_names_stay_text() -> None:
    """Markup, template syntax and control characters in any text of the run are shown, never obeyed."""
    summary = sample(sites=["north", HOSTILE], name=HOSTILE)
    summary.update(name=HOSTILE, run_id=HOSTILE, notes=[HOSTILE], versions={HOSTILE: HOSTILE}, device=HOSTILE)
    summary["allocations"] = [{**one, "reason": HOSTILE, "detail": HOSTILE} for one in summary["allocations"]]
    summary["subtasks"][HOSTILE].update(kind=HOSTILE, student={"temperature": HOSTILE, "round": HOSTILE})
    html = render(summary)
    page = Page(html)
    assert_harmless(page)
    assert "<script>alert(1)</script>" in page.words
    assert "{{ 7*7 }}" in page.words
    assert not {"\x1b", "\u202e"} & set(html)


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 40), st.integers(0, 100))
def test_every_assignment_has_its_box(sites: int, rounds: int) -> None:
    """From one site and no round to forty and a hundred, the page is whole and draws each assignment once."""
    summary = sample(sites=[f"site-{i}" for i in range(sites)], rounds=rounds)
    html = render(summary)
    Page(html)
    assert len(re.findall(r"<title>Round \d+: site", html)) == sites * rounds
    assert not re.search(r"\b(nan|inf|None)\b", html)


def test_a_loss_is_said_as_plainly_as_a_gain() -> None:
    """The site that lost is named at the top, and its row says worse in words."""
    words = Page(render(sample())).words
    assert "Worse off than alone: edge on tumour." in words
    assert "worse by 0.0200" in words
    assert "better by 0.030 ± 0.010" in words


@pytest.mark.parametrize(
    ("collaboration", "title"),
    [
        ({"global": 0.08, "own": 0.09}, "Yes"),
        ({"global": 0.3, "own": 0.3}, "No"),
        ({"global": 0.3, "own": 0.09}, "Not clearly"),
        ({"global": 0.2, "own": 0.12}, "Not clearly"),
        (None, "No result"),
    ],
)
def test_the_title_answers_the_question(collaboration: dict[str, float] | None, title: str) -> None:
    """The title says yes only where nothing is worse than alone and something better."""
    summary = sample()
    summary["subtasks"]["tumour"]["collaboration"] = collaboration
    assert f"<h1>{title}</h1>" in render(summary)


def test_without_baselines_nothing_is_claimed() -> None:
    """A run without baselines and gains says that it cannot tell."""
    summary = sample()
    summary["subtasks"]["tumour"].update(baselines=None, gains={})
    page = Page(render(summary))
    assert "Not known: no baselines to compare with" in page.words
    assert not re.search(r"(better|worse) by", page.words)


def test_a_run_cut_off_has_open_assignments() -> None:
    """An assignment without an answer, and a student that was never accepted, are ordinary."""
    summary = sample(rounds=1)
    summary["allocations"][0].update(outcome="asked", seconds=None, detail=None, reason=None, score=None)
    summary["subtasks"]["tumour"]["student"] = {"accepted": False, "temperature": None, "round": None}
    assert "No student was accepted." in (words := Page(render(summary)).words)
    assert not re.search(r"\bNone\b", words)


@pytest.mark.parametrize("key", ["target", "fusion", "gains", "student", "models", "baselines", "curve"])
def test_a_subtask_may_lack_a_part(key: str) -> None:
    """Each optional part of a subtask may be null or absent, and the page is still whole."""
    summary = sample()
    summary["subtasks"]["tumour"][key] = None
    Page(render(summary))
    del summary["subtasks"]["tumour"][key]
    Page(render(summary))


def test_a_run_in_which_nothing_happened() -> None:
    """Empty allocations, coverage, sites and a subtask that never aggregated are said in words."""
    summary = sample()
    summary.update(allocations=[], coverage=[], sites={}, notes=[])
    bare = {"kind": "tabular_regression", "metric": "rmse", "exchange": "weights", "target": None}
    summary["subtasks"] = {"tumour": {**bare, "collaboration": None, "curve": []}}
    words = Page(render(summary)).words
    for said in ("No result", "Never aggregated", "No site was asked", "No round was closed"):
        assert said in words


def test_the_page_says_who_was_out() -> None:
    """Sites that were out, why, the classes that thinned and the figures without their rows."""
    summary = sample(rounds=1)
    out = {"site": "edge", "why": "silent", "detail": HOSTILE, "examples": 40, "handed_on_to": "south"}
    covered = {
        "in": ["north", "south"],
        "out": [out],
        "classes_missing": {"tumour": {"benign": 0.4, "x": None}},
    }
    asked = {"not_asked": {"quarantined": {"sites": 2, "named": ["poor"]}}, "ended": "merged"}
    summary["coverage"][0] |= covered | asked
    summary["subtasks"]["tumour"]["curve"][0]["without"] = ["edge"]
    page = Page(render(summary))
    assert_harmless(page)
    for said in (
        "Something was missing in 1 of 1 cohort: 2 of 3 assignments came in",
        "1 × silent, handed on",
        "handed on to south",
        "benign 40 %, x not known",
        "poor and 1 more: in quarantine",
        "1 validation figure without the rows of some sites",
    ):
        assert said in page.words


def test_the_page_is_a_function_of_the_summary(tmp_path: Path) -> None:
    """Writing twice gives the same bytes, leaves one file, and does not touch the summary."""
    summary = sample()
    before = copy.deepcopy(summary)
    write_report(summary, tmp_path / "report.html")
    first = (tmp_path / "report.html").read_bytes()
    write_report(summary, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == first == render(before).encode()
    assert summary == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_numbers_that_are_not_finite_are_missing() -> None:
    """NaN and infinity, from wherever they come, are drawn nowhere and written as missing."""
    summary = sample()
    one = summary["subtasks"]["tumour"]
    one["collaboration"] = {"global": float("nan"), "own": float("inf")}
    one["gains"]["north"] = dict.fromkeys(("own", "alone", "standard_error"), float("nan"))
    one["curve"][0]["value"] = float("nan")
    one["fusion"]["weights"]["final"] = float("nan")
    assert not re.search(r"\b(nan|inf)\b", render(summary))
