"""Collaborations that run in a fraction of a second, on a Grid that remembers what passed over it.

Not a test.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from numpy.typing import NDArray

from clients.app import app as client_app
from collab.collaboration import Collaboration
from collab.settings import parse
from server.federation import Terms, federate, to_toml
from server.flwr_adapter import task_identity
from server.runlog import EVENT_ROW, rows
from simulations.local_engine import LocalGrid
from simulations.simulate import ready

Tables = dict[str, Any]
Named = dict[str, NDArray[Any]]
Answerer = Callable[[Message, Context], Message]

NAMES = ("alpha", "beta", "gamma")
WEIGHTS: Mapping[str, Any] = {
    "kind": "tabular_classification",
    "models": ["linear"],
    "train": {"lr": 0.1, "batch_size": 16, "local_epochs": 1},
}
SOFT_LABELS: Mapping[str, Any] = {
    "kind": "tabular_classification",
    "exchange": "soft_labels",
    "models": ["linear"],
    "wire": "fp32",  # so that a test can change a probability on its way
    "train": {"optimizer": "adam", "lr": 0.02, "batch_size": 8, "local_epochs": 4},
    "soft_labels": {"public": {"holdout": 40}, "student_every": 9},
    "distillation": {"sharpen": "none", "epochs": 15, "lr": 0.02, "digest": {"epochs": 1}},
}


def tables(subtasks: Mapping[str, Mapping[str, Any]] | None = None, **changes: Any) -> Tables:
    """Return a collaboration on flowers (``iris``), or on ``subtasks``, among three alike sites.

    A subtask of the name of one of scikit-learn's data sets has its data; ``changes`` replace whole tables.
    """
    subtasks = {"iris": WEIGHTS} if subtasks is None else subtasks
    made: Tables = {
        "name": "small",
        "seed": 3,
        "rounds": 1,
        "subtasks": subtasks,
        "allocation": {"policy": "everyone"},
        "coordination": {"quorum": 1.0, "min_coverage": 0.0, "join_s": 1},
        "data": {name: {"format": "sklearn", "name": name} for name in subtasks},
        "sites": {name: {"device": "cpu"} for name in NAMES},
    }
    return copy.deepcopy(made | changes)


def sites(**profiles: Mapping[str, Any]) -> Tables:
    """Return the table ``[sites]`` of the usual three, each with what is said of it."""
    return {name: {"device": "cpu", **profiles.get(name, {})} for name in NAMES}


class RecordingGrid(LocalGrid):
    """Remembers every message and its answer, in order."""

    def __init__(
        self, app: Answerer, num_nodes: int, run_config: Mapping[str, bool | float | int | str]
    ) -> None:
        # A ClientApp is called as a function is, and nothing else is asked of it here.
        super().__init__(app, num_nodes, run_config)  # type: ignore[arg-type]
        self.passed: list[tuple[Message, Message]] = []

    def _answer(self, message: Message) -> Message:
        reply = super()._answer(message)
        self.passed.append((message, reply))
        return reply

    def answers(self, message_type: str) -> list[Message]:
        """Return the answers to messages of that type."""
        return [reply for asked, reply in self.passed if asked.metadata.message_type == message_type]


@dataclass
class Small:
    """A run that is over: its summary, its folder and the grid that it went over."""

    summary: Tables
    folder: Path
    grid: RecordingGrid
    told: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def notes(self) -> str:
        """All notes, one a line."""
        return "\n".join(self.summary["notes"])

    def models(self) -> dict[str, bytes]:
        """Return the bytes of every safetensors file, by its path in the folder."""
        files = sorted(self.folder.rglob("*.safetensors"))
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}

    def log(self) -> list[dict[str, Any]]:
        """Return the events of the run's journal, each with the instructions that followed."""
        return [row.body for row in rows(self.folder) if row.kind == EVENT_ROW]

    def outcomes(self, site: str) -> list[str]:
        """Return what became of the site's assignments, in order of round and subtask."""
        return [row["outcome"] for row in self.summary["allocations"] if row["site"] == site]

    def everything(self) -> str:
        """Return all text that the run left, and all that a listener was told."""
        files = [f for f in sorted(self.folder.rglob("*")) if f.suffix in {".json", ".toml", ".md"}]
        texts = [f.read_text(encoding="utf-8") for f in files]
        return "\n".join([*texts, *(json.dumps(body) for body in self.log()), repr(self.told)])


def scenario(made: Tables) -> Collaboration:
    """Return the tables as a collaboration that is ready to be simulated."""
    return ready(parse(made, "test"), Path())


def run(
    made: Tables,
    folder: Path,
    *,
    app: Answerer = client_app,
    grid: type[RecordingGrid] = RecordingGrid,
    baselines: bool = False,
    name: str = "r",
) -> Small:
    """Run a collaboration of these tables in ``folder``/``name``."""
    collaboration = scenario(made)
    over = grid(app, len(collaboration.sites), {"collaboration": to_toml(collaboration)})
    told: list[Mapping[str, Any]] = []
    terms = Terms(name, folder / name, "simulated", "local", baselines=baselines)
    with task_identity(over.run.run_id):
        summary = federate(over, collaboration, terms, told.append)
    return Small(summary, folder / name, over, told)
