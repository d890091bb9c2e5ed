"""The process that works on a run: the installed ServerApp over the sites, on Flower's grid.

Started by the supervisor as ``python -m server.serve``; the task's token and all else comes by ``inherit``.
It exits with 0 when the run has ended, 1 or 2 when it cannot go on, 3 when it was stopped; if it dies in any
other way, another is started in its place.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from protocol.children import inherit
from protocol.errors import ConsiliumError, UserError
from server import exit_codes
from server.environment import be_quiet
from server.kit import ServerKit, load_kit, open_roster_book
from server.orders import OrderBook, write_aside

logger = logging.getLogger("consilium.run")
_WRITE_S = 0.5
_KEPT_EVENTS = 200
# What another process may do better: the disk was full, or another one had taken over.
_AGAIN = {"journal", "fenced"}
# A site that holds a message may hear only after 20 s that its work is not wanted any more.
FAREWELL_S = 25.0


@dataclass
class Status:
    """Writes, for people, how far the run is: at most twice a second, and at its end."""

    path: Path
    given: dict[str, Any] = field(default_factory=dict)
    _written_at: float = 0.0

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take an event of the run."""
        kind = event.get("type")
        logger.info("%s", {k: v for k, v in event.items() if k != "type"} | {"event": kind})
        if kind == "stage":
            self.given["stage"] = event["text"]
        elif kind == "decided":
            self.given["quarantined"] = list(event["quarantined"])
        elif kind == "assigned":
            self.given["stage"] = f"subtask {event['subtask']}"
        elif kind == "round":
            self.given["round"] = event["round"]
        elif kind == "evaluated":
            known = self.given.setdefault("latest", {})
            known[event["subtask"]] = {k: event[k] for k in ("metric", "value", "round")}
        elif kind == "rejected":
            rejected = self.given.setdefault("rejected", [])
            rejected.append({k: event[k] for k in ("site", "subtask", "code", "detail") if event.get(k)})
            del rejected[:-_KEPT_EVENTS]
        elif kind == "coverage":
            from server.coverage_view import note  # noqa: PLC0415  as above

            note(self.given, event)
        self.write()

    def on_site(self, site: str, work: Any) -> None:
        """Take what a site is doing."""
        known = self.given.setdefault("sites", {})
        has_changed = known.get(site, {}).get("state") != work.state
        known[site] = asdict(work)
        self.write(now=has_changed)

    def write(self, *, now: bool = False) -> None:
        """Write the file, unless it was just written."""
        if now or time.monotonic() > self._written_at + _WRITE_S:
            self._written_at = time.monotonic()
            write_aside(self.path, json.dumps({"at": time.time(), **self.given}))


def status_path(kit: ServerKit, run: str) -> Path:
    """Return where the status of a run is written."""
    return kit.state / f"status-{run}.json"


def work(given: dict[str, Any]) -> str:
    """Carry the run out; return how it ended."""
    from collab.settings import parse, parse_toml, read_text  # noqa: PLC0415  torch: a process's first second
    from server.data_folders import check_paths  # noqa: PLC0415
    from server.envelopes import Envelopes  # noqa: PLC0415
    from server.errands import ErrandGrid  # noqa: PLC0415
    from server.federation import Terms, federate  # noqa: PLC0415
    from server.flwr_adapter import task_identity  # noqa: PLC0415
    from server.flwr_adapter.grid import GuardedGrid  # noqa: PLC0415
    from server.flwr_adapter.runtime import Task  # noqa: PLC0415
    from server.record import Record  # noqa: PLC0415
    from server.report import write_report  # noqa: PLC0415
    from server.roster_link import RosterLink, parties  # noqa: PLC0415

    kit, run = load_kit(Path(given["kit"])), str(given["run"])
    orders, book = OrderBook(kit.orders), open_roster_book(kit)
    path = orders.text_path(run)
    collaboration = parse(parse_toml(read_text(path), str(path)), str(path), path.parent)
    check_paths(collaboration, kit)
    task = Task(*given["task"])
    grid = GuardedGrid(given["address"], task, round(kit.config.max_reply_mib * 2**20))
    status = Status(status_path(kit, run), {"rounds": collaboration.rounds})
    made: list[ErrandGrid] = []

    def errands(record: Record) -> ErrandGrid:
        """Return the grid of this process, which sites heed by the lease that it took in the journal."""
        status.given["lease"] = record.lease
        made.append(
            ErrandGrid(
                RosterLink(grid, book),
                Envelopes(run, *parties(kit, book), lease=record.lease),
                told=status.on_site,
                is_stopped=lambda: orders.is_to_stop(run),
            )
        )
        return made[0]

    folder = kit.runs / run
    caps = {site.name: site.max_examples for site in book.current.sites if site.max_examples is not None}
    terms = Terms(
        run=run,
        folder=folder,
        clock="wall",
        engine="deployment",
        max_examples=caps,
        baselines=given["baselines"],
        journal=kit.config.journal,
    )
    with task_identity(task.flower_run, task.node_id, task.task_id):
        try:
            summary = federate(errands, collaboration, terms, status.on_event)
        except ConsiliumError as error:
            # Else another process goes on with what sites do now.
            if _code_of(error) not in (exit_codes.BROKEN, exit_codes.WAIT):
                _part(made, status)
            raise
        _part(made, status)
    write_report(summary, folder / "report.html")
    return str(summary["ended"])


def _part(grids: Sequence[Any], status: Status) -> None:
    """Have sites stop what nobody waits for, and leave the run's last status."""
    for grid in grids:
        grid.farewell(FAREWELL_S)
    with suppress(OSError):
        status.write(now=True)


def main() -> None:
    """Work on the run that the supervisor names."""
    be_quiet()
    given, tell = inherit()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    from server.flwr_adapter.runtime import RunIsOver  # noqa: PLC0415  Flower, after be_quiet

    for noisy in ("httpx", "flwr", "alembic"):  # Flower sets its own level when it is imported
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        ended = work(given)
    except (KeyboardInterrupt, RunIsOver):
        # Flower has taken the run away, or no longer knows the token: another process may get it back.
        logger.warning("Flower no longer has this run")
        sys.exit(exit_codes.LOST)
    except ConsiliumError as error:
        logger.error("%s", error)  # noqa: TRY400  one line: what, where and what to do
        tell({"why": str(error)[:500]})
        sys.exit(_code_of(error))
    except Exception as error:
        logger.exception("the process cannot go on")
        tell({"why": f"{type(error).__name__}; the log of the run says more"})
        sys.exit(exit_codes.BROKEN)
    tell({"why": ended[:500]})


def _code_of(error: ConsiliumError) -> int:
    if error.code == "stopped":
        return exit_codes.STOPPED
    if error.code == "open_elsewhere":
        return exit_codes.WAIT
    if error.code in _AGAIN:  # the journal is whole: another process may go on from it
        return exit_codes.BROKEN
    return exit_codes.USERS if isinstance(error, UserError) else exit_codes.FAILED


if __name__ == "__main__":
    main()
