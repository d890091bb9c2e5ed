"""The run's log: one JSON line an event with the instructions that followed, written as they come.

``replay`` feeds the events to a fresh state machine and must get the same instructions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pydantic import ValidationError

from collab.collaboration import Collaboration
from collab.events import EVENT, INSTRUCTION, Event, Instruction, Started
from collab.rounds import Rounds
from protocol.errors import DataError, RunError

FILE_NAME = "events.jsonl"
_MAX_LINE = 64 * 2**20


class RunLog:
    """Appends to ``events.jsonl``; each line is on its way to the disk before anything acts on it."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / FILE_NAME).open("x", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, event: Event, instructions: Sequence[Instruction]) -> None:
        """Write one event and what was decided."""
        line = {
            "event": EVENT.dump_python(event, mode="json"),
            "instructions": [INSTRUCTION.dump_python(i, mode="json") for i in instructions],
        }
        self._file.write(json.dumps(line, separators=(",", ":"), sort_keys=True) + "\n")
        self._file.flush()


def read(folder: Path) -> Iterator[tuple[Event, tuple[Instruction, ...]]]:
    """Yield the events and instructions of a run's log.

    Raises:
        DataError: there is no log, or a line is not what the log's version writes; it names the line.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the folder of a run")
    with path.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(_MAX_LINE), b""), start=1):
            try:
                entry: dict[str, Any] = json.loads(line)
                event = EVENT.validate_python(entry["event"], strict=False)
                instructions = tuple(INSTRUCTION.validate_python(i) for i in entry["instructions"])
            except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
                raise DataError(f"{path}: line {number} cannot be read as an event") from None
            yield event, instructions


class Replayed(NamedTuple):
    """How many events gave how many instructions again, and whether the log reaches the run's end."""

    events: int
    instructions: int
    ended: bool


def replay(folder: Path, collaboration: Collaboration) -> Replayed:
    """Feed the logged events to a fresh state machine; return how many events and instructions agreed.

    Raises:
        RunError: the first event whose instructions differ from the logged ones.
        DataError: there is no log, no run in it, or a line that is no event.
    """
    run = next((e.run for e, _ in read(folder) if isinstance(e, Started)), None)
    if run is None:
        raise DataError(f"{folder / FILE_NAME}: no run was started in this log")
    machine, events, count = Rounds(collaboration, run), 0, 0
    for number, (event, logged) in enumerate(read(folder), start=1):
        given = machine.handle(event)
        if given != logged:
            raise RunError(
                f"{folder / FILE_NAME}: line {number} ({event.type}): {_difference(given, logged)}"
            )
        events, count = events + 1, count + len(given)
    return Replayed(events, count, machine.over)


def _difference(given: Sequence[Instruction], logged: Sequence[Instruction]) -> str:
    pairs = zip([*given, *[None] * len(logged)], [*logged, *[None] * len(given)], strict=False)
    now, then = next((a, b) for a, b in pairs if a != b)
    return f"replay gives {now!r:.300}, the log has {then!r:.300}"
