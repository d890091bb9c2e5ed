"""The states of assignments are a view of a journal's rows, and ``consilium audit`` shows them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.errors import DataError
from server.audit import audit
from server.journal.states import standings
from server.journal.store import Row
from server.runlog import rows
from tests.command import command
from tests.fault_cases import app_with, fails
from tests.small import NAMES, run, sites, tables


def _rows(folder: Path) -> list[Row]:
    return list(rows(folder))


def test_every_contribution_of_a_run_is_committed(tmp_path: Path) -> None:
    """With the digest of its arrays, its size and its rows."""
    found = run(tables(rounds=2), tmp_path)
    view = standings(_rows(found.folder), "r")
    assert list(view) == [f"r/{n}/iris/{site}/1" for n in (1, 2) for site in NAMES]
    assert {one.state for one in view.values()} == {"COMMITTED"}
    assert all(len(one.digest) == 64 and one.size > 0 and one.num_examples > 0 for one in view.values())


def test_states_follow_one_after_the_other(tmp_path: Path) -> None:
    """Row by row, no assignment goes back, and none leaves a step out."""
    found = run(tables(rounds=2), tmp_path)
    everything = _rows(found.folder)
    order = ["ASSIGNED", "RECEIVED", "VALIDATED", "AGGREGATED", "COMMITTED"]
    seen: dict[str, list[str]] = {}
    for count in range(len(everything) + 1):
        for key, one in standings(everything[:count], "r").items():
            states = seen.setdefault(key, [])
            if states[-1:] != [one.state]:
                states.append(one.state)
    assert seen
    assert all(states == order for states in seen.values())


def test_what_failed_and_what_was_late(tmp_path: Path) -> None:
    """Rejected with its code, discarded as late, or assigned for ever."""
    failed = run(tables(), tmp_path / "f", app=app_with(fails, "train.weights"))
    view = standings(_rows(failed.folder), "r")
    assert view["r/1/iris/beta/1"].state == "REJECTED"
    assert view["r/1/iris/beta/1"].why.startswith("protocol: ")
    made = tables(rounds=3, sites=sites(beta={"latency_s": 6}))
    made["coordination"] |= {"deadline_s": 10}
    late = standings(_rows(run(made, tmp_path / "l").folder), "r")
    states = Counter(one.state for key, one in late.items() if "/beta/" in key)
    assert states["DISCARDED"] == 2
    assert states["ASSIGNED"] + states["RECEIVED"] == 1  # the last one: the run was over before it came
    assert {one.why for one in late.values() if one.state == "DISCARDED"} == {"late"}


def test_nothing_is_merged_twice(tmp_path: Path) -> None:
    """A journal that says so is none of ours: the row is named."""
    everything = _rows(run(tables(), tmp_path).folder)
    merged = next(row for row in everything if row.kind == "aggregated")
    with pytest.raises(DataError, match=rf"row {merged.number} of the journal makes r/1/iris/alpha/1 AGGREG"):
        standings([*everything, merged], "r")
    never = replace(merged, body={"assignments": ["r/9/iris/alpha/1"]})
    with pytest.raises(DataError, match="which was not assigned"):
        standings([*everything, never], "r")
    cut = [row for row in everything if row.kind != "judged"]
    with pytest.raises(DataError, match="which was RECEIVED"):
        standings(cut, "r")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says whether the journal is whole, and shows each assignment; in words and as JSON."""
    consilium = command(monkeypatch, capsys)
    found = run(tables(rounds=2), tmp_path)
    said = consilium("audit", found.folder)
    assert said.code == 0
    assert "each the one that was written; it has ended: all 2 rounds" in " ".join(said.out.split())
    assert said.out.count("COMMITTED") == 6
    told = json.loads(consilium("audit", found.folder, "--json").out)
    assert told["standings"]["r/1/iris/alpha/1"]["state"] == "COMMITTED"
    assert told["head"] == audit(found.folder).head == _rows(found.folder)[-1].chain.hex()
    assert [one["lease"] for one in told["processes"]] == [1]
    assert consilium("audit", tmp_path).code == 2
