"""How long work is asked of a site in short messages.

A SuperNode works on one message at a time and waits for its answer without end. So `work.start` answers
with the result if it is there soon, else with a receipt; `work.poll` asks again, and `work.cancel` ends it.
The work is named by the digest of what was asked: asked for the same again, a site gives the same answer.

A site's memory of a run is named by the work that left it behind, so that a question says which memory the
site starts from, and two parties that fell out of step notice it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from protocol.bounds import Amount, Frozen, Text
from protocol.header import digest

# What Flower calls the three: its types are one of its categories and a Python name.
START, POLL, CANCEL = "query.work_start", "query.work_poll", "query.work_cancel"
# The kinds in the seal of an answer that is no result.
RECEIPT, REFUSAL = "work.receipt", "work.refusal"
HOLD_S = 20.0

Asked = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def work_name(run: str, kind: str, asked: bytes) -> bytes:
    """Return the name of some work: questions of several kinds may have one body, of digest ``asked``."""
    return digest([run.encode(), kind.encode(), asked])[0]


def moves(kind: str) -> bool:
    """Return whether work of this kind may change a site's memory: its result is then a version of that."""
    return kind.startswith(("train.", "evaluate."))


class Poll(Frozen):
    """Say how far the work is that was asked for with a message of this digest, or give its result."""

    asked: Asked
    hold_s: float = Field(HOLD_S, ge=0, le=60)


class Cancel(Frozen):
    """Stop the work that was asked for with a message of this digest."""

    asked: Asked


class Receipt(Frozen):
    """How far some work is.

    Attributes:
        asked: the digest of the message that asked for it.
        state: ``unknown`` work was never asked for here, or is forgotten: ask again in full.
        share: how much of it is done, 0 to 1, as far as the work can say.
        eta_s: how many seconds it will still take at the pace until now.
        worked_s: for how many seconds it has been worked on.
        detail: a line for people.
    """

    asked: Asked
    state: Literal["waiting", "working", "cancelled", "unknown"]
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    eta_s: Amount | None = None
    worked_s: Amount = 0.0
    detail: Text = ""
