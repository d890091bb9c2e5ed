"""Command lines that stand in files: parsed as ``consilium`` would, and not carried out. Not a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from clients import cli as site_commands
from server import cli as server_commands
from server import operator_cli as operator_commands
from simulations import cli as simulation_commands


def parse_line(line: Sequence[str]) -> None:
    """Parse the words of a line that begins with ``consilium``; raise what Click raises for a wrong one."""
    app = typer.Typer()
    for part in (simulation_commands, server_commands, operator_commands, site_commands):
        part.register(app)
    found: Any = get_command(app)
    words = list(line[1:])
    while isinstance(found, TyperGroup):
        context = found.make_context(line[0], [], resilient_parsing=True)
        _, found, words = found.resolve_command(context, words)
    found.make_context(line[0], list(words))
