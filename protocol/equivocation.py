"""The book of answers: a party that answers the same question twice must say the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Literal

from protocol.errors import EquivocationError
from protocol.header import digest

MAX_SENDERS = 2000
MAX_ANSWERS = 4096  # of one sender


class Answers:
    """What verified senders have answered, by its digest.

    Each sender has room of its own, so that none can have another's answers forgotten; the oldest go first.

    Args:
        per_sender: how many answers of one sender are remembered.
        senders: of how many senders.
    """

    def __init__(self, per_sender: int = MAX_ANSWERS, senders: int = MAX_SENDERS) -> None:
        self._per_sender = per_sender
        self._max_senders = senders
        self._senders: OrderedDict[str, OrderedDict[bytes, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, sender: str, kind: str, task: str, asked: bytes, body: bytes) -> Literal["new", "same"]:
        """Remember an answer; call it with what a verified header says.

        Args:
            sender: who answered.
            kind: the message's type.
            task: what it is about.
            asked: the body digest of the question.
            body: the body digest of the answer.

        Raises:
            EquivocationError: ``sender`` has given another answer to the same question before.
        """
        question = digest([kind.encode(), task.encode(), asked])[0]
        with self._lock:
            answers = self._of(sender)
            if question not in answers:
                answers[question] = body
                if len(answers) > self._per_sender:
                    answers.popitem(last=False)
                return "new"
            if answers[question] == body:
                return "same"
        raise EquivocationError(f"'{sender}' has given two answers to one {kind[:64]} of {task[:400]!r}")

    def _of(self, sender: str) -> OrderedDict[bytes, bytes]:
        if sender not in self._senders and len(self._senders) >= self._max_senders:
            self._senders.popitem(last=False)
        return self._senders.setdefault(sender, OrderedDict())
