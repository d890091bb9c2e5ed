"""The short form of chaos: processes of a real federation are killed, and its runs end with the same bits."""

from __future__ import annotations

import pytest

from simulations.chaos.plan import short_form
from simulations.chaos.real import Arena
from simulations.deployed import Deployed
from tests.deployment_cases import SITES, heart_terms


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_runs_end_with_the_same_bits_whatever_is_killed(federation: Deployed) -> None:
    """A supervisor, a run's process twice, two processes at once, a link that stands still for a while."""
    arena = Arena(federation, heart_terms(rounds=3, local_epochs=30), SITES, "short")
    calm = arena.undisturbed()
    assert calm.trainings == 3 * len(SITES)
    for trial in short_form(0, len(SITES)):
        result = arena.carry_out(trial)
        assert result.passed, result.why
        assert result.recover_s is not None
