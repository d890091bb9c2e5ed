"""Commands for who runs the server: ``server up``, ``submit``, ``status``, ``logs`` and ``stop``."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]
Kit = Annotated[
    Path | None,
    typer.Option("--kit", help="The running server's kit; else $CONSILIUM_KIT, else kits/server."),
]
server_app = typer.Typer(help="Run a server for real sites.", no_args_is_help=True)

ENDED = ("finished", "failed", "stopped")


@server_app.command("up")
def up(
    kit: Annotated[Path, typer.Argument(help="The server's kit, from `consilium provision`.")],
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Listen here instead; 0 takes a free port.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the server until Ctrl-C: one public port for the sites of the roster, commands on loopback."""
    from protocol.versions import check_flower
    from server.kit import load_kit
    from server.supervisor import Supervisor

    check_flower()
    keep_to_loopback()
    os.umask(0o077)
    found = load_kit(kit)
    console = Console(stderr=True)

    def say(line: str) -> None:
        if as_json:
            sys.stdout.write(json.dumps({"at": time.time(), "said": line}) + "\n")
            sys.stdout.flush()
        else:
            console.print(
                f"{time.strftime('%H:%M:%S')} {line}", highlight=False, markup=False, soft_wrap=True
            )

    Supervisor(found, say, port).run()


def submit(
    file: Annotated[Path, typer.Argument(help="The collaboration's .toml file.")],
    run: Annotated[str | None, typer.Option(help="The run's name; made from the clock if left out.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Have each site train alone too, to compare.")
    ] = True,
    kit: Kit = None,
    as_json: AsJson = False,
) -> None:
    """Hand a collaboration to the running server; it starts when the runs before it have ended."""
    from server.contact import ask
    from server.submitting import check_run, prepared

    text, name = prepared(file)
    given = {
        "run": check_run(run) if run else f"{name[:40]}-{time.strftime('%Y%m%d-%H%M%S')}",
        "collaboration": text,
        "baselines": baselines,
    }
    order = ask(_kit(kit), "submit", given=given)
    if as_json:
        sys.stdout.write(json.dumps(order) + "\n")
        return
    Console().print(
        f"run {order['run']} is {order['state']}; watch it: consilium status {order['run']} --watch",
        highlight=False,
        soft_wrap=True,
    )


def status(
    run: Annotated[str | None, typer.Argument(help="A run; the one that is worked on if left out.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew each second until the run ends.")
    ] = False,
    kit: Kit = None,
    as_json: AsJson = False,
) -> None:
    """Show what the run and each site are doing, since when, and what to do about it."""
    from rich.live import Live

    from server.contact import ask
    from server.standing_view import shown

    query = {"run": run} if run else {}
    found = _known(ask(_kit(kit), "status", query), run)
    if not watch or as_json:
        _print_status(found, run, as_json=as_json)
        while watch and not _has_ended(found, run):
            time.sleep(1.0)
            found = ask(_kit(kit), "status", query)
            _print_status(found, run, as_json=as_json)
        return
    console = Console()
    if not console.is_terminal:
        console.print(shown(found, run))
        while not _has_ended(found, run):
            time.sleep(1.0)
            found = ask(_kit(kit), "status", query)
        console.print(shown(found, run))
        return
    with Live(shown(found, run), console=console, auto_refresh=False) as live:
        while not _has_ended(found, run):
            time.sleep(1.0)
            found = ask(_kit(kit), "status", query)
            live.update(shown(found, run), refresh=True)


def logs(
    run: Annotated[str, typer.Argument(help="A run.")],
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="So many lines from its end.")] = 200,
    kit: Kit = None,
    as_json: AsJson = False,
) -> None:
    """Show the log of a run's process; it holds no data and no key."""
    from server.contact import ask
    from server.units import plain

    found = ask(_kit(kit), "logs", {"run": run, "lines": str(lines)})
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for line in found["lines"]:
        sys.stdout.write(plain(line) + "\n")


def stop(
    run: Annotated[str, typer.Argument(help="A run.")], kit: Kit = None, as_json: AsJson = False
) -> None:
    """Stop a run: sites stop between two batches; what was reached stays in its folder."""
    from server.contact import ask

    found = ask(_kit(kit), "stop", {"run": run}, given={})
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        Console().print(
            f"run {run} is stopping; see: consilium status {run}", highlight=False, soft_wrap=True
        )


def keep_to_loopback() -> None:
    """Have no proxy asked for loopback, by this process and its children."""
    for name in ("NO_PROXY", "no_proxy"):
        known = [part for part in os.environ.get(name, "").split(",") if part]
        os.environ[name] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost"]))


def _kit(given: Path | None) -> Path:
    from server.kit import default_kit

    return given or default_kit()


def _known(found: dict[str, Any], run: str | None) -> dict[str, Any]:
    from protocol.errors import UserError

    if run and run not in found["runs"]:
        raise UserError(f"there is no run '{run}' on this server")
    return found


def _has_ended(found: dict[str, Any], run: str | None) -> bool:
    states = [(f.get("order") or {}).get("state") for n, f in found["runs"].items() if run in (None, n)]
    return all(state in ENDED for state in states)


def _print_status(found: dict[str, Any], run: str | None, *, as_json: bool) -> None:
    from server.standing_view import shown, sites_of

    if not as_json:
        Console().print(shown(found, run))
        return
    name = run or next(iter(found["runs"]), None)
    sys.stdout.write(json.dumps({**found, "sites": sites_of(found, name)}) + "\n")
    sys.stdout.flush()


def register(app: typer.Typer) -> None:
    """Add these commands to the ``consilium`` command."""
    app.add_typer(server_app, name="server")
    for command in (submit, status, logs, stop):
        app.command()(command)
