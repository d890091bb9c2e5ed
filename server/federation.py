"""One run from its first message to its folder: discover, prepare, conduct, conclude, write."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomlkit
import torch
from flwr.serverapp import Grid
from numpy.typing import NDArray

from collab.collaboration import Collaboration
from collab.data.examples import Examples
from collab.data.preprocess import Preprocessing
from collab.scenario import public_set, root_set
from protocol.errors import ConfigError, RunError
from protocol.files import sync_folder
from protocol.messages import Capability
from server.conductor import Conductor, EndedError
from server.courier import Courier
from server.discovery import discovered, joins_later
from server.families import alike, families_of
from server.finale import Outcome, conclude
from server.journal.disk import Disk
from server.journal.store import JournalError
from server.judge import Listener
from server.learner import Learner
from server.learners import make
from server.models import keep_reached, write_models, write_state
from server.open_record import holds_record, open_record
from server.preparation import Prepared, prepare, with_public
from server.record import Record
from server.report import write_report
from server.roll_call import ByNodes, ByProfile, RollCall
from server.simulated_courier import SimulatedCourier, SimulatedSites
from server.spool import Spool
from server.summary import FILE_NAME as SUMMARY
from server.summary import as_text, build_summary, read_summary
from server.turns import TurnsGrid
from server.upstream import ChainedCourier, Chains, worse_than_ablated
from server.upstream import as_json as chain_entries
from server.wall_courier import WallCourier
from server.whole import Whole, as_json, measure_wholes

Clock = Literal["simulated", "wall"]
COLLABORATION = "collaboration.toml"
# The code of the error that says that somebody wants the run to stop: no site is asked any more.
STOPPED = "stopped"


@dataclass(frozen=True)
class Terms:
    """What a run is carried out with, beside the collaboration.

    ``max_examples`` is the most rows of a subtask that a site may say it has, where the roster gives it;
    ``journal`` the database that keeps the journal, a file in the folder if left out; ``sealed`` says that
    simulated sites sign and check.
    """

    run: str
    folder: Path
    clock: Clock = "simulated"
    engine: str = "flower"
    baselines: bool = False
    max_examples: Mapping[str, int] = field(default_factory=dict)
    journal: str | None = None
    sealed: bool = False

    def on_record(self, text: str) -> dict[str, Any]:
        """Return what a run that is resumed must have begun with; ``text`` is its collaboration."""
        said = {"clock": self.clock, "engine": self.engine, "baselines": self.baselines}
        return {**said, "sealed": self.sealed, "collaboration": text}


def federate(
    grid: Grid | Callable[[Record], Grid],
    collaboration: Collaboration,
    terms: Terms,
    listener: Listener | None = None,
    sites: SimulatedSites | None = None,
    disk: Disk | None = None,
) -> dict[str, Any]:
    """Run ``collaboration`` over ``grid`` and return its summary, which ``terms.folder`` then holds too.

    Where the folder holds the journal of this run, the run goes on from there.

    Args:
        grid: reaches the sites; or makes what does, for this process and its record.
        collaboration: what is to be done.
        terms: how.
        listener: is told what a person may want to watch.
        sites: the memories of simulated sites, which a run that is resumed must get back.
        disk: the seam of the journal.

    Raises:
        RunError: the run could not go on; the folder holds what was reached until then, and the journal.
        UserError: the collaboration or its data cannot be used, or the folder holds something else.
    """
    if terms.clock == "simulated" and not collaboration.is_scenario:
        raise ConfigError("clock = 'simulated' needs the sites' profiles, [sites.NAME]; else clock = 'wall'")
    torch.set_num_threads(1)  # the server distils: the same bits whatever the machine's cores
    text = to_toml(collaboration)
    make_run_folder(terms.folder)
    with open_record(
        terms.folder, terms.run, terms.on_record(text), disk=disk or Disk(), url=terms.journal
    ) as record:
        if (said := record.outcome()) is not None:
            return _as_it_ended(terms.folder, said)
        record.write(terms.folder / COLLABORATION, text.encode())
        try:
            made = grid if isinstance(grid, Grid) else grid(record)
            summary = _federate(made, collaboration, terms, record, listener or (lambda _: None), sites)
        except EndedError as error:
            record.end({"failed": str(error)})
            raise RunError(str(error)) from error.__cause__
        record.end({"ended": summary["ended"]})
        return summary


def _as_it_ended(folder: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a run that has ended; raise what it ended with if it failed."""
    if "failed" in said:
        raise RunError(str(said["failed"]))
    return read_summary(folder)


def _federate(
    grid: Grid,
    collaboration: Collaboration,
    terms: Terms,
    record: Record,
    tell: Listener,
    sites: SimulatedSites | None,
) -> dict[str, Any]:
    started, notes = time.monotonic(), list[str]()
    terms = replace(terms, max_examples=_caps(record, terms))
    if not record.is_live:
        tell({"type": "stage", "text": "reading the journal"})
        record.when_live(lambda: tell({"type": "stage", "text": _went_on(record)}))
    tell({"type": "stage", "text": "waiting for sites"})
    if terms.clock == "simulated" and terms.engine != "local":
        grid = TurnsGrid(grid)  # the local engine answers in turn, and must see a cohort as one batch
    nodes, everybody = discovered(record, grid, collaboration, notes, terms.max_examples)
    later = {s: c for s, c in everybody.items() if joins_later(collaboration, s)}
    capabilities = {s: c for s, c in everybody.items() if s not in later}
    below: Courier = WallCourier(grid, nodes, record)
    if terms.clock == "simulated":
        below = SimulatedCourier(grid, nodes, collaboration.sites, collaboration.seed, record, sites)
    courier = ChainedCourier(below)
    tell({"type": "stage", "text": "merging statistics"})
    found = prepare(courier, collaboration, capabilities, notes, terms.max_examples)
    prepared = {name: with_sets(collaboration, one) for name, one in alike(collaboration, found).items()}
    spool = Spool(record)
    learners = {name: make(collaboration, one, terms.run, spool) for name, one in prepared.items()}
    chains = Chains(learners, courier)
    roll_call: RollCall = ByProfile(collaboration, later)
    if terms.clock == "wall":
        roll_call = ByNodes(grid, courier, collaboration, nodes, notes, terms.max_examples, record)
    conductor = Conductor(
        *(collaboration, terms.run, courier, learners, record, tell, notes),
        roll_call=roll_call,
        settle=chains.settle,
        families=families_of(collaboration, learners),
    )
    stopped = _conduct(conductor, capabilities)
    if stopped is not None and stopped.code == STOPPED:
        _keep_finals(terms.folder, learners, record)
        raise stopped
    outcomes = _conclude(conductor, chains, terms, tell)
    wholes = measure_wholes(courier, collaboration, learners, terms.run, notes)
    summary = _summed_up(conductor, outcomes, wholes, terms.engine, time.monotonic() - started)
    for name, outcome in outcomes.items():
        settled = chains.settled.get(name)
        write_models(terms.folder, learners[name].prepared.subtask, outcome, summary, settled, record)
    for name, whole in wholes.items():
        write_state(terms.folder, name, whole.state, record)
    record.write(terms.folder / SUMMARY, as_text(summary).encode())
    if stopped is not None:
        write_report(summary, terms.folder / "report.html")
        raise EndedError(f"{stopped}; what was reached until then is in {terms.folder}") from stopped
    return summary


def _summed_up(
    conductor: Conductor,
    outcomes: Mapping[str, Outcome],
    wholes: Mapping[str, Whole],
    engine: str,
    wall_s: float,
) -> dict[str, Any]:
    """Return the summary of a run that is over; ``wall_s`` is that of this process."""
    record = conductor.record
    summary = build_summary(conductor, outcomes, engine=engine, wall_s=wall_s, ended=conductor.ended)
    per_part = {name: entry["collaboration"]["global"] for name, entry in summary["subtasks"].items()}
    families = {family.name: family.as_json() for family in conductor.families}
    summary["decompositions"] = as_json(wholes, per_part) | families
    summary["chains"] = chain_entries(conductor.collaboration, outcomes, per_part)
    summary["notes"] = [*summary["notes"], *worse_than_ablated(summary["chains"]), *record.changes()]
    summary["processes"] = max(1, len(record.leases()))
    return summary


def _keep_finals(folder: Path, learners: Mapping[str, Learner], record: Record) -> None:
    """Write what a run that was stopped had reached: no site is asked how good it is."""
    for name, learner in learners.items():
        if (reached := learner.final()) is not None:
            keep_reached(folder, name, reached[1], record)


def _went_on(record: Record) -> str:
    return f"going on after {record.replayed_rows} rows of the journal"


def _caps(record: Record, terms: Terms) -> Mapping[str, int]:
    """Return the caps of the roster as they were when the run began."""
    said = record.replayed("caps")
    found: dict[str, int] = (said or record.note("caps", "", {"rows": dict(terms.max_examples)}))["rows"]
    return found


def _conduct(conductor: Conductor, capabilities: Mapping[str, Capability]) -> RunError | None:
    """Carry the rounds out; return the error that stopped them, if there is something to save."""
    try:
        conductor.conduct(capabilities)
    except JournalError:
        raise
    except RunError as error:
        if all(learner.final() is None for learner in conductor.learners.values()):
            raise
        return error
    return None


def to_toml(collaboration: Collaboration) -> str:
    """Return the resolved collaboration as the text of a file that gives the same run."""
    return tomlkit.dumps(collaboration.model_dump(mode="json", exclude_none=True))


def make_run_folder(folder: Path) -> None:
    """Make the folder of a run; one that holds a run's journal may be there.

    Raises:
        ConfigError: it holds something else, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        taken = any(folder.iterdir()) and not holds_record(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror})") from None
    if taken:
        raise ConfigError(f"{folder}: is there already; give the run another name")


def with_sets(collaboration: Collaboration, prepared: Prepared) -> Prepared:
    """Return ``prepared`` with what the server itself holds: the public set, and labelled root rows."""
    name = prepared.subtask.name
    terms = collaboration.subtasks[name]
    preprocessing = Preprocessing.model_validate_json(str(prepared.subtask.preprocessing))
    if prepared.subtask.exchange == "soft_labels" or terms.distillation.ensemble:
        rows = public_set(collaboration, name)
        prepared = with_public(prepared, preprocessing.transform(rows))
        prepared = replace(prepared, public_raw=_raw(rows))
    if terms.root is not None:
        rows = root_set(collaboration, name)
        prepared = replace(prepared, root=(preprocessing.transform(rows), rows.y))
    return prepared


def _raw(rows: Examples) -> NDArray[np.float32] | None:
    """Return images, or the numbers of a table without categories, as an imported teacher may want them.

    None for texts: only their hashed counts are kept, which no model from elsewhere can read.
    """
    if rows.grams is not None:
        return None
    if rows.image_NCHW is not None:
        return rows.image_NCHW
    return None if rows.categorical_names else rows.numeric_NP.astype(np.float32)


def _unspent(conductor: Conductor, subtask: str) -> dict[str, int]:
    """Return how many rounds' work of the run each site did not do for the subtask."""
    cohorts = [*conductor.machine.history, *conductor.machine.cohorts.values()]
    tasks = [t for c in cohorts for t in c.tasks.values() if subtask in t.of]
    done: dict[str, float] = defaultdict(float)
    for task in tasks:
        done[task.send.site] += task.send.budget if task.outcome == "contributed" else 0.0
    rounds, sites = conductor.collaboration.rounds, conductor.learners[subtask].prepared.sites
    return {site: max(0, rounds - round(done[site])) for site in sites}


def _conclude(
    conductor: Conductor, chains: Chains, terms: Terms, tell: Callable[[Mapping[str, Any]], None]
) -> dict[str, Outcome]:
    outcomes = {}
    for name, learner in sorted(conductor.learners.items()):
        if not learner.prepared.subtask.is_ready:
            outcomes[name] = Outcome(learner.prepared.fusion)
            continue  # it never started: nobody could make its inputs
        tell({"type": "stage", "text": f"fusing and measuring {name}"})
        if name not in chains.finished:
            learner.finish(conductor.courier, conductor.machine.round, conductor.notes)
        outcomes[name] = conclude(
            conductor.courier,
            learner,
            terms.run,
            conductor.collaboration.rounds,
            unspent=_unspent(conductor, name),
            baselines=terms.baselines,
            notes=conductor.notes,
        )
    return outcomes
