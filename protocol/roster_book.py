"""The roster that a party believes: kept in a file, and never put back to an older one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from protocol.errors import RosterError, UserError
from protocol.files import read_bounded, replace
from protocol.roster import MAX_ROSTER_BYTES, Roster, open_roster

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

_Stamp = tuple[int, int, int]


class RosterBook:
    """The current roster. One process writes a book's file; others may ``reload`` it.

    Args:
        path: of the file; it need not exist before the first ``offer``.
        authority: the authority's public key.
        federation: whose roster it must be; None: that of the first.
        clock: gives the Unix time in seconds.

    Raises:
        RosterError: the stored file is not a roster of the authority.
    """

    def __init__(
        self,
        path: Path,
        authority: ec.EllipticCurvePublicKey,
        federation: str | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self._path = path
        self._authority = authority
        self._federation = federation
        self._clock = clock
        self._lock = threading.RLock()
        self._roster: Roster | None = None
        self._stamp: _Stamp | None = None
        self.reload()

    @property
    def current(self) -> Roster:
        """The roster of the highest epoch so far; raises ``RosterError`` if there is none yet."""
        if self._roster is None:
            raise RosterError(f"{self._path}: no roster yet; copy the roster.json of the kit there")
        return self._roster

    def epoch(self) -> int:
        """Return the epoch of the current roster, as a ``Verifier`` asks for it."""
        return self.current.epoch

    def key_of(self, sender: str) -> bytes | None:
        """Return a sender's public key by the current roster; None for all once that has expired."""
        roster = self.current
        return None if roster.has_expired(self._clock()) else roster.key_of(sender)

    def offer(self, data: bytes) -> bool:
        """Take a roster file, from wherever it came, if it is newer; store it before it counts.

        Returns:
            Whether it was; False for the current one.

        Raises:
            RosterError: it is not the authority's, older than the current one, another of the same epoch,
                or cannot be stored.
        """
        with self._lock:
            self.reload()
            roster = self._newer(data, "the roster that was offered")
            if roster is None:
                return False
            try:
                replace(self._path, data)
                self._stamp = self._stamp_of_file()
            except OSError as error:
                raise RosterError(f"{self._path}: cannot be stored ({error.strerror})") from None
            self._roster = roster
            return True

    def reload(self) -> bool:
        """Read the file again if it has changed; return whether that gave a newer roster.

        Raises:
            RosterError: it is not a roster of the authority, or older than the current one.
        """
        with self._lock:
            stamp = self._stamp_of_file()
            if stamp is None or stamp == self._stamp:
                return False
            try:
                data = read_bounded(self._path, MAX_ROSTER_BYTES)
            except UserError as error:
                raise RosterError(str(error)) from None
            roster = self._newer(data, str(self._path))
            self._stamp = stamp
            self._roster = roster or self._roster
            return roster is not None

    def _newer(self, data: bytes, what: str) -> Roster | None:
        """Return the roster in ``data`` if its epoch is higher, None if it is the current one."""
        known = self._roster
        federation = known.federation if known else self._federation
        roster = open_roster(data, self._authority, federation)
        if known is None or roster.epoch > known.epoch:
            return roster
        if roster.epoch < known.epoch:
            raise RosterError(f"{what} has epoch {roster.epoch}, {known.epoch} is current: it was replaced")
        if roster != known:
            raise RosterError(f"{what} is another roster of epoch {roster.epoch}: ask who runs the authority")
        return None

    def _stamp_of_file(self) -> _Stamp | None:
        try:
            state = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RosterError(f"{self._path}: cannot be read ({error.strerror})") from None
        return state.st_mtime_ns, state.st_size, state.st_ino
