"""Flower's nodes by the names of the roster, and the keys of who speaks in a run."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from flwr.app import Message

from protocol.errors import RosterError
from protocol.keys import load_signing_key
from protocol.roster import SERVER
from protocol.roster_book import RosterBook
from protocol.seal import Signer, Verifier
from server.flwr_adapter.grid import GuardedGrid
from server.kit import ServerKit


@dataclass
class RosterLink:
    """What the errands need of Flower: who is online, and single messages."""

    grid: GuardedGrid
    book: RosterBook

    def online(self) -> Mapping[str, tuple[int, str]]:
        """Return, for each site of the roster that is online, its node and since when."""
        with suppress(RosterError):  # the one in force stays; the link process says what is wrong
            self.book.reload()
        names = {site.node_key.encode(): site.name for site in self.book.current.sites}
        return {
            names[node.public_key]: (node.node_id, node.since)
            for node in self.grid.online()
            if node.public_key in names
        }

    def members(self) -> Collection[str]:
        """Return the sites of the roster in force."""
        return {site.name for site in self.book.current.sites}

    def push(self, message: Message) -> str | None:
        """Send one message; return its id, None if Flower did not take it."""
        sent = list(self.grid.push_messages([message]))
        return sent[0] or None if sent else None

    def pull(self, message_id: str) -> list[Message]:
        """Return what came in answer to a message."""
        return self.grid.pull_messages([message_id])


def parties(kit: ServerKit, book: RosterBook) -> tuple[Signer, Verifier]:
    """Return who signs as the server, and who knows the keys of the sites."""
    federation, key = kit.config.name, load_signing_key(kit.signing_key)
    signer = Signer(federation, SERVER, key, book.epoch, time.time)
    return signer, Verifier(federation, SERVER, book.key_of, book.epoch, time.time)
