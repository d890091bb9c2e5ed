"""The gate: what a site sent is checked against what it was asked for, cheap first, before it is used.

Size and header, names and shapes stand in the container's limits (``protocol.codec``), so nothing is decoded
that was not asked for. What does not pass is a ``ProtocolError`` with a code: one answer is not used, and
whoever asked goes on. What the numbers mean (rows that are probabilities, sums that such rows allow) only
the learner of the exchange knows; it checks that after the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from protocol.arrays import Arrays, Spec, check_finite, digest, norm
from protocol.bounds import Exchange, Frozen
from protocol.codec import Limits, exactly
from protocol.errors import ArraysError, ConsiliumError, LimitError, MessageError, ReplyError
from protocol.messages import Contribution

# No site's rows are capped.
NO_CAPS: Mapping[str, int] = MappingProxyType({})
# For what answers without arrays, and for those of which the message alone is read.
NO_ARRAYS = exactly({})
# What no parameters of a model that predicts anything reach as an L2 norm; more would spoil a mean.
LARGEST_MODEL = 1e9
# A contribution says some 20 short things, and a number for each class.
_CONTRIBUTION_BYTES, _CLASS_BYTES = 4096, 32


@dataclass(frozen=True)
class Demand:
    """What the contribution to one assignment must be.

    Attributes:
        key: the assignment's id.
        model: the architecture that was assigned.
        spec: names, shapes and dtypes of the arrays as they travel.
        examples: the fewest and the most rows that it may say; from the site's summary, not its answer.
        classes: how many class counts it may hold.
        largest: the bound of the arrays' L2 norm; None where they are no parameters.
        public_digest: the public set that soft labels are of.
    """

    key: str
    model: str
    exchange: Exchange
    spec: Spec
    examples: tuple[int, int]
    classes: int
    largest: float | None = None
    public_digest: str | None = None

    @property
    def body_bytes(self) -> int:
        """How long the message beside the arrays may be."""
        return _CONTRIBUTION_BYTES + _CLASS_BYTES * self.classes

    @property
    def limits(self) -> Limits:
        """What is read of the arrays."""
        return exactly(self.spec)


@contextmanager
def guarded() -> Iterator[None]:
    """Make one answer's failure of whatever kind an error of ours, so that it stops nothing else.

    Raises:
        ReplyError: something else than our own error was raised; its text, which may hold data, is left out.
    """
    try:
        yield
    except ConsiliumError:
        raise
    except Exception as error:  # noqa: BLE001  malformed input may raise anything, MemoryError too
        raise ReplyError(f"the answer cannot be opened ({type(error).__name__})") from None


def check(said: Contribution, arrays: Arrays, demand: Demand) -> None:
    """Check an opened contribution against its demand.

    Raises:
        MessageError: it answers something else, or says of itself what was not agreed.
        ArraysError: its digest is another, or its numbers are not finite or beyond the bound.
    """
    if said.id != demand.key:
        raise MessageError("it answers another assignment")
    if (said.model, said.exchange) != (demand.model, demand.exchange):
        raise MessageError("another model or exchange than assigned")
    least, most = demand.examples
    if not least <= said.num_examples <= most:
        raise MessageError("another number of examples than the site said it has")
    if said.public_digest != demand.public_digest:
        raise MessageError("another public set than the server's")
    if said.digest != digest(arrays):
        raise ArraysError("digest does not match")
    check_finite(arrays)
    if demand.largest is not None:
        check_norm(arrays, demand.largest)


def check_norm(arrays: Arrays, largest: float) -> None:
    """Raise ``LimitError`` if the L2 norm over all floating-point arrays is above ``largest``."""
    if not norm(arrays) <= largest:
        raise LimitError(f"it holds numbers beyond {largest:.0e}, as an L2 norm")


def check_rows(site: str, rows: int, max_examples: Mapping[str, int]) -> None:
    """Raise ``LimitError`` if a site says that it has more rows than the roster gives it, if it gives any."""
    if rows > max_examples.get(site, rows):
        raise LimitError(f"'{site}' says that it has more rows than the {max_examples[site]} of the roster")


def check_sender(message: Frozen, site: str) -> None:
    """Raise ``MessageError`` if a message that names a site names another than was asked."""
    if getattr(message, "site", site) != site:
        raise MessageError("it answers under another site's name")
