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

from flwr.app import RecordDict

from clients import gate
from clients.bench import Bench
from clients.bench_work import Work
from clients.flwr_adapter import Job, TaskDesk, leave_quietly
from clients.kit import SiteKit, load_kit, open_roster_book
from clients.ledger import Known, Ledger, Result
from clients.questions import check_about
from clients.serving import serve
from clients.upkeep import Upkeep
from protocol.bundle import bundle_digest, make_bundle, package_version
from protocol.children import inherit
from protocol.errors import ConsiliumError, MessageError, SealError, VersionError
from protocol.keys import load_signing_key
from protocol.messages import Refusal
from protocol.records import pack, parts_of, record_of, take_seal, unpack, with_seal
from protocol.roster import SERVER
from protocol.seal import Header, Signer, Verifier
from protocol.versions import check_flower
from protocol.work import CANCEL, HOLD_S, POLL, RECEIPT, REFUSAL, START, Cancel, Poll, Receipt, work_name

logger = logging.getLogger("consilium.agent")

_MOST_NAMES = 1000
_NOTHING = (b"", "")


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
    _names: OrderedDict[tuple[str, bytes], tuple[bytes, str]] = field(default_factory=OrderedDict, repr=False)
    # The run that the site works for, and when its newest message was sealed.
    _for: str = ""
    _for_ms: int = 0

    def __post_init__(self) -> None:
        self.book = open_roster_book(self.kit)
        roster, name = self.book.current, self.kit.config.name
        key = load_signing_key(self.kit.signing_key)
        self.signer = Signer(roster.federation, name, key, self.book.epoch, self.clock)
        self.verifier = Verifier(roster.federation, name, self.book.key_of, self.book.epoch, self.clock)
        self.bundle = bundle_digest(make_bundle())
        self.bench = Bench(self.kit.site_toml, self.kit.logs, self.ledger, self._keep)
        self.upkeep = Upkeep(self.kit, self.book, lambda: self.bench.counters, self.ledger.tend)
        self._audit = (self.kit.state / "audit.jsonl").open("a", encoding="utf-8")

    def answer(self, job: Job) -> RecordDict | None:
        """Return the sealed answer to a message; None for one that cannot even be refused by name."""
        header: Header | None = None
        try:
            header, record = self._open(job)
            self._check_app(job)
            self._turn_to(header)
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

    @property
    def broken(self) -> bool:
        """Whether it can do no work any more, and another is to take its place."""
        return self.bench.broken

    def tend(self) -> None:
        """Do what is due now and then."""
        self.upkeep.tend()

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
        self.upkeep.renew_roster()
        return self.verifier.open(parts, seal, sender=SERVER), record

    def _check_app(self, job: Job) -> None:
        if job.bundle_digest != self.bundle or bundle_digest(job.bundle) != self.bundle:
            raise VersionError(
                f"the server runs another release of Consilium than this site ({package_version()}): "
                "install the same one on both"
            )

    def _turn_to(self, header: Header) -> None:
        """Let go of what was asked for in another run, and work for the newest process of the server.

        The server works on one run at a time: what it has left would keep what it asks for now waiting. A
        late message of the run before stops nothing. A process that takes another's place goes on with the
        run, so what that one asked for goes on too.

        Raises:
            RunError: the message is of a process that has been replaced.
        """
        # In this order: work that ends in between is not taken for that of a process that was replaced.
        self.bench.serve(header.run, header.lease)
        self.ledger.fence(header.run, header.lease)
        if header.run == self._for or header.issued_at_ms >= self._for_ms:
            self._for, self._for_ms = header.run, max(self._for_ms, header.issued_at_ms)
            self.bench.keep_only(header.run)

    def _do(self, how: str, header: Header, record: RecordDict) -> RecordDict:
        if how == START:
            return self._start(header, record)
        if how == POLL:
            poll, _ = unpack(record, Poll)
            return self._poll(header, bytes.fromhex(poll.asked), min(poll.hold_s, self.hold_s))
        if how == CANCEL:
            cancel, _ = unpack(record, Cancel)
            asked = bytes.fromhex(cancel.asked)
            name, _ = self._names.get((header.run, asked), _NOTHING)
            state = "cancelled" if self.bench.cancel(name) else "unknown"
            return self._sealed(pack(Receipt(asked=cancel.asked, state=state)), header, RECEIPT, asked)
        raise MessageError(f"a message of type {how[:40]!r}, which sites do not know")

    def _start(self, header: Header, record: RecordDict) -> RecordDict:
        asked, kind = header.body_digest, header.kind
        if kind not in gate.ANSWERS:
            raise MessageError(f"a question of kind {kind!r}, which sites do not know")
        check_about(header, record, self.kit.config.name)
        if kind.startswith("train."):
            self.ledger.note_ask(header.run, kind, header.task, asked)
        name = self._name(header.run, kind, asked)
        # In this order: work that ends in between has its result in the ledger, and is not done twice.
        work = self.bench.get(name, header.previous)
        if work is None and (known := self._recall(header, name, kind)) is not None:
            return self._result(header, asked, known)
        if work is None:
            told = Work(header.run, kind, header.task, name, parts_of(record))
            told.lease = told.serves = header.lease
            told.previous = header.previous
            work = self.bench.put(told)
        work.lease = header.lease
        return self._wait(header, work, asked, self.hold_s)

    def _name(self, run: str, kind: str, asked: bytes) -> bytes:
        """Name some work. A poll, which does not say the kind, means the latest of one body."""
        name = work_name(run, kind, asked)
        self._names[run, asked] = name, kind
        self._names.move_to_end((run, asked))
        if len(self._names) > _MOST_NAMES:
            self._names.popitem(last=False)
        return name

    def _poll(self, header: Header, asked: bytes, hold_s: float) -> RecordDict:
        # One that this process never saw is unknown, also if its result is there: asked in full, it is given.
        name, kind = self._names.get((header.run, asked), _NOTHING)
        work = self.bench.get(name, header.previous)
        if work is not None:
            return self._wait(header, work, asked, hold_s)
        if name and (known := self._recall(header, name, kind)) is not None:
            return self._result(header, asked, known)
        return self._sealed(pack(Receipt(asked=asked.hex(), state="unknown")), header, RECEIPT, asked)

    def _recall(self, header: Header, name: bytes, kind: str) -> Known | None:
        return self.ledger.recall(header.run, kind, name, header.previous)

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
        known = self._recall(header, work.asked, work.kind) if work.state == "done" else None
        if known is not None:
            return self._result(header, asked, known)
        code = "cancelled" if work.state == "cancelled" else work.code
        refusal = Refusal(code=code, detail=work.why[:500])
        return self._sealed(pack(refusal), header, REFUSAL, asked)

    def _result(self, header: Header, asked: bytes, known: Known) -> RecordDict:
        result = known.result
        return self._sealed(record_of(result.parts), header, result.kind, asked, known.version)

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
        lease = max(work.lease, work.serves)
        about = work.run, work.kind, work.asked
        self.ledger.commit(*about, result, work.changed, parent=work.previous, lease=lease)

    def _sealed(
        self,
        record: RecordDict,
        header: Header,
        kind: str,
        asked: bytes | None = None,
        version: bytes = b"",
    ) -> RecordDict:
        """Return the answer with this site's seal, and write down that it leaves.

        ``version`` is that of the memory after it, where it is a result.
        """
        parts = parts_of(record)
        seal = self.signer.seal(
            parts,
            run=header.run,
            task=header.task,
            kind=kind,
            recipient=SERVER,
            answers=header.body_digest if asked is None else asked,
            lease=header.lease,
            previous=version,
        )
        said = {"at": self.clock(), "run": header.run, "kind": kind, "task": header.task}
        self._audit.write(json.dumps({**said, "bytes": sum(map(len, parts))}) + "\n")
        self._audit.flush()
        return with_seal(record, seal)


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
    code = 1
    try:
        serve(agent, desk, lambda: bool(stopped))
        code = 0
    except Exception as error:
        logger.exception("the agent ends")
        tell({"failed": str(error) if isinstance(error, ConsiliumError) else type(error).__name__})
    finally:
        try:
            agent.close()
        finally:
            leave_quietly(code)


if __name__ == "__main__":
    main()
