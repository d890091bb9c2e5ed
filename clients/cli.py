"""Commands at a site: ``site up``."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

site_app = typer.Typer(help="Run this institution's site.", no_args_is_help=True)


@site_app.command("up")
def up(
    kit: Annotated[Path, typer.Argument(help="The site's kit, with its site.toml filled in.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, nothing else.")] = False,
) -> None:
    """Work for the server of the kit until Ctrl-C; one outbound connection, no port is opened."""
    from clients.kit import load_kit
    from clients.up import SiteUp
    from protocol.versions import check_flower

    check_flower()
    for name in ("NO_PROXY", "no_proxy"):  # the site's own processes; the server is asked by the proxy
        known = [part for part in os.environ.get(name, "").split(",") if part]
        os.environ[name] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost"]))
    os.umask(0o077)
    console = Console(stderr=True)

    def say(line: str) -> None:
        if as_json:
            sys.stdout.write(json.dumps({"at": time.time(), "said": line}) + "\n")
            sys.stdout.flush()
        else:
            console.print(
                f"{time.strftime('%H:%M:%S')} {line}", highlight=False, markup=False, soft_wrap=True
            )

    SiteUp(load_kit(kit), say).run()


def register(app: typer.Typer) -> None:
    """Add these commands to the ``consilium`` command."""
    app.add_typer(site_app, name="site")
