"""What comes in answer to an errand: a result, a receipt, a refusal or an error of Flower's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from flwr.app import Error, Message

from protocol.errors import ConsiliumError, EquivocationError, SealError
from protocol.messages import Refusal
from protocol.records import pack, unpack
from protocol.seal import Header
from protocol.work import RECEIPT, REFUSAL, Receipt, moves, work_name
from server.envelopes import Envelopes, signature_of
from server.errand import Errand, SiteWork
from server.provenance import Provenance

logger = logging.getLogger(__name__)

AGAIN_S = 0.5
_POLL_S = 1.0
_MOST_LOST = 20  # answers in a row that got lost, before the site counts as failed
_RENEWED = {"old_epoch", "new_epoch", "expired", "early", "replay"}  # another seal may pass


class Nobodys:
    """Stands for the answer to an errand that is over and of which nobody awaits one."""


NOBODYS: Final = Nobodys()
Answer = Message | Nobodys


class Intake:
    """Judges replies; what is to be asked again, and when, is noted in the errand.

    Args:
        envelopes: opens the messages.
        clock: seconds since 1970, for people.
        show: is told what a site does.
    """

    def __init__(
        self, envelopes: Envelopes, clock: Callable[[], float], show: Callable[[str, SiteWork], None]
    ) -> None:
        self._envelopes, self._clock, self._show = envelopes, clock, show

    def take(self, errand: Errand, reply: Message, now: float) -> Answer | None:
        """Take one reply; return the errand's answer if that was its end, else None."""
        if reply.has_error():
            return self._lose(errand, now)
        try:
            record, header = self._envelopes.open(reply.content, errand.site, errand.task, errand.asked)
            if header.kind == RECEIPT:
                receipt, _ = unpack(record, Receipt)
                return self._note(errand, receipt, now)
            if header.kind not in (errand.kind, REFUSAL):
                raise SealError(f"an answer of kind {header.kind} to {errand.kind}", "kind")
            version = _version_after(errand, header)
            if header.kind == errand.kind:
                self._envelopes.once(header)
            errand.provenance = Provenance(
                errand.asked, signature_of(reply.content), version != errand.previous, version
            )
        except ConsiliumError as error:
            return self._refuse(errand, error, now)
        return Message(record, reply_to=errand.message)

    def _note(self, errand: Errand, receipt: Receipt, now: float) -> Answer | None:
        errand.lost = errand.wrong = 0
        is_known = receipt.state in ("waiting", "working")
        # A site holds a poll for as long as it may; one that answers at once would be asked in a hot loop.
        at_least = max(now, errand.sent_at + _POLL_S)
        if errand.withdrawn:
            errand.again_at = at_least
            return None if is_known else NOBODYS
        errand.receipted = is_known
        errand.again_at = at_least if is_known else now + AGAIN_S
        if is_known:
            begun_s = self._clock() - (now - errand.begun)
            seen = SiteWork("working", begun_s, errand.kind, errand.task, receipt.share, receipt.eta_s)
            self._show(errand.site, seen)
        return None

    def _lose(self, errand: Errand, now: float) -> Answer | None:
        """Take an error of Flower's: the question or its answer was lost, so it is asked again."""
        if errand.withdrawn:  # the site was told, as well as that can be; if not, it will be
            return NOBODYS if errand.again_at is None else None
        errand.lost += 1
        if errand.lost < _MOST_LOST:
            errand.again_at = now + min(AGAIN_S * errand.lost, 5.0) if not errand.sent else errand.again_at
            return None
        return failed(errand.message, "its answers were lost on the way")

    def _refuse(self, errand: Errand, error: ConsiliumError, now: float) -> Answer | None:
        """Take an answer that must not be used; where another seal may pass, ask a few times more."""
        errand.wrong += 1
        if isinstance(error, SealError) and error.reason in _RENEWED and errand.wrong < _MOST_LOST:
            errand.again_at = now + AGAIN_S if not errand.sent else errand.again_at
            return None
        word = "equivocation" if isinstance(error, EquivocationError) else error.code
        logger.warning("%s: %s refused: %s", errand.site, errand.kind, error)
        seen = SiteWork("refused", self._clock(), errand.kind, errand.task, detail=str(error))
        self._show(errand.site, seen)
        return Message(pack(Refusal(code=word, detail=str(error)[:500])), reply_to=errand.message)


def _version_after(errand: Errand, header: Header) -> bytes:
    """Return the version of the site's memory after its answer.

    A refusal leaves the memory as it was. So does a result that the site had given before, which is part of
    what the memory came from.

    Raises:
        SealError: it is neither the version that the work started from, nor the one that it left behind.
    """
    if header.kind != errand.kind or header.previous == errand.previous:
        return errand.previous
    if not moves(header.kind) or header.previous != work_name(header.run, header.kind, errand.asked):
        raise SealError(f"'{header.sender}' has a memory that its answer does not leave behind", "previous")
    return header.previous


def failed(message: Message, why: str) -> Message:
    """Return an error in the place of an answer."""
    return Message(Error(code=0, reason=why), reply_to=message)
