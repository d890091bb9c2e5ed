"""The environment in which Flower and Ray keep to themselves: no telemetry, no look-ups, no installation.

Flower reads some of these when it is first imported, so a program calls `be_quiet` before that.
This file imports neither Flower nor Ray.
"""

from __future__ import annotations

import os

_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # else uv fetches torch anew for every run
    "GRPC_VERBOSITY": "error",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's next default; without it Ray warns of the change
}


def quiet_environment() -> dict[str, str]:
    """The variables that keep Flower and Ray from calling out, for the environment of a process."""
    return dict(_QUIET)


def be_quiet() -> None:
    """Set these variables for this process and its children; what the user set himself stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
