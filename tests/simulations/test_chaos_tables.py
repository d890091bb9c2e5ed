"""The tables say what came of all trials; no failure is left out."""

from __future__ import annotations

import json

from simulations.chaos.real import Calm, Result
from simulations.chaos.sites_lost import Lost
from simulations.chaos.tables import as_json, combined, markdown, passed, quantile

CALM = Calm(12.0, {"final": "0"}, 18)


def _result(number: int, **changes: object) -> Result:
    result = Result(number, 7, "single: link", "single", ("link",), 0.5, "run", 1, "finished", bit_equal=True)
    result.recover_s, result.repeated, result.most_serves = float(number), 1, 1
    for name, value in changes.items():
        setattr(result, name, value)
    return result


def test_all_passed() -> None:
    """The bound is three over the number of trials; median and p99 are values that were measured."""
    results = [_result(n) for n in range(1, 55)]
    text = markdown(CALM, results, [])
    assert "| link | 54 | 54 | 54 | 54 trainings, 1 at most | 27.0 s | 54.0 s |" in text
    assert "3/54 = 5.6%" in text
    assert passed(results, [])
    assert as_json(CALM, results, [], 7)["failure_bound_95"] == 3 / 54


def test_a_failure_is_listed_and_nothing_is_claimed() -> None:
    """One trial or one case that failed breaks the rule, and is named with its seed and what happened."""
    results = [_result(1), _result(2, state="failed", bit_equal=False, why="the run ended as failed\nlogs")]
    lost = Lost("real", 3, 1, 8, ["site-1"], 0.5, why="coverage is 1")
    text = markdown(CALM, results, [lost])
    assert "- trial 2 (seed 7, single: link, run run): the run ended as failed" in text
    assert "- 1 of 3 lost, real (seed 8, run ): coverage is 1" in text
    assert "confidence" not in text
    assert not passed(results, [])
    assert not passed([results[0]], [lost])
    found = as_json(CALM, results, [lost], 7)
    assert len(found["failures"]) == 2
    assert found["failure_bound_95"] is None
    assert found["failures"][0]["why"].endswith("logs")


def test_nothing_tried_is_nothing_passed() -> None:
    """Without any trial the rule is not kept."""
    assert not passed([], [])


def test_quantiles() -> None:
    """The smallest value that so many do not exceed."""
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3
    assert quantile([5.0], 0.5) == 5


def test_parts_that_were_carried_out_apart_are_shown_together() -> None:
    """In the order of their numbers, with the same words as if they had been one."""
    results = [_result(n) for n in range(1, 5)]
    losses = [Lost("real", 3, 1, 8, ["site-1"], 0.5)]
    first, second = as_json(CALM, results[1:], losses, 0), as_json(CALM, results[:1], [], 0)
    found = combined([json.loads(json.dumps(one)) for one in (first, second)])
    assert markdown(*found) == markdown(CALM, results, losses)
