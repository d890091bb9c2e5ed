"""Where answers came from, and which version of its memory each site has reached by them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

_MOST = 4096  # answers of which nobody has asked yet


@dataclass(frozen=True)
class Provenance:
    """Where an answer came from.

    Attributes:
        asked: the body digest of the question.
        signature: the site's, in the seal of the answer.
        moves: whether the site's memory of the run moved on by it.
        version: the version that the memory has after it, which the site's next question names.
    """

    asked: bytes
    signature: bytes
    moves: bool
    version: bytes


@runtime_checkable
class Remembering(Protocol):
    """A Grid whose sites remember: it knows where answers came from, and goes on where one had stopped."""

    def provenance(self, message_id: str) -> Provenance | None:
        """Return where the answer to a message came from, once; None for one that no site gave."""
        ...

    def go_on(self, nodes: Mapping[str, int], versions: Mapping[str, bytes]) -> None:
        """Take over: the sites are at these nodes, and their memories at these versions."""
        ...


class Provenances:
    """Those of the answers that were taken."""

    def __init__(self) -> None:
        self._versions: dict[str, bytes] = {}
        self._kept: OrderedDict[str, Provenance] = OrderedDict()

    def go_on(self, versions: Mapping[str, bytes]) -> None:
        """Take up which version of its memory each site had reached."""
        self._versions.update(versions)

    def version(self, site: str) -> bytes:
        """Return the version of a site's memory after the last of its answers."""
        return self._versions.get(site, b"")

    def note(self, number: str, site: str, provenance: Provenance) -> None:
        """Keep the provenance of a site's answer."""
        self._versions[site] = provenance.version
        self._kept[number] = provenance
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def pop(self, number: str) -> Provenance | None:
        """Return the provenance of an answer, once; None where it is not known any more."""
        return self._kept.pop(number, None)
