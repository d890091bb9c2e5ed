"""Stock Flower under kills: what counts as what, and when a fault strikes; no process is started here."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from simulations.benchmarks.stock_kills import KINDS, SEED, TRIALS
from simulations.benchmarks.stock_kills_found import STALL_S, Trace, found, short_rounds
from simulations.benchmarks.stock_kills_tables import reference, sentence, shown
from simulations.benchmarks.stock_kills_trial import FIRST, LAST, NODES, come, drawn

_INFO = "\x1b[92mINFO \x1b[0m:      "
_WHOLE = """
[ROUND 1/2]
configure_train: Sampled 3 nodes (out of 3)
aggregate_train: Received 3 results and 0 failures
configure_evaluate: Sampled 3 nodes (out of 3)
aggregate_evaluate: Received 3 results and 0 failures
"""
_SHORT = """
[ROUND 2/2]
configure_train: Sampled 3 nodes (out of 3)
aggregate_train: Received 2 results and 1 failures
\t> Received error in reply from node 7: Error: Node Unavailable
configure_evaluate: Sampled 2 nodes (out of 2)
aggregate_evaluate: Received 2 results and 0 failures
"""


def _log(text: str) -> str:
    return "\n".join(_INFO + line for line in text.strip().splitlines())


def _line(round_: int, at: float, *, done: bool = False) -> dict[str, Any]:
    return {"round": round_, "at": at, "model": f"m{round_}", "done": done}


_TRACE = Trace(
    begun=100.0,
    ended=140.0,
    struck_at=0.0,
    progress=[_line(0, 105.0), _line(1, 120.0), _line(2, 135.0), _line(2, 135.1, done=True)],
    work=[{"node": 0, "round": 1, "phase": phase, "at": 110.0} for phase in ("begun", "done", "begun")],
    log=_log(_WHOLE),
    status="finished:completed",
    details="N/A",
)


def test_a_whole_run() -> None:
    """All rounds, all answers; begun and done trainings are counted apart."""
    row = found(_TRACE, 3, 2)
    assert (row["outcome"], row["rounds_done"], row["begun"], row["trained"]) == ("completed", 2, 2, 1)
    assert (row["took_s"], row["model"], row["struck_s"], row["next_round_s"]) == (35.0, "m2", None, None)


def test_a_short_run() -> None:
    """The strategy went on with two of three, once with a failure and once because it asked only two."""
    row = found(replace(_TRACE, log=_log(_WHOLE + _SHORT), struck_at=121.0), 3, 2)
    assert row["outcome"] == "completed, short"
    assert row["next_round_s"] == 14.0
    assert [(one["phase"], one["sampled"], one["failures"]) for one in row["short"]] == [
        ("train", 3, 1),
        ("evaluate", 2, 0),
    ]
    assert row["short"][0]["why"] == ["Error: Node Unavailable"]


def test_a_failed_run() -> None:
    """Its rounds are lost, for Flower begins again from the first."""
    row = found(replace(_TRACE, status="finished:failed", progress=_TRACE.progress[:2]), 3, 2)
    assert (row["outcome"], row["rounds_lost"], row["model"]) == ("failed", 1, None)


@pytest.mark.parametrize(("waited", "outcome"), [(STALL_S - 1, "still running"), (STALL_S, "hangs")])
def test_a_run_that_has_not_ended(waited: float, outcome: str) -> None:
    """Whether it hangs is a matter of when a round last ended."""
    trace = replace(_TRACE, status="running", progress=_TRACE.progress[:2], ended=120.0 + waited)
    assert found(trace, 3, 2)["outcome"] == outcome


def test_no_log_says_nothing() -> None:
    """Where the SuperLink does not answer, no round is called short."""
    assert short_rounds("", 3) == []


def test_moments_are_drawn_anew_for_each_trial() -> None:
    """The same seed gives the same plan; no two trials share one."""
    plans = [drawn(SEED, kind, number) for kind in range(len(KINDS)) for number in range(TRIALS)]
    assert plans[0] == drawn(SEED, 0, 0)
    assert len(set(plans)) == len(plans)
    assert all(FIRST <= plan.moment <= LAST and plan.node in range(NODES) for plan in plans)


def test_a_moment_comes_after_its_round() -> None:
    """1.5 is half the time that round 1 took after its end."""
    now = time.time()
    assert not come([_line(0, now - 20)], 1.5)
    assert not come([_line(0, now - 20), _line(1, now)], 1.5)
    assert come([_line(0, now - 30), _line(1, now - 10)], 1.5)


def test_the_table_and_its_sentences() -> None:
    """A row a kind; the undisturbed model is the reference only if all undisturbed runs agree on it."""
    plain = found(_TRACE, 3, 2) | {
        "kind": "undisturbed",
        "trial": 1,
        "node_back_s": None,
        "link_back_s": None,
        "node_starts": {},
    }
    killed = found(replace(_TRACE, log=_log(_SHORT), struck_at=121.0), 3, 2)
    killed |= {
        "kind": "killed",
        "trial": 1,
        "node_back_s": 12.4,
        "link_back_s": None,
        "node_starts": {"2": 2},
        "model": "other",
    }
    assert reference([plain, killed]) == "m2"
    assert reference([plain, plain | {"model": "m3"}]) is None
    text = shown([killed, plain], ["undisturbed", "killed"], 6)
    assert (
        "| undisturbed | completed 1x | finished:completed 1x | 2 | 0 | - | - | - | 1 of 6 | 1 of 1 |" in text
    )
    assert (
        "| killed | completed, short 1x | finished:completed 1x | 2 | 2 (1 said) | 14 s | - | 12 s |" in text
    )
    assert "in round 2 3 nodes were asked to train, with 2 results and 1 failures" in sentence(killed, "m2")


def test_a_failed_run_says_how_long_flower_took_to_see_it() -> None:
    """Its sentence gives Flower's own reason and the rounds that are gone."""
    trace = replace(
        _TRACE,
        status="finished:failed",
        details="No heartbeat",
        struck_at=125.0,
        progress=_TRACE.progress[:2],
    )
    row = found(trace, 3, 2) | {"node_starts": {}, "link_back_s": None}
    assert 'seen as finished:failed after 15 s, "No heartbeat", 1 rounds lost' in sentence(row, None)
