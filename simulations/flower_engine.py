"""The `flower` engine: Flower's simulation runtime on a Ray that lives as long as the run.

The only file that knows Ray. It takes seconds to start and milliseconds a message; what it buys is
one process per site at work, on all of a machine's processors and GPUs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from protocol.errors import ConfigError, RunError
from server.environment import be_quiet
from server.flwr_adapter import RunConfig, simulation_runtime
from simulations.descendants import descendants, end

_MIB = 2**20
_END_S = 10.0


@dataclass(frozen=True)
class RayResources:
    """What Ray may take of this machine, and what each site at work takes of that.

    `gpus_per_site` may be a fraction: 0.25 lets four sites share a GPU. At 0 a site sees no GPU.
    """

    cpus: int = 2
    cpus_per_site: int = 1
    gpus_per_site: float = 0.0
    object_store_mib: int = 200

    def __post_init__(self) -> None:
        if not 1 <= self.cpus_per_site <= self.cpus:
            raise ConfigError(
                f"cpus_per_site must be between 1 and cpus = {self.cpus}, not {self.cpus_per_site}"
            )


def run_on_flower(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    num_nodes: int,
    run_config: RunConfig,
    resources: RayResources | None = None,
) -> None:
    """Run an app to its end on Flower's simulation runtime.

    Args:
        server_app: runs in a thread of this process.
        client_app: its functions must be importable, as they run in other processes.
        num_nodes: how many sites; site i finds `partition-id = i` in its node_config.
        run_config: what the server and every site find in `context.run_config`.
        resources: what Ray may take; two processors, if left out.

    Raises:
        ConfigError: Ray is not installed.
        RunError: Ray or Flower's runtime failed.
        BaseException: whatever the ServerApp raised, as it was raised.
    """
    resources = resources or RayResources()
    be_quiet()
    share = {"num_cpus": resources.cpus_per_site, "num_gpus": resources.gpus_per_site}
    with _only_critical("flwr"), _keep_sigterm(), _ray(resources):
        simulation_runtime(
            server_app, client_app, num_nodes=num_nodes, run_config=run_config, client_resources=share
        )


@contextmanager
def _ray(resources: RayResources) -> Iterator[None]:
    """A Ray of our own on loopback, without dashboard; its processes end with the block."""
    try:
        import ray  # noqa: PLC0415  an optional dependency
    except ImportError as error:
        raise ConfigError("the flower engine needs Ray: pip install 'consilium[flower]'") from error
    if ray.is_initialized():
        raise RunError("Ray is already running in this process: end it with ray.shutdown() first")
    before = descendants([os.getpid()])
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    short = "/tmp" if os.name == "posix" else None  # noqa: S108  a socket's path has at most 103 bytes
    with TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True) as folder:
        try:
            ray.init(
                address="local",
                num_cpus=resources.cpus,
                object_store_memory=resources.object_store_mib * _MIB,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
            yield
        finally:
            started = descendants([os.getpid()]) - before
            ray.shutdown()
            end(started, _END_S)  # actors notice only after a while that their Ray is gone


@contextmanager
def _keep_sigterm() -> Iterator[None]:
    """Put the handler of SIGTERM back, as Ray sets its own and leaves it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _only_critical(name: str) -> Iterator[None]:
    """Quieten a logger: what fails at a site comes back as an error reply, and is told there."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
