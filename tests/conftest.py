"""What all tests share: one torch thread, and one real federation for those that need one.

More torch threads than one, which a site's worker has, only fight over small arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from simulations.deployed import Deployed

# Read once, when torch is first imported; processes that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Return a server and the three hospitals of ``tests.deployment_cases``, one a test process."""
    from simulations.deployed import deployed
    from tests.deployment_cases import site_tables

    with deployed(tmp_path_factory.mktemp("federation"), site_tables()) as at:
        yield at
