"""A fleet: many simulated sites, written out as if a person had typed them."""

from __future__ import annotations

import statistics

import pytest

from collab.settings import expand_fleet
from protocol.errors import ConfigError
from tests.collab.terms_cases import changed

FLEET = "fleet={count = 12, speeds = 'lognormal:0.6', memory_mib = [128, 4096], subtasks_per_site = [1, 2]}"


def test_a_fleet_becomes_sites() -> None:
    """As many sites as counted, with names that sort, beside those that were written out."""
    case = changed(FLEET)
    assert case.fleet is None
    assert set(case.sites) == {"north", "south", *(f"site-{i:02}" for i in range(1, 13))}
    assert case.sites["north"] == changed().sites["north"]


def test_a_fleet_stays_within_its_words() -> None:
    """Memories are of the list, subtasks as many as said and each once, and all that is possible occurs."""
    sites = [site for name, site in changed(FLEET).sites.items() if name.startswith("site-")]
    assert {site.memory_mib for site in sites} == {128, 4096}
    chosen = [site.subtasks or () for site in sites]
    assert all(list(s) == sorted(set(s)) for s in chosen)
    assert {len(s) for s in chosen} == {1, 2}
    assert {name for s in chosen for name in s} == {"tumour", "digits"}


def test_a_fleet_is_derived_from_the_seed() -> None:
    """The same seed gives the same sites, and another seed others."""
    assert changed(FLEET) == changed(FLEET)
    assert changed(FLEET, "seed=1").sites != changed(FLEET, "seed=2").sites


def test_speeds_lie_around_a_thousand() -> None:
    """The median of a log-normal fleet is 1,000 examples a second; without spread all have it."""
    wide = "fleet={count = 400, speeds = 'lognormal:0.6', memory_mib = [512]}"
    speeds = [s.examples_per_s for n, s in changed(wide).sites.items() if n.startswith("site-")]
    assert 850 < statistics.median(speeds) < 1150  # 0.6 * 1.25 / sqrt(400) = 4 % a standard error
    flat = changed("fleet={count = 3}").sites
    assert [flat[f"site-{i}"].examples_per_s for i in (1, 2, 3)] == [1000.0] * 3


def test_a_fleet_alone_is_a_scenario() -> None:
    """A file with a fleet needs no site of its own, and is checked like one that has."""
    assert changed("sites={}", "fleet={count = 2}").is_scenario
    with pytest.raises(ConfigError, match="min_sites = 3, but 2"):
        changed("sites={}", "fleet={count = 2}", "subtasks.digits.min_sites=3")


def test_without_a_fleet_nothing_changes() -> None:
    """Expanding is for those who have one."""
    assert expand_fleet(changed()) == changed()


@pytest.mark.parametrize(
    ("fleet", "says"),
    [
        ("{count = 0}", "fleet.count"),
        ("{count = 2, speeds = 'fast'}", "fleet.speeds"),
        ("{count = 2, speeds = 'lognormal:-1'}", "fleet.speeds"),
        ("{count = 2, speeds = 'lognormal:30'}", "fleet.speeds: SIGMA is at most 3, found 30"),
        ("{count = 2, memory_mib = []}", "fleet.memory_mib"),
        ("{count = 2, subtasks_per_site = [0, 1]}", "fleet.subtasks_per_site: between 1 and 2"),
        ("{count = 2, subtasks_per_site = [2, 1]}", "fleet.subtasks_per_site"),
        ("{count = 2, subtasks_per_site = [1, 3]}", "fleet.subtasks_per_site"),
    ],
)
def test_an_impossible_fleet_is_refused(fleet: str, says: str) -> None:
    """What cannot be drawn from is named by its key."""
    with pytest.raises(ConfigError, match=says):
        changed(f"fleet={fleet}")


def test_the_widest_fleet_is_within_bounds() -> None:
    """The largest spread that is allowed gives speeds that a profile allows, in a large fleet."""
    sites = changed("fleet={count = 3000, speeds = 'lognormal:3', memory_mib = [512]}").sites.values()
    assert all(0 < site.examples_per_s < 1e12 for site in sites)


def test_a_fleet_takes_no_sites_name() -> None:
    """A site that was written out is not silently replaced by one of the fleet."""
    with pytest.raises(ConfigError, match=r"sites.site-1: a site of the fleet has this name"):
        changed("fleet={count = 2}", "sites.site-1.memory_mib=77")
