"""The ServerApp: reads the run config, runs the federation, writes the run's folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from collab.settings import from_run_config
from protocol.errors import ConfigError
from server.federation import Terms, federate
from server.report import write_report

ROOT = Path(__file__).resolve().parent.parent

logger = logging.getLogger(__name__)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the collaboration of the run config; see ``[tool.flwr.app.config]`` for its keys."""
    config = context.run_config
    collaboration = from_run_config(config, ROOT)
    clock = str(config.get("clock", "simulated"))
    if clock not in {"simulated", "wall"}:
        raise ConfigError(f"run config: clock is '{clock}'; it can be 'simulated' or 'wall'")
    run = str(config.get("run") or f"{collaboration.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    folder = Path(str(config.get("out", "runs"))) / run
    terms = Terms(
        run=run,
        folder=folder,
        clock="wall" if clock == "wall" else "simulated",
        engine=str(config.get("engine", "flower")),
        baselines=bool(config.get("baselines", False)),
    )
    summary = federate(grid, collaboration, terms, lambda event: logger.info("%s", dict(event)))
    write_report(summary, folder / "report.html")
    logger.info("run %s: %s; report: %s", run, summary["ended"], folder / "report.html")
