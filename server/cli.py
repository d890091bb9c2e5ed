"""``provision``, and on the folder of a run ``report``, ``replay``, ``audit``, ``explain``, ``predict``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from protocol.errors import RunError

RunDir = Annotated[Path, typer.Argument(help="The folder of a run, e.g. runs/clinic-20260101-120000.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]


def report(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Show the result of a run again, and write its report.html anew."""
    from server.console import result_table
    from server.report import write_report
    from server.summary import read_summary

    summary = read_summary(run_dir)
    write_report(summary, run_dir / "report.html")
    if as_json:
        sys.stdout.write(json.dumps(summary, allow_nan=False) + "\n")
        return
    console = Console()
    console.print(result_table(summary))
    console.print(f"report: {run_dir / 'report.html'}", highlight=False, soft_wrap=True)


def replay(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Feed the run's log back to the state machine; it must decide the same again."""
    from collab.settings import parse, parse_toml, read_text
    from server.federation import COLLABORATION
    from server.runlog import replay as replay_log

    path = run_dir / COLLABORATION
    collaboration = parse(parse_toml(read_text(path), str(path)), str(path))
    found = replay_log(run_dir, collaboration)
    if as_json:
        sys.stdout.write(json.dumps(found._asdict() | {"same": True}) + "\n")
    else:
        said = f"{found.events} events gave the same {found.instructions} instructions again"
        Console().print(said, highlight=False)
    if not found.ended:
        raise RunError(f"{run_dir}: the log is cut off after line {found.events}; up to there it agrees")


def audit(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Check a run's journal, row by row, and show how far each assignment is and what came of it."""
    from server.audit import audit as look
    from server.audit import shown

    found = look(run_dir)
    if as_json:
        sys.stdout.write(json.dumps(found.as_json()) + "\n")
    else:
        Console().print(shown(found), highlight=False, markup=False)


def explain(
    run_dir: RunDir,
    number: Annotated[int, typer.Option("--round", min=1, help="The round to explain.")],
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    subtask: Annotated[str | None, typer.Option(help="Only this subtask.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say why a site got a subtask in a round, and what would have changed that."""
    from collab.settings import parse, parse_toml, read_text
    from server import explain as reasons
    from server.federation import COLLABORATION

    path = run_dir / COLLABORATION
    collaboration = parse(parse_toml(read_text(path), str(path)), str(path))
    found = reasons.decision(run_dir, collaboration, number)
    answers = reasons.explain(found, collaboration, site, subtask)
    if as_json:
        sys.stdout.write(json.dumps(reasons.as_json(found, answers), allow_nan=False) + "\n")
        return
    Console().print(reasons.shown(found, answers, site, subtask), highlight=False, markup=False)


def predict(
    run_dir: RunDir,
    subtask: Annotated[str, typer.Argument(help="The subtask whose model answers.")],
    source: Annotated[Path, typer.Option("--input", help="New rows: .csv for tables, .npz (x) for images.")],
    site: Annotated[str | None, typer.Option(help="Answer with what this site deploys.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict new rows with the fused model of a run; prints CSV."""
    from server.predict import predict as predict_rows

    found = predict_rows(run_dir, subtask, source, site)
    if as_json:
        sys.stdout.write(json.dumps(found.records(), allow_nan=False) + "\n")
    else:
        sys.stdout.write(found.csv())


def provision(
    source: Annotated[Path, typer.Argument(help="The federation's file, federation.toml.")],
    out: Annotated[Path, typer.Option(help="The folder of all kits; again: renew them.")] = Path("kits"),
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Holds the passphrase of the authority's key; mode 0600.")
    ] = None,
    rekey: Annotated[list[str] | None, typer.Option(help="Give a party new keys; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make or renew the kits of a federation: keys, certificates and the signed roster."""
    from time import time

    from server import passphrase
    from server.federation_file import read_federation
    from server.provision import provision as make_kits
    from server.provision_view import as_dict, shown

    def secret(new: bool) -> bytes:
        return passphrase.from_file(passphrase_file) if passphrase_file else passphrase.ask(new=new)

    made = make_kits(read_federation(source), out, secret, rekey=rekey or (), now=time())
    if as_json:
        sys.stdout.write(json.dumps(as_dict(made)) + "\n")
    else:
        Console().print(shown(made), highlight=False)


def register(app: typer.Typer) -> None:
    """Add these commands to the ``consilium`` command."""
    app.command()(report)
    app.command()(replay)
    app.command()(audit)
    app.command()(explain)
    app.command()(predict)
    app.command()(provision)
