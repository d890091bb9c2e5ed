"""Commands that need a whole federation on this machine: ``simulate``, ``resume``, ``plan`` and ``init``."""

from __future__ import annotations

import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from protocol.errors import ConfigError, UserError


def simulate(
    scenario: Annotated[str, typer.Argument(help="A built-in scenario (clinic, heart) or a .toml file.")],
    engine: Annotated[
        Literal["local", "flower"], typer.Option(help="In this process, or Flower's runtime on Ray.")
    ] = "local",
    rounds: Annotated[int | None, typer.Option(min=1, help="At most so many rounds.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. allocation.policy=random; repeatable.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Alone, pooled and plain FedAvg beside it.")
    ] = True,
    sealed: Annotated[
        bool, typer.Option("--sealed", help="Sign and check every message, as between real parties.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the run's folder.")] = Path("runs"),
    run: Annotated[
        str | None, typer.Option("--run", help="The run's name; one that was cut off goes on where it was.")
    ] = None,
    journal: Annotated[
        str | None, typer.Option(help="Keep the journal in this database, e.g. postgresql+psycopg:///NAME.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, nothing else.")] = False,
) -> None:
    """Run a whole federation on this machine and show whether collaborating paid."""
    from collab.settings import override, parse, parse_toml, read_text
    from server.console import Progress, result_table
    from server.submitting import check_run
    from simulations import simulate as engine_room

    path = engine_room.scenario_path(scenario)
    tables = override(parse_toml(read_text(path), str(path)), settings or [])
    tables |= {key: value for key, value in (("rounds", rounds), ("seed", seed)) if value is not None}
    collaboration = engine_room.ready(parse(tables, str(path), path.parent), path.resolve().parent)
    name = check_run(run) if run else _free_name(out, collaboration.name)
    order = engine_room.Order(name, out, engine, baselines, sealed, journal)
    if as_json:
        summary = engine_room.simulate(collaboration, order, lambda _: None)
        sys.stdout.write(json.dumps(summary, allow_nan=False) + "\n")
        return
    console = Console()
    with Progress(console, collaboration.rounds) as progress:
        summary = engine_room.simulate(collaboration, order, progress.on_event)
    console.print(result_table(summary))
    console.print(f"report: {out / order.run / 'report.html'}", highlight=False, soft_wrap=True)


def resume(
    run: Annotated[str, typer.Argument(help="The folder of a simulated run, or the name of a server's run.")],
    kit: Annotated[
        Path | None,
        typer.Option("--kit", help="The running server's kit; else $CONSILIUM_KIT, else kits/server."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Go on with a run that was killed or stopped, from its journal: nothing that is there is done again."""
    from server.console import Progress, result_table
    from server.contact import ask
    from server.kit import default_kit
    from server.open_record import holds_record
    from server.runlog import begun
    from simulations import simulate as engine_room

    folder, console = Path(run), Console()
    if kit is None and holds_record(folder):
        if as_json:
            summary = engine_room.resume(folder, lambda _: None)
            sys.stdout.write(json.dumps(summary, allow_nan=False) + "\n")
            return
        rounds = tomllib.loads(begun(folder)["collaboration"]).get("rounds", 1)
        with Progress(console, rounds) as progress:
            summary = engine_room.resume(folder, progress.on_event)
        console.print(result_table(summary))
        console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
        return
    if kit is None and "/" in run:
        raise UserError(f"{run}: holds no journal; give the folder of a run, or the name of a server's run")
    found = ask(kit or default_kit(), "resume", {"run": run}, given={})
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    said = f"run {run} is {found['state']}; watch it: consilium status {run} --watch"
    console.print(said, highlight=False, soft_wrap=True)


def plan(
    scenario: Annotated[str, typer.Argument(help="A built-in scenario (clinic, heart) or a .toml file.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. allocation.policy=random; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Show the subtasks, who could do each, and a first allocation; nothing is trained."""
    from collab.settings import override, parse, parse_toml, read_text
    from server import outlook
    from simulations import simulate as engine_room

    path = engine_room.scenario_path(scenario)
    tables = override(parse_toml(read_text(path), str(path)), settings or [])
    collaboration = engine_room.ready(parse(tables, str(path), path.parent), path.resolve().parent)
    found = engine_room.first_allocation(collaboration)
    if as_json:
        sys.stdout.write(json.dumps(outlook.as_json(found), allow_nan=False) + "\n")
        return
    Console().print(outlook.shown(found, collaboration), highlight=False, markup=False)


def init(
    source: Annotated[Path, typer.Option("--from", help="A CSV file with one row an example.")],
    target: Annotated[str, typer.Option(help="The column to predict.")],
    site: Annotated[str | None, typer.Option(help="The column that names the site of a row.")] = None,
    sites: Annotated[
        int | None, typer.Option(min=2, max=1000, help="Deal the rows out to so many sites.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("collaboration.toml"),
) -> None:
    """Write a commented collaboration file for your own CSV; it runs as it is."""
    from collab.data.draft import write_toml
    from collab.data.inspect_csv import inspect

    if site is not None and sites is not None:
        raise ConfigError("give --site COLUMN or --sites N, not both")
    if out.exists():
        raise UserError(f"{out}: is there already; choose another name with --out")
    found = inspect(source, target, site, sites)
    try:
        out.write_text(write_toml(found), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    err = Console(stderr=True)
    for warning in found.warnings:
        err.print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    Console().print(f"wrote {out}; run it: consilium simulate {out}", highlight=False, soft_wrap=True)


def _free_name(out: Path, name: str) -> str:
    base = f"{name[:40]}-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = (base, *(f"{base}-{n}" for n in range(2, 1000)))
    return next(candidate for candidate in taken if not (out / candidate).exists())


def register(app: typer.Typer) -> None:
    """Add these commands to the ``consilium`` command."""
    app.command()(simulate)
    app.command()(resume)
    app.command()(plan)
    app.command()(init)
