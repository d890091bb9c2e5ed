"""Flower and Ray keep to themselves."""

from __future__ import annotations

import os

import pytest

from server.environment import be_quiet, quiet_environment


def test_being_quiet_sets_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """After be_quiet the environment holds all that quiet_environment names."""
    for name in quiet_environment():
        monkeypatch.setenv(name, "to be removed")  # so that monkeypatch restores it
        monkeypatch.delenv(name)
    be_quiet()
    assert quiet_environment().items() <= os.environ.items()


def test_the_users_own_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that the user has set is not overwritten."""
    monkeypatch.setenv("GRPC_VERBOSITY", "debug")
    be_quiet()
    assert os.environ["GRPC_VERBOSITY"] == "debug"
