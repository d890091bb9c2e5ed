"""What an agent does beside its answers: it fetches rosters, counts, and forgets what is over."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from clients.inquiry import fetch_roster
from clients.kit import SiteKit
from protocol.errors import ConsiliumError, RosterError
from protocol.files import replace
from protocol.roster_book import RosterBook

logger = logging.getLogger("consilium.agent")

_ROSTER_S = 300.0
_FORGET_S = 3600.0


class Upkeep:
    """An agent's small duties.

    Args:
        kit: the site's.
        book: its roster.
        counters: what the worker has loaded since it was started.
        forget: forgets what is of runs that are over.
    """

    def __init__(
        self,
        kit: SiteKit,
        book: RosterBook,
        counters: Callable[[], Mapping[str, Any]],
        forget: Callable[[], None],
    ) -> None:
        self._kit, self._book, self._counters, self._forget = kit, book, counters, forget
        self._counted: dict[str, Any] = {}
        self._failed = ""
        self.roster_at = self.forgot_at = time.monotonic()

    def tend(self) -> None:
        """Do what is due; what of it fails, as on a full disk, is said once and tried again."""
        try:
            self._write_counters()
            if time.monotonic() > self.roster_at + _ROSTER_S:
                self.renew_roster()
            if time.monotonic() > self.forgot_at + _FORGET_S:
                self.forgot_at = time.monotonic()
                self._forget()
        except Exception as error:  # noqa: BLE001  messages can be answered all the same
            name = type(error).__name__
            if name != self._failed:
                logger.warning("counters, roster or ledger could not be written: %s", name)
            self._failed = name
        else:
            self._failed = ""

    def renew_roster(self) -> None:
        """Fetch the roster; where that cannot be, the one that is there stays in force."""
        self.roster_at = time.monotonic()
        try:
            if fetch_roster(self._kit, self._book):
                logger.warning("the roster of epoch %s is in force", self._book.epoch())
        except (ConsiliumError, httpx.HTTPError, OSError) as error:
            why = str(error) if isinstance(error, RosterError) else type(error).__name__
            logger.warning("no new roster: %s", why)

    def _write_counters(self) -> None:
        """Say what the worker has loaded since it was started: a number that rises each round is a fault."""
        counted = dict(self._counters())
        if counted != self._counted:
            replace(self._kit.state / "counters.json", json.dumps(counted).encode())
            self._counted = counted
