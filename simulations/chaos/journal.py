"""Every step of a run's journal, failed: killed before and after it, the power cut, the disk full or broken.

A small run is carried out once on a disk that shows its folder before and after every step: what is there
is what a process that is killed there leaves. Of what was not synced by then each end is taken away in turn,
as a power cut would. From each such folder, and from what every kind of failed write leaves, the run is
resumed in a fresh federation, dies once more at a step of its own, and is resumed again. It must end with the
SHA-256 of every model that it has when nothing happens to it, with the same events, and with every
contribution where it should be.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Context, Message

from clients.app import app as client_app
from clients.memory_records import freeze
from collab.collaboration import Collaboration
from collab.settings import parse
from protocol.errors import ConsiliumError, DataError
from protocol.records import parts_of, record_of
from server.federation import Terms, federate, to_toml
from server.flwr_adapter import task_identity
from server.journal.content import FOLDER
from server.journal.disk import Disk
from server.journal.states import Standing, standings
from server.journal.store import JournalError
from server.runlog import rows
from simulations.chaos.disks import (
    FAULTS,
    CrashedDisk,
    FailingDisk,
    Fault,
    Killed,
    KillingDisk,
    WatchedDisk,
)
from simulations.local_engine import LocalGrid
from simulations.simulate import ready

RUN = "run"
_SOON = 60  # steps within which a run that goes on dies once more
# Two subtasks that between them use weights, a rule with a state, soft labels, distillation, personal state.
TABLES: Mapping[str, Any] = {
    "name": "chaos",
    "seed": 7,
    "rounds": 2,
    "subtasks": {
        "iris": {
            "kind": "tabular_classification",
            "models": ["linear"],
            "aggregation": "scaffold",
            "train": {"lr": 0.1, "batch_size": 16, "local_epochs": 1},
        },
        "wine": {
            "kind": "tabular_classification",
            "exchange": "soft_labels",
            "models": ["linear"],
            "train": {"optimizer": "adam", "lr": 0.02, "batch_size": 8, "local_epochs": 2},
            "soft_labels": {"public": {"holdout": 40}, "student_every": 1},
            "distillation": {"sharpen": "none", "epochs": 5, "lr": 0.02, "digest": {"epochs": 1}},
        },
    },
    "allocation": {"policy": "everyone"},
    "coordination": {"quorum": 1.0, "min_coverage": 0.0, "join_s": 5},
    "data": {name: {"format": "sklearn", "name": name} for name in ("iris", "wine")},
    "sites": {name: {"device": "cpu"} for name in ("alpha", "beta", "gamma")},
}


class Memo:
    """A ClientApp that answers at once what it was asked before, in the same state by the same message.

    Sites are deterministic, so this saves their work alone. A memory that came back otherwise is another
    state, and is worked from.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[tuple[bytes, ...], dict[str, Any]]] = {}
        self.worked = 0

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as the ClientApp does."""
        state = context.state
        key = hashlib.sha256(repr((message.metadata.message_type, context.node_id)).encode())
        for part in parts_of(message.content):
            key.update(hashlib.sha256(part).digest())
        for name in sorted(state):
            key.update(hashlib.sha256(name.encode() + freeze(state[name])).digest())
        known = self._known.get(key.digest())
        if known is None:
            self.worked += 1
            reply = client_app(message, context)
            self._known[key.digest()] = (parts_of(reply.content), dict(state))
            return reply
        parts, after = known
        state.clear()
        state.update(after)
        return Message(record_of(parts), reply_to=message)


@dataclass(frozen=True)
class Ending:
    """What a run came to: the SHA-256 of its models, its events, and what became of each assignment."""

    models: Mapping[str, str]
    events: tuple[str, ...]
    standings: Mapping[str, Standing]


@dataclass
class Verdict:
    """How many points were tried, how many different folders they left to go on from, and what was found."""

    steps: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    folders: int = 0
    merged_before: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass
class Proof:
    """Fails every step of one small run.

    Args:
        scratch: an empty folder.
        tables: the collaboration.
        every: try each step of so many; 1 tries all.
        commits: try what each transaction leaves alone.
        faults: what else than crashes is tried.
    """

    scratch: Path
    tables: Mapping[str, Any] = field(default_factory=lambda: TABLES)
    every: int = 1
    commits: bool = False
    faults: Sequence[Fault] = FAULTS
    verdict: Verdict = field(default_factory=Verdict)

    def __post_init__(self) -> None:
        self._app = Memo()
        self._terms: Collaboration = ready(parse(dict(self.tables), "chaos"), Path())
        self._seen: set[str] = set()
        self._undisturbed = Ending({}, (), {})
        self._numbers = iter(range(10**9))
        self._rng = random.Random(self._terms.seed)  # noqa: S311  when to die

    def run(self, tell: Callable[[str], None] = lambda _: None) -> Verdict:
        """Try every step; return what was found."""
        reference = self.scratch / "undisturbed" / RUN
        watched = WatchedDisk(reference)
        self._federate(reference, watched)
        self._undisturbed = _ending(reference)
        self.verdict.steps = Counter(watched.steps)
        tell(f"{len(watched.steps)} steps: {dict(self.verdict.steps)}")
        self._crashes(tell)
        for fault in self.faults:
            for at in range(next(self._numbers) % self.every, len(watched.steps), self.every):
                if fault != "short" or watched.steps[at] == "write":
                    self._fault(at, fault)
            tell(f"{fault}: {self.verdict.points[fault]} steps, {len(self.verdict.failures)} failures")
        return self.verdict

    def _crashes(self, tell: Callable[[str], None]) -> None:
        """Resume from what a kill, and a power cut, at every step leaves."""
        crashed = self.scratch / "crashed" / RUN
        disk = CrashedDisk(crashed)
        waiting: list[tuple[str, Path]] = []

        def look(number: int, place: str) -> None:
            is_commit = self.commits and disk.steps[-1:] == ["commit"] and place == "after"
            count = disk.steps.count("commit") if self.commits else number
            if (self.commits and not is_commit) or count % self.every or not crashed.exists():
                return
            for kept in range(len(disk.loose), -1, -1):
                what = "killed" if kept == len(disk.loose) else "power cut"
                self.verdict.points[f"{what} {place}"] += 1
                copy = self.scratch / f"copy-{next(self._numbers)}" / RUN
                shutil.copytree(crashed, copy)
                disk.lose(copy, kept)
                if (mark := _mark(copy)) in self._seen:
                    shutil.rmtree(copy.parent)
                    continue
                self._seen.add(mark)
                waiting.append((f"{what} {place} step {number}, {kept} of {len(disk.loose)} kept", copy))

        disk.look = look
        self._federate(crashed, disk)
        tell(f"{sum(self.verdict.points.values())} crash points leave {len(waiting)} different folders")
        for about, copy in waiting:
            self._resume(about, copy)
            shutil.rmtree(copy.parent)

    def _fault(self, at: int, fault: Fault) -> None:
        self.verdict.points[fault] += 1
        folder = self.scratch / f"fault-{next(self._numbers)}" / RUN
        about = f"{fault} at step {at}"
        disk = FailingDisk(folder, at=at, fault=fault)
        try:
            self._federate(folder, disk)
            if disk.steps[at] == "remove":  # what is not removed takes room and nothing else
                self._check(about, folder)
            else:
                self.verdict.failures.append(f"{about}: the run went on as if nothing had happened")
        except JournalError:
            if (mark := _mark(folder)) not in self._seen:
                self._seen.add(mark)
                self._resume(about, folder)
        except (ConsiliumError, OSError) as error:
            self.verdict.failures.append(f"{about}: {type(error).__name__}: {error}")
        shutil.rmtree(folder.parent, ignore_errors=True)

    def _resume(self, about: str, folder: Path) -> None:
        """Go on from a folder, die once more on the way, and go on; note what is not as it should be."""
        self.verdict.folders += 1
        with suppress(DataError):  # there may be no journal yet
            self.verdict.merged_before += any(row.kind == "aggregated" for row in rows(folder))
        again = KillingDisk(folder, at=self._rng.randrange(_SOON))
        try:
            with suppress(Killed):
                self._federate(folder, again)
            self._federate(folder, Disk())
        except (ConsiliumError, OSError) as error:
            self.verdict.failures.append(f"{about}: {type(error).__name__}: {error}")
            return
        self._check(about, folder)

    def _check(self, about: str, folder: Path) -> None:
        found = _ending(folder)
        if found.models != self._undisturbed.models:
            self.verdict.failures.append(f"{about}: other models")
        if found.events != self._undisturbed.events:
            self.verdict.failures.append(f"{about}: other events")
        if found.standings != self._undisturbed.standings:
            self.verdict.failures.append(f"{about}: not every contribution came to where it should")

    def _federate(self, folder: Path, disk: Disk) -> None:
        sites = len(self._terms.sites)
        grid = LocalGrid(self._app, sites, {"collaboration": to_toml(self._terms)})  # type: ignore[arg-type]
        terms = Terms(RUN, folder, "simulated", "local", baselines=False)
        with task_identity(grid.run.run_id):
            federate(grid, self._terms, terms, None, grid, disk)


def _ending(folder: Path) -> Ending:
    files = sorted(folder.rglob("*.safetensors"))
    models = {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    events = tuple(repr(sorted(row.body.items())) for row in rows(folder) if row.kind == "event")
    return Ending(models, events, standings(rows(folder), RUN))


def _mark(folder: Path) -> str:
    """Return what a run that goes on from a folder can tell: its rows, but for their times, and files.

    Files that no row names are left out: content that is whole, as it would be written again under the same
    name, and what was being written aside, which nothing reads.
    """
    found, named = hashlib.sha256(), ""
    try:
        for row in rows(folder):
            body = repr((row.kind, row.key, sorted(row.body.items())))
            found.update(body.encode())
            named += body
    except ConsiliumError as error:
        found.update(str(type(error)).encode())
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("journal.")):
        digest = hashlib.sha256(path.read_bytes())
        is_spare = path.parent.name == FOLDER and path.name == digest.hexdigest() and path.name not in named
        if not is_spare and not path.name.endswith(".aside"):
            found.update(repr(path.relative_to(folder)).encode() + digest.digest())
    return found.hexdigest()
