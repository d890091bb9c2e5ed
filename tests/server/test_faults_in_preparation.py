"""Before the first round, what cannot be used is left out by name, and the others go on as without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import RunError
from protocol.messages import Capability, DataSummary, Trial
from tests.fault_cases import Fault, app_with, assert_as_without, fails, refuses, retold, says, unreadable
from tests.small import WEIGHTS, Named, Small, Tables, run, tables

Fields = dict[str, Any]


def _columns(change: Callable[[Fields], None]) -> Fault:
    """Change the column statistics of a summary."""

    def changed(told: DataSummary, arrays: Named) -> tuple[DataSummary, Named]:
        statistics = json.loads(told.statistics)
        change(statistics)
        return told.model_copy(update={"statistics": json.dumps(statistics)}), arrays

    return retold(changed, DataSummary)


def _numbers(key: str, value: float) -> Fault:
    return _columns(lambda s: s["numeric"][key].__setitem__(0, value))


def _other_columns(statistics: Fields) -> None:
    statistics["numeric_names"][0] = "blood_group"


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Small]:
    """The runs in which a site refuses to tell its statistics."""
    folder = tmp_path_factory.mktemp("without")
    return {
        site: run(tables(), folder / site, app=app_with(refuses, "query.summary", site))
        for site in ("alpha", "gamma")
    }


SUMMARIES = {
    "other columns": _columns(_other_columns),
    "a column twice": _columns(lambda s: s["numeric_names"].__setitem__(0, s["numeric_names"][1])),
    "a column less": _columns(lambda s: s["numeric_names"].pop()),
    "a mean that overflows": _numbers("mean", 1e300),
    "a spread that overflows": _numbers("m2", 1e308),
    "negative spread": _numbers("m2", -1.0),
    "more cells than rows": _numbers("count", 10**6),
    "no statistics": says(DataSummary, statistics="{"),
    "too many classes": says(DataSummary, class_counts=(1.0,) * 4),
    "no class counts": says(DataSummary, class_counts=()),
    "no rows": says(DataSummary, train=0),
    "another site": says(DataSummary, site="beta"),
    "unreadable": unreadable,
    "dead": fails,
}


@pytest.mark.parametrize(
    ("what", "site"), [*((what, "alpha") for what in sorted(SUMMARIES)), ("other columns", "gamma")]
)
def test_bad_statistics_shut_out_their_site_alone(
    what: str, site: str, without: Mapping[str, Small], tmp_path: Path
) -> None:
    """Whether first or last by name, a site whose statistics cannot be merged is the one that is left out."""
    found = run(tables(), tmp_path, app=app_with(SUMMARIES[what], "query.summary", site))
    assert_as_without(found, without[site], site)
    assert site not in found.summary["subtasks"]["iris"]["models"]


def test_a_trial_of_other_models_has_no_say(tmp_path: Path) -> None:
    """The model is chosen by the sites that tried the models that were asked for."""
    made: Tables = tables({"iris": {**WEIGHTS, "models": ["linear", "mlp_small"], "select": "validation"}})
    fault = says(Trial, loss_sums={"linear": 0.0})
    found = run(made, tmp_path, app=app_with(fault, "query.trial", "alpha"))
    without = run(made, tmp_path / "w", app=app_with(refuses, "query.trial", "alpha"))
    assert found.models() == without.models()
    assert found.notes == "alpha: no trial of iris: the trial is of other models"


CAPABILITIES = {
    "no speed": (says(Capability, examples_per_s=0.0), "no speed"),
    "no bandwidth": (says(Capability, bandwidth_mbit=0.0), "no bandwidth"),
    "a site that nobody knows": (says(Capability, site="ghost"), "none of the collaboration's sites"),
    "another's name": (says(Capability, site="alpha"), "a second node of that name"),
    "unreadable": (unreadable, "not a Consilium message"),
    "a refusal": (refuses, "policy: not today"),
}


@pytest.mark.parametrize("what", sorted(CAPABILITIES))
def test_a_node_that_cannot_join_is_named_when_it_is_missed(what: str, tmp_path: Path) -> None:
    """Where all sites are needed and one says nonsense at the door, the run ends at once and says why."""
    fault, why = CAPABILITIES[what]
    made = tables(coordination={"join_s": 3600})
    with pytest.raises(RunError, match=rf"2 of 3 sites joined: .*{why}"):
        run(made, tmp_path, app=app_with(fault, "query.capability"))


def test_a_site_that_hardly_moves_may_join(tmp_path: Path) -> None:
    """A speed next to nothing gives a long time and no infinity."""
    fault = says(Capability, examples_per_s=5e-324, bandwidth_mbit=5e-324)
    assert run(tables(), tmp_path, app=app_with(fault, "query.capability")).outcomes("beta") == [
        "contributed"
    ]
