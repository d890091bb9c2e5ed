"""How far each assignment of a run is: a view of its journal's rows, which say it one after the other.

ASSIGNED (its site was to be sent it), RECEIVED (an answer is there), VALIDATED (and was found good),
AGGREGATED (merged with the others of its round), COMMITTED (and the round is closed); or REJECTED, or
DISCARDED as it was late or came twice. A state is never left for an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from protocol.errors import DataError
from protocol.messages import assignment_id
from server.journal.store import Row

State = Literal["ASSIGNED", "RECEIVED", "VALIDATED", "AGGREGATED", "COMMITTED", "REJECTED", "DISCARDED"]
# From which states a row may bring an assignment to which.
_FROM: Final[dict[State, tuple[State, ...]]] = {
    "RECEIVED": ("ASSIGNED",),
    "VALIDATED": ("RECEIVED",),
    "REJECTED": ("ASSIGNED", "RECEIVED"),
    "AGGREGATED": ("VALIDATED",),
    "COMMITTED": ("AGGREGATED",),
    "DISCARDED": ("ASSIGNED", "RECEIVED", "VALIDATED"),
}


@dataclass(frozen=True)
class Standing:
    """One assignment: its state, and what came of it.

    ``digest`` is of the contribution's arrays, ``asked`` of the question, ``signature`` the site's, in hex;
    ``size`` in bytes; ``why`` the code of a rejection, with its detail.
    """

    round: int
    subtask: str
    site: str
    state: State = "ASSIGNED"
    digest: str = ""
    num_examples: int = 0
    size: int = 0
    asked: str = ""
    signature: str = ""
    why: str = ""


def standings(rows: Iterable[Row], run: str) -> dict[str, Standing]:
    """Return each assignment of a run by its id, in the order in which they were made.

    Raises:
        DataError: a row merges what was not found good, or merges or commits something twice.
    """
    view = _View(run)
    for row in rows:
        view.take(row)
    return view.found


class _View:
    def __init__(self, run: str) -> None:
        self._run = run
        self.found: dict[str, Standing] = {}

    def take(self, row: Row) -> None:
        """Take one row in; of other kinds nothing follows."""
        take: Callable[[Row], None] | None = getattr(self, f"_on_{row.kind}", None)
        if take is not None:
            take(row)

    def _on_event(self, row: Row) -> None:
        for said in row.body["instructions"]:
            self._instructed(row, said)

    def _on_received(self, row: Row) -> None:
        for reply in row.body["replies"]:
            if self._is(reply["about"], "RECEIVED"):
                sealed = {key: reply.get(key, "") for key in ("asked", "signature")}
                self._to(row, reply["about"], "RECEIVED", size=reply["size"], **sealed)

    def _on_judged(self, row: Row) -> None:
        event = row.body["event"]
        key = event.get("assignment", "")
        if event["type"] == "arrived" and self._is(key, "VALIDATED"):
            self._to(row, key, "VALIDATED", digest=event["digest"], num_examples=event["num_examples"])
        elif event["type"] == "rejected" and self._is(key, "REJECTED"):
            self._to(row, key, "REJECTED", why=f"{event['code']}: {event['detail']}")

    def _on_aggregated(self, row: Row) -> None:
        for key in row.body["assignments"]:
            self._to(row, key, "AGGREGATED")

    def _on_committed(self, row: Row) -> None:
        for key, one in self.found.items():
            if one.state == "AGGREGATED" and one.round == int(row.key):
                self._to(row, key, "COMMITTED")

    def _instructed(self, row: Row, said: dict[str, Any]) -> None:
        if said["type"] == "send":
            key = assignment_id(self._run, said["round"], said["subtask"], said["site"], said["attempt"])
            self.found[key] = Standing(said["round"], said["subtask"], said["site"])
        elif said["type"] == "discard" and self._is(said["assignment"], "DISCARDED"):
            self._to(row, said["assignment"], "DISCARDED", why=said["code"])

    def _is(self, key: str, state: State) -> bool:
        """Return whether an assignment may come to a state: of a second answer nothing follows."""
        return key in self.found and self.found[key].state in _FROM[state]

    def _to(self, row: Row, key: str, state: State, **more: Any) -> None:
        if not self._is(key, state):
            was = self.found[key].state if key in self.found else "not assigned"
            raise DataError(f"row {row.number} of the journal makes {key} {state}, which was {was}")
        self.found[key] = replace(self.found[key], state=state, **more)
