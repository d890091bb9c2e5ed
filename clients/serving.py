"""The agent's loop: it takes messages from the SuperNode, and gives each an answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from flwr.app import RecordDict

from clients.flwr_adapter import Job, TaskDesk
from protocol.errors import RunError

logger = logging.getLogger("consilium.agent")

_FAST_S, _SLOW_S = 0.02, 0.2
_TEND_S = 1.0


class Answers(Protocol):
    """Who answers."""

    @property
    def broken(self) -> bool:
        """Whether it can do no work any more."""

    def answer(self, job: Job) -> RecordDict | None:
        """Return the answer; None for what is not the server's."""

    def tend(self) -> None:
        """Do what is due now and then."""


def serve(agent: Answers, desk: TaskDesk, stop: Callable[[], bool]) -> None:
    """Answer what the SuperNode hands on, until ``stop``.

    Raises:
        RunError: the agent can do no work any more.
    """
    pause_s, tended_at = _FAST_S, 0.0
    while not stop():
        if agent.broken:
            raise RunError("it can do no work any more; its log says why")
        if time.monotonic() > tended_at + _TEND_S:
            tended_at = time.monotonic()
            agent.tend()
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


def _answer(agent: Answers, job: Job) -> RecordDict | None:
    """Return the answer; None, where even a refusal cannot be written down, so that nothing leaves."""
    try:
        return agent.answer(job)
    except Exception:
        logger.exception("an answer could not be sealed")
        return None
