"""What our Grids have in common: the run that Flower sets, and its older way to make a message."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.flwr_adapter import Run


class _Makes(Grid):
    """Flower asks every Grid for its older way to make a message."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class OwnRunGrid(_Makes):
    """A Grid with a run of its own."""

    _run: Run

    def set_run(self, run: Run) -> None:
        """Take the place of the run that this Grid has."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run whose messages this Grid carries."""
        return self._run


class GridAround(_Makes):
    """A Grid that changes how messages pass another."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """Set the run of the Grid within."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the Grid within."""
        return self._grid.run

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of the Grid within."""
        return self._grid.get_node_ids()
