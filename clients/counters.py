"""What a resident process counts: how often it loaded, measured and built, and what it has loaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass
class Counters:
    """How often something was made, and how often it was there already (``hits``)."""

    site_loads: int = 0
    data_loads: int = 0
    speed_measurements: int = 0
    tensor_builds: int = 0
    hits: int = 0


@dataclass(frozen=True)
class ProcessCounters:
    """What the process has loaded that takes long, or much memory."""

    torch_imported: bool
    cuda_initialised: bool


def process_counters() -> ProcessCounters:
    """Return what this process has loaded; asking loads nothing."""
    torch = sys.modules.get("torch")
    return ProcessCounters(torch is not None, torch is not None and torch.cuda.is_initialized())
