"""A federation's kits, its server's words, and an agent whose bench does as it is told. Not a test."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tomlkit
from flwr.app import Context, Message, RecordDict

from clients import agent as agent_module
from clients import upkeep
from clients.agent import Agent
from clients.bench import Memory
from clients.bench_work import Work
from clients.flwr_adapter import Job, identity
from clients.kit import SiteKit, load_kit
from clients.ledger import Ledger
from protocol import keys
from protocol.bounds import Frozen
from protocol.bundle import bundle_digest, make_bundle
from protocol.header import digest
from protocol.keys import load_signing_key
from protocol.messages import Assignment, Contribution, Refusal
from protocol.records import ARRAYS, pack, parts_of, take_seal, unpack, with_seal
from protocol.roster import Roster
from protocol.roster_book import RosterBook
from protocol.seal import Header, Seal, Signer, Verifier
from protocol.work import RECEIPT, REFUSAL, START, Receipt
from server.federation_file import FederationFile
from server.provision import provision
from tests.clients.warm_cases import RISK

BUNDLE = make_bundle()
QUERY = Assignment(run="r", round=1, subtask=RISK, site="north", model="mlp_small")
ASKED = digest(parts_of(pack(QUERY)))[0]
TASK = QUERY.id
WEIGHTS = {"w": np.arange(3, dtype=np.float32)}


def make_kits(out: Path) -> None:
    """Provision a federation of two sites in OUT/1, and renew it in OUT/2."""
    server = {"hosts": ["127.0.0.1"], "port": 8443}
    federation = FederationFile.model_validate(
        {"name": "clinic", "sites": ["north", "south"], "server": server}
    )
    provision(federation, out / "2", lambda new: b"correct horse battery", now=time.time())
    data = {"risk": {"format": "csv", "path": "rows.csv", "target": "y"}}
    for name in ("north", "south"):
        site = {"name": name, "server": {"host": "127.0.0.1", "port": 8443}, "data": data}
        (out / "2" / name / "site.toml").write_text(tomlkit.dumps(site), encoding="utf-8")
    shutil.copytree(out / "2", out / "1")
    provision(federation, out / "2", lambda new: b"correct horse battery", now=time.time())


def contribution(**changes: Any) -> RecordDict:
    """A site's contribution, with its arrays."""
    said = {
        "run": "r", "round": 1, "subtask": "risk", "site": "north", "attempt": 1, "model": "m",
        "exchange": "weights", "num_examples": 1, "examples_processed": 1, "computed_on": "0" * 16,
        "digest": "0" * 64,
    }  # fmt: skip
    return pack(Contribution.model_validate(said | changes), WEIGHTS)


@dataclass
class Obedient:
    """In the place of a bench: work ends when the test says so, or at once with ``auto``."""

    site_toml: Path
    logs: Path
    memory: Memory
    finished: Callable[[Work], None]
    auto: RecordDict | None = None
    puts: list[Work] = field(default_factory=list)
    works: dict[bytes, Work] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)
    worker: int | None = None
    closed: bool = False
    broken: bool = False
    kept: list[str] = field(default_factory=list)
    served: list[tuple[str, int]] = field(default_factory=list)

    def get(self, asked: bytes, previous: bytes = b"") -> Work | None:
        """As a bench's."""
        work = self.works.get(asked)
        return work if work is not None and work.previous == previous else None

    def put(self, work: Work) -> Work:
        """As a bench's, whose worker takes it up at once."""
        self.memory.turn(work.run, work.previous)
        self.puts.append(work)
        self.works[work.asked] = work
        if self.auto is not None:
            self.finish(work, self.auto)
        return work

    def finish(self, work: Work, answer: RecordDict, changed: dict[str, bytes | None] | None = None) -> None:
        """End some work with an answer, as a bench does."""
        work.answer, work.changed, work.state = parts_of(answer), changed or {}, "done"
        self.finished(work)
        if work.refusal is None:
            self.works.pop(work.asked, None)
        work.done.set()

    def end(self, work: Work, state: Any, why: str = "") -> None:
        """End some work without an answer; it is remembered for a while."""
        work.state, work.why = state, why
        work.done.set()

    def cancel(self, asked: bytes) -> bool:
        """As a bench's."""
        if asked in self.works:
            self.end(self.works[asked], "cancelled", "the server no longer wants it")
        return asked in self.works

    def keep_only(self, run: str) -> None:
        """As a bench's."""
        self.kept.append(run)

    def serve(self, run: str, lease: int) -> None:
        """As a bench's."""
        self.served.append((run, lease))
        for work in self.works.values():
            work.serves = max(work.serves, lease)

    def close(self) -> None:
        """As a bench's."""
        self.closed = True


@dataclass
class Desk:
    """An agent of the site north, its server's signer, and a clock that both go by.

    Args:
        kits: the folder that ``make_kits`` made.
        folder: an empty one, for the site's.
    """

    kits: Path
    folder: Path
    hold_s: float = 0.05
    ahead_s: float = 0.0
    epoch: int = 1

    def __post_init__(self) -> None:
        shutil.copytree(self.kits / "1" / "north", self.folder / "north")
        self.key = load_signing_key(self.kits / "1" / "server" / "signing.key")
        self.roster = Roster.model_validate(self.agent_now().book.current)
        self.verifier = Verifier("clinic", "server", self.roster.key_of, lambda: self.epoch, self.clock)

    def clock(self) -> float:
        """The time."""
        return time.time() + self.ahead_s

    def agent_now(self) -> Agent:
        """Start the agent, anew if there was one: it has nothing but its folder."""
        self.close()
        kit = load_kit(self.folder / "north")
        kit.state.mkdir(exist_ok=True)
        self.agent = Agent(kit, Ledger(kit.state, 64), self.hold_s, self.clock)
        return self.agent

    @property
    def bench(self) -> Obedient:
        """The agent's."""
        assert isinstance(self.agent.bench, Obedient)
        return self.agent.bench

    def close(self) -> None:
        """End the agent."""
        if hasattr(self, "agent"):
            self.agent.close()

    def signer(self, name: str = "server", federation: str = "clinic", epoch: int | None = None) -> Signer:
        """Who signs with the server's key."""
        return Signer(federation, name, self.key, lambda: epoch or self.epoch, self.clock)

    def sealed(
        self, said: Frozen | RecordDict, signer: Signer | None = None, **header: Any
    ) -> tuple[RecordDict, Seal]:
        """What the server says, and its seal."""
        record = said if isinstance(said, RecordDict) else pack(said)
        about = {"run": "r", "task": TASK, "kind": "train.weights", "recipient": "north", "lease": 1}
        return record, (signer or self.signer()).seal(parts_of(record), **{**about, **header})

    def ask(
        self,
        said: Frozen | RecordDict,
        how: str = START,
        bundle: bytes = BUNDLE,
        bundle_name: str = "",
        **header: Any,
    ) -> RecordDict | None:
        """Send what the server says, sealed, and return what comes back."""
        record = with_seal(*self.sealed(said, **header))
        return self.agent.answer(job(record, how, bundle, bundle_name))

    def open(self, answer: RecordDict | None) -> tuple[Header, RecordDict]:
        """Return what the site said, if it is sealed for the server as it must be."""
        assert answer is not None
        record, seal = take_seal(answer)
        return self.verifier.open(parts_of(record), seal, sender="north"), record

    def audit(self) -> list[str]:
        """The lines of the audit."""
        return (self.folder / "north" / "state" / "audit.jsonl").read_text().splitlines()


def job(record: RecordDict, how: str = START, bundle: bytes = BUNDLE, bundle_name: str = "") -> Job:
    """A message as a SuperNode hands it on."""
    with identity():
        message = Message(record, dst_node_id=1, message_type=how)
    context = Context(1, 1, node_config={}, state=RecordDict(), run_config={})
    return Job(message, context, bundle, bundle_name or bundle_digest(bundle))


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Kits of one federation, of its first and second roster."""
    folder = tmp_path_factory.mktemp("kits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "_SCRYPT_N", 2**10)
        make_kits(folder)
    return folder


@pytest.fixture
def desk(kits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """An agent, and no line to any server."""
    monkeypatch.setattr(agent_module, "Bench", Obedient)

    def nobody(kit: SiteKit, book: RosterBook) -> bool:
        raise httpx.ConnectError("no server here")

    monkeypatch.setattr(upkeep, "fetch_roster", nobody)
    made = Desk(kits, tmp_path)
    yield made
    made.close()


def in_round(number: int, **changes: Any) -> Assignment:
    """The question of another round."""
    return QUERY.model_copy(update={"round": number, **changes})


def receipt(desk: Desk, answer: RecordDict | None) -> Receipt:
    """The receipt in an answer."""
    header, record = desk.open(answer)
    assert header.kind == RECEIPT
    return unpack(record, Receipt)[0]


def refusal(desk: Desk, answer: RecordDict | None) -> Refusal:
    """The refusal in an answer."""
    header, record = desk.open(answer)
    assert header.kind == REFUSAL
    return unpack(record, Refusal)[0]


__all__ = [
    "ARRAYS",
    "ASKED",
    "BUNDLE",
    "QUERY",
    "TASK",
    "WEIGHTS",
    "Desk",
    "Obedient",
    "contribution",
    "desk",
    "job",
    "kits",
    "make_kits",
    "receipt",
    "refusal",
]
