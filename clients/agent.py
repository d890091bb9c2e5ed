"""A site's agent: it answers the server's messages, and holds what the worker must not: keys and rules.

Started by ``consilium site up`` as ``python -m clients.agent``. It imports no torch. What the server sent as
an app is compared with the installed one and never run; who sent a message is told by its seal alone.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from flwr.app import RecordDict

from clients import gate
from clients.bench import Bench, Work
from clients.flwr_adapter import Job, TaskDesk, leave_quietly
from clients.inquiry import fetch_roster
from clients.kit import SiteKit, load_kit, open_roster_book
from clients.ledger import Ledger, Result
from protocol.bundle import bundle_digest, make_bundle, package_version
from protocol.children import inherit
from protocol.errors import ConsiliumError, MessageError, RosterError, SealError, VersionError
from protocol.files import replace
from protocol.header import digest
from protocol.keys import load_signing_key
from protocol.messages import Refusal
from protocol.records import pack, parts_of, record_of, take_seal, unpack, with_seal
from protocol.roster import SERVER
from protocol.seal import Header, Signer, Verifier
from protocol.versions import check_flower
from protocol.work import CANCEL, HOLD_S, POLL, RECEIPT, REFUSAL, START, Cancel, Poll, Receipt

logger = logging.getLogger("consilium.agent")

_FAST_S, _SLOW_S = 0.02, 0.2
_ROSTER_S = 300.0
_TELL_S = 1.0
_MOST_NAMES = 1000


@dataclass
class Agent:
    """Answers messages one at a time, as a SuperNode hands them on.

    Args:
        kit: the site's.
        ledger: what it remembers.
        hold_s: how long a message is held at most for a result.
    """

    kit: SiteKit
    ledger: Ledger
    hold_s: float = HOLD_S
    clock: Callable[[], float] = time.time
    _roster_at: float = field(default_factory=time.monotonic)
    _counted: dict[str, Any] = field(default_factory=dict)
    _names: OrderedDict[tuple[str, bytes], bytes] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.book = open_roster_book(self.kit)
        roster, name = self.book.current, self.kit.config.name
        key = load_signing_key(self.kit.signing_key)
        self.signer = Signer(roster.federation, name, key, self.book.epoch, self.clock)
        self.verifier = Verifier(roster.federation, name, self.book.key_of, self.book.epoch, self.clock)
        self.bundle = bundle_digest(make_bundle())
        self.bench = Bench(self.kit.site_toml, self.kit.logs, self.ledger.memory, self._keep)
        self._audit = (self.kit.state / "audit.jsonl").open("a", encoding="utf-8")

    def answer(self, job: Job) -> RecordDict | None:
        """Return the sealed answer to a message; None for one that cannot even be refused by name."""
        header: Header | None = None
        try:
            header, record = self._open(job)
            self._check_app(job)
            self.ledger.fence(header.run, header.lease)
            return self._do(job.message.metadata.message_type, header, record)
        except ConsiliumError as error:
            logger.warning("refused: %s", error)
            refusal = pack(Refusal(code=error.code, detail=str(error)[:500]))
        except Exception as error:
            # A SuperNode waits without end for an answer: it gets one, whatever happens here.
            logger.exception("a message could not be answered")
            detail = f"{type(error).__name__} at the site; its log says more"
            refusal = pack(Refusal(code="site", detail=detail))
        return self._sealed(refusal, header, REFUSAL) if header else None

    def close(self) -> None:
        """End the worker and close the books."""
        self.bench.close()
        self.ledger.close()
        self._audit.close()

    def write_counters(self) -> None:
        """Say what the worker has loaded since it was started: a number that rises each round is a fault."""
        if self.bench.counters != self._counted:
            self._counted = dict(self.bench.counters)
            replace(self.kit.state / "counters.json", json.dumps(self._counted).encode())

    def keep_current(self) -> None:
        """Fetch the roster now and then."""
        if time.monotonic() > self._roster_at + _ROSTER_S:
            self._renew_roster()

    def _open(self, job: Job) -> tuple[Header, RecordDict]:
        """Return the header and content of a message that the server signed for this site.

        Raises:
            SealError: it did not, or not now.
        """
        record, seal = take_seal(job.message.content)
        parts = parts_of(record)
        try:
            return self.verifier.open(parts, seal, sender=SERVER), record
        except SealError as error:
            if error.reason != "new_epoch":
                raise
        self._renew_roster()
        return self.verifier.open(parts, seal, sender=SERVER), record

    def _renew_roster(self) -> None:
        self._roster_at = time.monotonic()
        try:
            if fetch_roster(self.kit, self.book):
                logger.warning("the roster of epoch %s is in force", self.book.epoch())
        except (ConsiliumError, httpx.HTTPError, OSError) as error:
            why = str(error) if isinstance(error, RosterError) else type(error).__name__
            logger.warning("no new roster: %s", why)

    def _check_app(self, job: Job) -> None:
        if job.bundle_digest != self.bundle or bundle_digest(job.bundle) != self.bundle:
            raise VersionError(
                f"the server runs another release of Consilium than this site ({package_version()}): "
                "install the same one on both"
            )

    def _do(self, how: str, header: Header, record: RecordDict) -> RecordDict:
        if how == START:
            return self._start(header, record)
        if how == POLL:
            poll, _ = unpack(record, Poll)
            return self._poll(header, bytes.fromhex(poll.asked), min(poll.hold_s, self.hold_s))
        if how == CANCEL:
            cancel, _ = unpack(record, Cancel)
            asked = bytes.fromhex(cancel.asked)
            name = self._names.get((header.run, asked), b"")
            state = "cancelled" if self.bench.cancel(name) else "unknown"
            return self._sealed(pack(Receipt(asked=cancel.asked, state=state)), header, RECEIPT, asked)
        raise MessageError(f"a message of type {how[:40]!r}, which sites do not know")

    def _start(self, header: Header, record: RecordDict) -> RecordDict:
        asked, kind = header.body_digest, header.kind
        if kind not in gate.ANSWERS:
            raise MessageError(f"a question of kind {kind!r}, which sites do not know")
        if kind.startswith("train."):
            self.ledger.note_ask(header.run, kind, header.task, header.lease, asked)
        name = self._name(header.run, kind, asked)
        # In this order: work that ends in between has its result in the ledger, and is not done twice.
        work = self.bench.get(name)
        if work is None and (known := self.ledger.result(header.run, name)) is not None:
            return self._result(header, asked, known)
        if work is None:
            work = self.bench.put(Work(header.run, kind, header.task, name, parts_of(record)))
        return self._wait(header, work, asked, self.hold_s)

    def _name(self, run: str, kind: str, asked: bytes) -> bytes:
        """Name some work: two questions of other kinds may have one body. A poll means the latest of them."""
        name = digest([run.encode(), kind.encode(), asked])[0]
        self._names[run, asked] = name
        self._names.move_to_end((run, asked))
        if len(self._names) > _MOST_NAMES:
            self._names.popitem(last=False)
        return name

    def _poll(self, header: Header, asked: bytes, hold_s: float) -> RecordDict:
        # One that this process never saw is unknown, also if its result is there: asked in full, it is given.
        name = self._names.get((header.run, asked), b"")
        work = self.bench.get(name)
        if work is not None:
            return self._wait(header, work, asked, hold_s)
        if (known := self.ledger.result(header.run, name)) is not None:
            return self._result(header, asked, known)
        return self._sealed(pack(Receipt(asked=asked.hex(), state="unknown")), header, RECEIPT, asked)

    def _wait(self, header: Header, work: Work, asked: bytes, hold_s: float) -> RecordDict:
        """Return the result if it is there within ``hold_s``, else a receipt."""
        if work.done.wait(hold_s):
            return self._outcome(header, work, asked)
        state = "waiting" if work.state == "waiting" else "working"
        receipt = Receipt(
            asked=asked.hex(), state=state, share=work.share, eta_s=work.eta_s(), worked_s=work.worked_s()
        )
        return self._sealed(pack(receipt), header, RECEIPT, asked)

    def _outcome(self, header: Header, work: Work, asked: bytes) -> RecordDict:
        if work.refusal is not None:
            return self._sealed(work.refusal, header, REFUSAL, asked)
        known = self.ledger.result(work.run, work.asked)
        if work.state == "done" and known is not None:
            return self._result(header, asked, known)
        refusal = Refusal(code="cancelled" if work.state == "cancelled" else "worker", detail=work.why[:500])
        return self._sealed(pack(refusal), header, REFUSAL, asked)

    def _result(self, header: Header, asked: bytes, known: Result) -> RecordDict:
        return self._sealed(record_of(known.parts), header, known.kind, asked)

    def _keep(self, work: Work) -> None:
        """Look at what the worker gave, and keep it before it is sent.

        A refusal may be for a reason that passes: it is given, and not remembered as the answer for ever.
        """
        record = record_of(work.answer)
        try:
            gate.check(record, work.kind, self.kit.config.name, self.kit.config.egress)
        except MessageError as error:
            logger.error("%s: kept back: %s", work.kind, error)  # noqa: TRY400  one line
            record = pack(Refusal(code="egress", detail=str(error)[:500]))
        if gate.is_refusal(record):
            work.refusal = record
            return
        result = Result(work.kind, work.task, work.answer)
        self.ledger.commit(work.run, work.kind, work.asked, result, work.changed)

    def _sealed(
        self, record: RecordDict, header: Header, kind: str, asked: bytes | None = None
    ) -> RecordDict:
        """Return the answer with this site's seal, and write down that it leaves."""
        parts = parts_of(record)
        seal = self.signer.seal(
            parts,
            run=header.run,
            task=header.task,
            kind=kind,
            recipient=SERVER,
            answers=header.body_digest if asked is None else asked,
            lease=header.lease,
        )
        said = {"at": self.clock(), "run": header.run, "kind": kind, "task": header.task}
        self._audit.write(json.dumps({**said, "bytes": sum(map(len, parts))}) + "\n")
        self._audit.flush()
        return with_seal(record, seal)


def serve(agent: Agent, desk: TaskDesk, stop: Callable[[], bool]) -> None:
    """Answer what the SuperNode hands on, until ``stop``."""
    pause_s, told_at = _FAST_S, 0.0
    while not stop():
        if time.monotonic() > told_at + _TELL_S:
            told_at = time.monotonic()
            agent.write_counters()
            agent.keep_current()
        try:
            job = desk.take()
            if job is None:
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.3, _SLOW_S)
                continue
            pause_s = _FAST_S
            desk.give(job, _answer(agent, job), "the message is not the server's")
        except Exception as error:  # noqa: BLE001  whatever came of one message, the next may be answered
            # The SuperNode was restarted, the run has ended meanwhile, or the message was malformed.
            logger.warning("a message was lost: %s", type(error).__name__)
            desk.drop()
            time.sleep(_SLOW_S)


def _answer(agent: Agent, job: Job) -> RecordDict | None:
    """Return the answer; None, where even a refusal cannot be written down, so that nothing leaves."""
    try:
        return agent.answer(job)
    except Exception:
        logger.exception("an answer could not be sealed")
        return None


def main() -> None:
    """Answer for the site whose kit ``consilium site up`` names."""
    given, tell = inherit()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for noisy in ("httpx", "flwr"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    try:
        check_flower()
        kit = load_kit(Path(given["kit"]))
        agent = Agent(kit, Ledger(kit.state, kit.config.limits.results_mib))
    except ConsiliumError as error:
        tell({"failed": str(error)})
        raise SystemExit(2) from None
    desk = TaskDesk(given["runtime"], bytes.fromhex(given["superexec"]))
    tell({"ready": True})
    try:
        serve(agent, desk, lambda: bool(stopped))
    finally:
        agent.close()
    leave_quietly()


if __name__ == "__main__":
    main()
