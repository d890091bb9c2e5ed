"""The ``consilium`` command: the composition root, which mounts the commands of each folder."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from protocol.errors import ConsiliumError, UserError
from server.environment import be_quiet

app = typer.Typer(
    name="consilium",
    help="Several institutions, one AI task: allocate its parts, train where the data is, fuse the results.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            sys.stdout.write(f"consilium {version('consilium')}\n")
        except PackageNotFoundError:
            sys.stdout.write("consilium (not installed)\n")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and all logs.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """See ``consilium COMMAND --help``."""


def main() -> None:
    """Run the command; an error is one line, exit code 2 for the user's input and 1 for a failed run."""
    be_quiet()
    from clients import cli as site_commands
    from server import cli as server_commands
    from server import operator_cli as operator_commands
    from simulations import cli as simulation_commands

    simulation_commands.register(app)
    server_commands.register(app)
    operator_commands.register(app)
    site_commands.register(app)
    debug = "--debug" in sys.argv[1:]
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, format="%(name)s: %(message)s")
    try:
        app()
    except ConsiliumError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
