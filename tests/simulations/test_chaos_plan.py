"""What is killed and when follows from the seed alone, and covers what was promised."""

from __future__ import annotations

from collections import Counter

import pytest

from simulations.chaos.plan import (
    AT_SITES,
    EACH,
    KINDS,
    MODULES,
    RESUME_S,
    STOP_S,
    failure_bound,
    long_form,
    short_form,
)

SITES = 3


def test_the_long_form_covers_every_kind_in_every_form() -> None:
    """Six single kills of each kind, and each kind once in each other form."""
    trials = long_form(0, SITES)
    assert Counter((t.form, t.targets[0].kind) for t in trials) == {
        **{("single", kind): EACH for kind in KINDS},
        **{(form, kind): 1 for form in ("resume", "double", "stop") for kind in KINDS},
    }
    assert [t.number for t in trials] == list(range(1, 55))
    assert set(MODULES) == set(KINDS)


@pytest.mark.parametrize("form", [long_form, short_form])
def test_trials_are_a_function_of_the_seed(form: object) -> None:
    """The same seed gives the same trials, another one other moments."""
    assert callable(form)
    assert form(4, SITES) == form(4, SITES)
    assert [t.at for t in form(4, SITES)] != [t.at for t in form(5, SITES)]


@pytest.mark.parametrize("seed", range(20))
def test_every_trial_can_be_carried_out(seed: int) -> None:
    """Moments lie in the run, site processes have a site, and what is killed twice waits in between."""
    for trial in (*long_form(seed, SITES), *short_form(seed, SITES)):
        assert 0 <= trial.at < 1
        assert len(trial.targets) == (2 if trial.form == "double" else 1)
        assert len({t.kind for t in trial.targets}) == len(trial.targets)
        assert (0.1 <= trial.gap_s < RESUME_S) is (trial.form == "resume")
        assert (trial.stop_s > 0) is (trial.form == "stop")
        for target in trial.targets:
            assert (target.kind in AT_SITES) is (target.site is not None)
            assert target.site is None or 0 <= target.site < SITES


def test_moments_are_spread_over_the_run() -> None:
    """Of many trials about as many strike in each quarter of the run, and at each site."""
    trials = [t for seed in range(40) for t in long_form(seed, SITES)]
    quarters = Counter(int(4 * t.at) for t in trials)
    sites = Counter(t.targets[0].site for t in trials if t.targets[0].site is not None)
    for counts in (quarters, sites):
        share = sum(counts.values()) / len(counts)
        assert all(0.8 * share < count < 1.2 * share for count in counts.values())


def test_the_short_form_waits_for_nothing_long() -> None:
    """One trial of each form, none of which stops a process for as long as the long form does."""
    trials = short_form(0, SITES)
    assert {t.form for t in trials} == {"single", "resume", "double", "stop"}
    assert len(trials) == 4
    assert max(t.stop_s for t in trials) < 10
    assert max(t.stop_s for t in long_form(0, SITES)) == STOP_S


def test_the_bound_of_no_failures() -> None:
    """Three over N, which is never below the exact bound; nothing tried bounds nothing."""
    assert failure_bound(0) == 1
    for n in (3, 54, 1000):
        assert failure_bound(n) == 3 / n
        assert failure_bound(n) > 1 - 0.05 ** (1 / n)
