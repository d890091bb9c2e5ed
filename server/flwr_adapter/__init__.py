"""What the server uses of Flower's internals, in one folder.

Flower promises `flwr.app`, `flwr.serverapp` and `flwr.clientapp`; all else may change with a release.
`tests/server/test_flwr_contract.py` names every internal used here, so an upgrade shows what changed.
`simulation` runs an app on Ray, `link` is the SuperLink's
application, `runtime` what speaks to it: the supervisor and the ServerApp's process.
"""

from server.flwr_adapter.simulation import (
    Run,
    RunConfig,
    is_link_failure,
    simulation_runtime,
    task_identity,
)

__all__ = ["Run", "RunConfig", "is_link_failure", "simulation_runtime", "task_identity"]
