"""Sites that fall silent in mid-round: the round closes with those that are there, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from collab.events import Aggregate, Arrived, Send, TimePassed
from simulations.chaos import lost_local
from simulations.chaos.collaboration import site_names
from simulations.chaos.sites_lost import LOST_ROUND, Case, Closing, bound_s, case, closing, result_of
from simulations.chaos.sites_lost import _faults as faults_of


@pytest.mark.parametrize(("k", "min_coverage"), [(1, 0.5), (3, 0.5), (3, 0.0)])
def test_the_round_closes_without_the_lost(k: int, min_coverage: float, tmp_path: Path) -> None:
    """Four sites, of which one or all but one are lost: it goes on, or stops and names them."""
    lost = case(lost_local.PLACE, site_names(4), k, 1, min_coverage=min_coverage)
    result = lost_local.carry_out(lost, tmp_path)
    assert result.passed, result.why
    assert result.contributed == 4 - k
    assert result.stopped is (k == 3 and min_coverage > 0)


def test_who_is_lost_follows_from_the_seed() -> None:
    """So many of the sites, the same for the same seed; the cases hold one and all but one of each size."""
    names = site_names(10)
    assert case("real", names, 3, 5).lost == case("real", names, 3, 5).lost
    assert case("real", names, 3, 5).lost != case("real", names, 3, 6).lost
    found = {(len(c.sites), len(c.lost)) for c in lost_local.cases(0)}
    assert {(n, k) for n in lost_local.SIZES for k in (1, n - 1)} <= found


def _case(**terms: float) -> Case:
    return Case("real", ("a", "b", "c"), frozenset({"c"}), 0, **terms)


def test_the_bound_is_that_of_quorum_and_deadline() -> None:
    """The grace period begins with the answer that makes the quorum; without one the deadline counts."""
    slack_s = _case().slack_s
    found = Closing(asked=["a", "b", "c"], arrived_s=[11.0, 12.0], opened_s=10.0)
    assert bound_s(_case(), found) == 2 + 3 + slack_s
    assert bound_s(_case(deadline_s=4), found) == 4 + slack_s
    assert bound_s(_case(quorum=1.0), found) == 20 + slack_s


def _entries(given: tuple[str, ...], coverage: float) -> list[tuple[object, list[object]]]:
    def send(site: str, round_: int) -> Send:
        return Send(round=round_, subtask="s", site=site, attempt=1, model="linear", score=0.0, reason="")

    assignments = tuple(f"r/{LOST_ROUND}/s/{site}/1" for site in given)
    arrived = [Arrived(at_s=11, assignment=a, num_examples=9, digest="0" * 64) for a in assignments]
    closes = Aggregate(round=LOST_ROUND, subtask="s", assignments=assignments, coverage=coverage)
    return [
        (TimePassed(at_s=10), [send(site, LOST_ROUND) for site in "abc"]),
        *((event, []) for event in arrived),
        (TimePassed(at_s=14), [closes]),
        (TimePassed(at_s=15), [send(site, LOST_ROUND + 1) for site in "ab"]),
    ]


@pytest.mark.parametrize(
    ("given", "coverage", "says"),
    [
        (("a", "b"), 0.6, ""),
        (("a", "b"), 0.9, "coverage is 0.9, not 0.6"),
        (("a", "b", "c"), 0.6, "contributions of"),
    ],
)
def test_a_wrong_statement_is_seen(given: tuple[str, ...], coverage: float, says: str) -> None:
    """A coverage that is not what the contributions come to, or one of a lost site, is a fault."""
    found = closing(_entries(given, coverage))  # type: ignore[arg-type]
    assert found.asked == ["a", "b", "c"]
    assert found.goes_on
    result = result_of(_case())
    result.expected = 0.6
    faults = faults_of(_case(), found, ["a", "b"], result)
    assert len(faults) == bool(says)
    assert says in "".join(faults)
