"""A whole federation on one machine: an engine, the run, and what it is compared with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from clients.app import app as client_app
from clients.custody import ScenarioCustody
from collab.collaboration import Collaboration, kind_of
from collab.data.config import DataConfig
from collab.decomposition.modality import assign
from collab.decomposition.modality_terms import ModalityTerms
from collab.plugins import unknown
from collab.scenario import scenario_data
from collab.settings import parse, parse_toml, validate
from collab.terms import wire_of
from protocol.errors import ConfigError, UserError
from server.description import describe
from server.federation import Terms, federate, to_toml
from server.journal.disk import Disk
from server.judge import Listener
from server.open_record import holds_record
from server.outlook import Outlook, outlook
from server.report import write_report
from server.runlog import begun, journal_of
from server.summary import FILE_NAME, set_baseline, write_json
from simulations import attacks, baselines
from simulations.local_engine import LocalGrid, Tamper, run_locally
from simulations.sealed import SealedGrid
from simulations.tampering import tamper

Engine = Literal["local", "flower"]


@dataclass(frozen=True)
class Order:
    """What to simulate: the engine, where its folder goes, and whether to measure baselines.

    ``sealed``: every message of the run itself is signed and checked, as between real parties.
    ``journal``: the URL of a database for the run's journal, a file in its folder if left out.
    """

    run: str
    out: Path
    engine: Engine = "local"
    baselines: bool = True
    sealed: bool = False
    journal: str | None = None


def resume(folder: Path, listener: Listener) -> dict[str, Any]:
    """Go on with a simulated run from the journal in its folder; return as ``simulate``.

    Raises:
        UserError: there is no journal, or it is of no simulation that can go on.
        RunError: the run has ended and was no success, or comes to no success now.
    """
    folder = folder.resolve()
    said = begun(folder)
    if said["engine"] != "local":
        why = "its sites remembered what they knew in processes that are gone"
        if said["engine"] == "deployment":
            why = "it is a server's: name the run, and its kit with --kit"
        raise UserError(f"{folder}: a run on engine '{said['engine']}' is not resumed here: {why}")
    collaboration = parse(parse_toml(said["collaboration"], str(folder)), str(folder), folder)
    order = Order(folder.name, folder.parent, "local", said["baselines"], said["sealed"], journal_of(folder))
    return simulate(collaboration, order, listener)


def scenario_path(name: str) -> Path:
    """Return the path of a built-in scenario or of a file.

    Raises:
        ConfigError: it is neither; the message suggests the nearest scenario.
    """
    built_in = {p.name.removesuffix(".toml"): p for p in files("simulations").joinpath("scenarios").iterdir()}
    if name in built_in:
        return Path(str(built_in[name]))
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        return path
    raise ConfigError(f"{unknown(f'scenario {name!r}', name, built_in)}; or give the path of a .toml file")


def ready(collaboration: Collaboration, base: Path) -> Collaboration:
    """Return the collaboration with data paths made absolute and labels that were left open filled in.

    Raises:
        ConfigError: it brings no sites, so there is nothing to simulate.
        DataError: its data cannot be used.
    """
    if not collaboration.is_scenario:
        raise ConfigError("a simulation needs sites: add [sites.NAME] tables or a [fleet]")
    tables = collaboration.model_dump(mode="json", exclude_none=True)
    for name, config in collaboration.data.items():
        tables["data"][name] = absolute(config, base).model_dump(mode="json", exclude_unset=True)
    for name, terms in collaboration.subtasks.items():
        if terms.teacher is not None:
            tables["subtasks"][name]["teacher"]["path"] = beside(terms.teacher.path, base)
    found = validate(Collaboration, tables, "collaboration")
    for whole, decomposition in found.wholes.items():
        if isinstance(decomposition, ModalityTerms):
            _check_modalities(found, whole, decomposition)
    tables["sites"] |= _with_rows(found)
    found = validate(Collaboration, tables, "collaboration") if found.wholes else found
    for name, terms in found.subtasks.items():
        data = scenario_data(found, name)
        if kind_of(terms).output == "classes" and terms.labels is None:
            tables["subtasks"][name]["labels"] = list(data.labels or ())
    return validate(Collaboration, tables, "collaboration")


def _check_modalities(collaboration: Collaboration, whole: str, terms: ModalityTerms) -> None:
    """Raise a ``ConfigError`` unless each column of the data, and its image, is in one modality."""
    data = scenario_data(collaboration, next(iter(collaboration.parts_of(whole).values())))
    rows = next(iter(data.by_site.values()))
    names = (*rows.numeric_names, *rows.categorical_names)
    try:
        assign(terms.modalities, names, has_image=rows.image_NCHW is not None)
    except ConfigError as error:
        raise ConfigError(f"decomposition.{whole}: {error}") from None


def _with_rows(collaboration: Collaboration) -> dict[str, Any]:
    """Return the profiles of the sites, each without the parts of wholes that it has no train rows of."""
    profiles = {}
    for site, profile in collaboration.sites.items() if collaboration.wholes else ():
        empty = {
            part
            for whole in collaboration.wholes
            for part in _empty_parts(collaboration, ScenarioCustody(collaboration, site), whole)
        }
        kept = [n for n in collaboration.subtasks if site in collaboration.sites_of(n) and n not in empty]
        profiles[site] = profile.model_dump(mode="json", exclude_none=True) | {"subtasks": kept}
    return profiles


def _empty_parts(collaboration: Collaboration, custody: ScenarioCustody, whole: str) -> list[str]:
    """Return the parts that the site has no train rows of; never all: rows are dealt to whoever has one."""
    parts = collaboration.parts_of(whole).values()
    listed = [part for part in parts if custody.site in collaboration.sites_of(part)]
    empty = [part for part in listed if not len(custody.rows(describe(collaboration, part)).train)]
    return empty if len(empty) < len(listed) else empty[1:]


def absolute(config: DataConfig, base: Path) -> DataConfig:
    """Return the data block with the paths that lie beside the collaboration file made absolute."""
    return config.with_paths(lambda path: beside(path, base))


def beside(path: str, base: Path) -> str:
    """Return where ``path`` lies, absolute if that is beside the collaboration file."""
    found = base / path
    return str(found.resolve()) if found.exists() else path


def simulate(collaboration: Collaboration, order: Order, listener: Listener) -> dict[str, Any]:
    """Run ``collaboration`` and its baselines; return the summary, which the run's folder holds too.

    Raises:
        ConfigError: the engine has no Byzantine sites, or an attack is not defined on what its site sends.
    """
    _check_attacks(collaboration, order.engine)
    if order.sealed and order.engine != "local":
        raise ConfigError(
            f"--sealed needs engine 'local', found '{order.engine}': real sites seal by themselves"
        )
    folder = order.out / order.run
    if order.engine != "local" and holds_record(folder):
        raise ConfigError(f"{folder}: a run on engine '{order.engine}' cannot go on; give another name")
    terms = Terms(
        order.run,
        folder,
        "simulated",
        order.engine,
        baselines=order.baselines,
        journal=order.journal,
        sealed=order.sealed,
    )
    summary = _run(collaboration, terms, listener)
    if order.baselines:
        _compare(collaboration, summary, folder, listener)
        write_json(summary, folder / FILE_NAME)
    write_report(summary, folder / "report.html")
    return summary


def first_allocation(collaboration: Collaboration) -> Outlook:
    """Return who could do what and the first allocation, by asking the simulated sites; nothing trains."""
    found: list[Outlook] = []
    run_locally(
        lambda grid: found.append(outlook(grid, collaboration)),
        client_app,
        num_nodes=len(collaboration.sites),
        run_config={"collaboration": to_toml(collaboration)},
    )
    return found[0]


def _attackers(collaboration: Collaboration) -> dict[str, str]:
    """Return the attack of each site that rewrites what it sends."""
    named = {site: profile.attack for site, profile in collaboration.sites.items()}
    return {site: a for site, a in named.items() if a is not None and a not in attacks.IN_THE_DATA}


def _check_attacks(collaboration: Collaboration, engine: Engine) -> None:
    for site, attack in _attackers(collaboration).items():
        if engine != "local":
            raise ConfigError(
                f"site '{site}': attack '{attack}' needs engine 'local', found '{engine}'; "
                f"there: {', '.join(sorted(attacks.IN_THE_DATA))}"
            )
        for name, terms in collaboration.subtasks.items():
            if site in collaboration.sites_of(name):
                if any(name in family.subtasks for family in collaboration.families.values()):
                    raise ConfigError(
                        f"site '{site}', subtask '{name}': attack '{attack}' is not defined on a shared "
                        f"encoder; there: {', '.join(sorted(attacks.IN_THE_DATA))}"
                    )
                try:
                    attacks.check_attack(attack, terms.exchange, wire_of(terms).form)
                except ConfigError as error:
                    raise ConfigError(f"site '{site}', subtask '{name}': {error}") from None


def _byzantine(collaboration: Collaboration) -> Tamper | None:
    attackers = _attackers(collaboration)
    return partial(tamper, attackers=attackers, seed=collaboration.seed) if attackers else None


def _run(
    collaboration: Collaboration, terms: Terms, listener: Listener, disk: Disk | None = None
) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    config: Mapping[str, bool | float | int | str] = {"collaboration": to_toml(collaboration)}
    num_nodes = len(collaboration.sites)

    def serve(grid: Grid) -> None:
        memories = grid if isinstance(grid, LocalGrid) else None
        if terms.sealed:
            grid = SealedGrid(grid, sorted(collaboration.sites), terms.run)
        found.append(federate(grid, collaboration, terms, listener, memories, disk))

    if terms.engine == "local":
        byzantine = _byzantine(collaboration)
        run_locally(serve, client_app, num_nodes=num_nodes, run_config=config, tamper=byzantine)
    else:
        from simulations.flower_engine import RayResources, run_on_flower  # noqa: PLC0415 - needs Ray

        server_app = ServerApp()

        @server_app.main()
        def main(grid: Grid, context: Context) -> None:
            del context
            serve(grid)

        resources = RayResources(cpus=max(1, os.cpu_count() or 1))
        run_on_flower(server_app, client_app, num_nodes=num_nodes, run_config=config, resources=resources)
    return found[0]


def _compare(collaboration: Collaboration, summary: dict[str, Any], folder: Path, listener: Listener) -> None:
    """Measure the baselines that need all data or another run, and put them into the summary."""
    for name in sorted(collaboration.subtasks):
        if summary["subtasks"][name]["baselines"] is None:
            continue  # no site could measure itself alone: there is nothing to stand beside
        listener({"type": "stage", "text": f"baseline pooled: {name}"})
        found = baselines.pooled(collaboration, name, folder)
        set_baseline(summary, name, "pooled", found.measured, found.own)
    listener({"type": "stage", "text": "baseline FedAvg with the smallest model"})
    plain = baselines.smallest_common(collaboration)
    with baselines.scratch_folder() as scratch:
        other = _run(plain, Terms("fedavg", Path(scratch) / "fedavg", "simulated", "local"), lambda _: None)
    for name in sorted(collaboration.subtasks):
        if summary["subtasks"][name]["baselines"] is not None:
            found = baselines.from_summary(other, name)
            set_baseline(summary, name, "fedavg_smallest", found.measured, found.own)
