"""Errands over a link that the test holds in its hands: sites with keys, clocks that it sets. Not a test."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Error, Message, RecordDict

from protocol.bounds import Frozen
from protocol.messages import Evaluation, LocalModel, Refusal
from protocol.records import pack, parts_of, take_seal, unpack, with_seal
from protocol.seal import Header
from protocol.work import CANCEL, POLL, RECEIPT, REFUSAL, Cancel, Poll, Receipt, moves, work_name
from server.envelopes import Envelopes
from server.errands import ErrandGrid, SiteWork
from tests.protocol.seal_cases import World as Parties
from tests.server.grid_cases import evaluation

KIND = "train.weights"
RUN = "r1"
NODES = {"north": 12, "south": 13}


@dataclass
class Sent:
    """One message that went out, as its site opened it."""

    id: str
    site: str
    type: str
    message: Message
    record: RecordDict
    header: Header

    @property
    def asked(self) -> bytes:
        """The digest that an answer must name."""
        if self.type == POLL:
            return bytes.fromhex(unpack(self.record, Poll)[0].asked)
        if self.type == CANCEL:
            return bytes.fromhex(unpack(self.record, Cancel)[0].asked)
        return self.header.body_digest


class Work(Frozen):
    """As much of an assignment as the errands look at."""

    run: str
    round: int
    subtask: str
    site: str
    attempt: int


@dataclass
class World:
    """Two sites, the link to them, and the errands above it."""

    parties: Parties = field(default_factory=Parties)
    at: float = 1000.0
    is_stopped: bool = False

    def __post_init__(self) -> None:
        self.online_now: dict[str, tuple[int, str]] = {name: (n, "t1") for name, n in NODES.items()}
        self.takes = True
        self.takes_not: set[str] = set()
        self.named = set(NODES)
        self.sent: list[Sent] = []
        self.signatures: list[bytes] = []
        self.inbox: dict[str, list[Message]] = {}
        self.told: list[tuple[str, SiteWork]] = []
        self._verifiers = {name: self.parties.verifier(name) for name in NODES}
        self.envelopes = Envelopes(RUN, self.parties.signer(), self.parties.verifier("server"), lease=4)
        self.grid = ErrandGrid(
            self,
            self.envelopes,
            clock=lambda: self.parties.now,
            told=lambda site, work: self.told.append((site, work)),
            is_stopped=lambda: self.is_stopped,
            monotonic=lambda: self.at,
        )

    def online(self) -> Mapping[str, tuple[int, str]]:
        """Who is connected."""
        return self.online_now

    def members(self) -> Collection[str]:
        """Who is in the roster."""
        return self.named

    def push(self, message: Message) -> str | None:
        """Take a message as Flower would."""
        if not self.takes:
            return None
        site = next(name for name, node in NODES.items() if node == message.metadata.dst_node_id)
        if site in self.takes_not:
            return None
        record, seal = take_seal(message.content)
        header = self._verifiers[site].open(parts_of(record), seal, sender="server", run=RUN)
        number = f"flower-{len(self.sent)}"
        self.sent.append(Sent(number, site, message.metadata.message_type, message, record, header))
        return number

    def pull(self, message_id: str) -> list[Message]:
        """Give what a site answered, once."""
        return self.inbox.pop(message_id, [])

    def ask(self, site: str = "north", about: str = "a") -> str:
        """Have a question for a site; return its id."""
        record = pack(LocalModel(site=site, subtask=about, model=None))
        (number,) = self.grid.push_messages([Message(record, NODES[site], KIND)])
        return number

    def train(self, site: str = "north", round: int = 1, about: str = "a", kind: str = KIND) -> str:  # noqa: A002
        """Have work of a round for a site; return its id."""
        record = pack(Work(run=RUN, round=round, subtask=about, site=site, attempt=1))
        (number,) = self.grid.push_messages([Message(record, NODES[site], kind)])
        return number

    def wait(self, seconds: float, number: str = "") -> list[Message]:
        """Let time pass, look once, and return what has come for a question."""
        self.at += seconds
        self.parties.now += seconds
        return list(self.grid.pull_messages([number]))

    def answer(
        self, sent: Sent, record: RecordDict | None = None, *, kind: str = KIND, **changes: Any
    ) -> Message:
        """Have a site answer, with a memory that moved on; ``changes`` replace what its seal says."""
        record = evaluation(sent.site) if record is None else record
        signer = changes.pop("signer", self.parties.signer(changes.pop("by", sent.site)))
        given = {"run": RUN, "task": sent.header.task, "recipient": "server", "answers": sent.asked} | changes
        if "previous" not in changes and kind not in (RECEIPT, REFUSAL):
            after = work_name(RUN, kind, sent.asked)
            given["previous"] = after if moves(kind) else sent.header.previous
        seal = signer.seal(parts_of(record), kind=kind, **given)
        self.signatures.append(seal.signature)
        sealed = with_seal(record, seal)
        return self.put(sent, Message(sealed, reply_to=sent.message))

    def receipt(self, sent: Sent, state: str = "working", **more: Any) -> None:
        """Have a site answer with a receipt."""
        record = pack(Receipt.model_validate({"asked": sent.asked.hex(), "state": state, **more}))
        self.answer(sent, record, kind=RECEIPT)

    def lose(self, sent: Sent) -> None:
        """Have Flower answer with an error of its own."""
        self.put(sent, Message(Error(code=0, reason="lost"), reply_to=sent.message))

    def put(self, sent: Sent, reply: Message) -> Message:
        """Have a reply lie ready."""
        self.inbox.setdefault(sent.id, []).append(reply)
        return reply

    @property
    def types(self) -> list[str]:
        """The types of all that went out."""
        return [sent.type for sent in self.sent]

    @property
    def last(self) -> Sent:
        """What went out last."""
        return self.sent[-1]


def refusal(messages: list[Message]) -> Refusal:
    """The one refusal that came."""
    (message,) = messages
    return unpack(message.content, Refusal)[0]


def cancelled(sent: Sent) -> str:
    """What a cancellation ends."""
    assert sent.type == CANCEL
    return unpack(sent.record, Cancel)[0].asked


def result(messages: list[Message]) -> Evaluation:
    """The one result that came."""
    (message,) = messages
    return unpack(message.content, Evaluation)[0]
