"""The way of letters over Flower's Grid and back, and that all that passes is on the run's record."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from protocol.records import wire_bytes
from server.courier import Account, Arrival, Letter
from server.provenance import Remembering
from server.pulling import Reply, pull
from server.record import DivergedError, Record
from server.replies import from_json, keepable, refs_of, to_json


@dataclass(frozen=True)
class Open:
    """A letter that was sent and not answered, when that was, and the first one that was sent with it."""

    letter: Letter
    sent_s: float
    batch: int


class Post:
    """What both couriers share: nodes, accounts, and that all that is sent and received is on the record.

    A letter is on the record before it is sent, an answer before it is used. Of a run that is resumed the
    record hands both out again; what it has no answer to is sent again once the run is live.
    """

    def __init__(self, grid: Grid, nodes: Mapping[str, int], record: Record | None = None) -> None:
        self.grid = grid
        self.nodes = dict(nodes)
        self._numbers = itertools.count()
        self.open: dict[int, Open] = {}
        self.posted: dict[str, int] = {}
        self.record = record or Record()
        self.accounts: defaultdict[str, Account] = defaultdict(Account)
        self.record.when_live(self.go_live)

    def admit(self, site: str, node: int) -> None:
        """Reach a site that came at this node."""
        self.nodes[site] = node

    def dismiss(self, site: str) -> None:
        """Send a site that left nothing more."""
        self.nodes.pop(site, None)

    def go_live(self) -> None:
        """Send what an earlier process had sent, and no answer came to."""
        there = [n for n in sorted(self.open) if self.open[n].letter.site in self.nodes]
        for _, batch in itertools.groupby(there, lambda n: self.open[n].batch):
            self._post(list(batch))  # as they were: colluding sites see what was sent at once

    def push(self, letters: Iterable[Letter], now_s: float) -> float:
        """Send letters to sites that are there; return when that was, on the record."""
        chosen = {next(self._numbers): x for x in letters if x.site in self.nodes}
        if not chosen:
            return now_s
        said = self.record.replayed("sent")
        if said is None:
            named = [[n, x.site, x.message_type, x.about] for n, x in chosen.items()]
            said = self.record.note("sent", "", {"at_s": now_s, "letters": named})
            self.record.commit()
        for (number, letter), known in zip(chosen.items(), said["letters"], strict=False):
            if known != [number, letter.site, letter.message_type, letter.about]:
                raise DivergedError(f"the journal has a letter {known}, and now it is to {letter.site}")
            self.open[number] = Open(letter, said["at_s"], min(chosen))
            if letter.counted:
                self.accounts[letter.site].bytes_down += wire_bytes(letter.content)
        if self.record.is_live:
            self._post(list(chosen))
        return float(said["at_s"])

    def _post(self, numbers: Sequence[int]) -> None:
        """Hand letters to the grid."""
        letters = [self.open[n].letter for n in numbers]
        messages = [
            Message(x.content, self.nodes[x.site], x.message_type, group_id=str(x.round or 0))
            for x in letters
        ]
        if messages:
            self.posted.update(zip(self.grid.push_messages(messages), numbers, strict=True))

    def pull(self) -> list[tuple[int, Reply]]:
        """Return what has come in, one message at a time so that one bad reply spoils no other."""
        found: list[tuple[int, Reply]] = []
        for message_id in list(self.posted):
            # A node may answer twice: both go on, and whoever asked tells them apart.
            if replies := pull(self.grid, message_id):
                number = self.posted.pop(message_id)
                found.extend((number, self._proven(keepable(reply), message_id)) for reply in replies)
        return found

    def _proven(self, reply: Reply, message_id: str) -> Reply:
        """Return a reply with where it came from, as far as the grid knows."""
        known = self.grid.provenance(message_id) if isinstance(self.grid, Remembering) else None
        if known is None:
            return reply
        asked, signature, version = known.asked.hex(), known.signature.hex(), known.version.hex()
        return replace(reply, asked=asked, signature=signature, version=version)

    def keep(self, found: Sequence[tuple[int, Reply]], more: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Put what came on the record; return its replies as that has them."""
        if not self.record.keeps:
            return [{} for _ in found]
        replies = [
            {"n": n, "about": self.open[n].letter.about, "site": self.open[n].letter.site}
            | to_json(reply, self.record.content)
            for n, reply in found
        ]
        said = self.record.note("received", "", {"replies": replies, **more})
        self.record.commit()
        kept: list[dict[str, Any]] = said["replies"]
        return kept

    def again(self, said: Mapping[str, Any]) -> list[tuple[int, Reply]]:
        """Return what had come, from the record."""
        return [(one["n"], from_json(one, self.record.content)) for one in said["replies"]]

    def close(self, found: Iterable[tuple[int, Reply]]) -> dict[int, Open]:
        """Take what was answered from what is open; return it."""
        return {n: self.open.pop(n) for n in {n for n, _ in found}}

    def account(self, letter: Letter, reply: Reply, seconds: float) -> None:
        """Charge an answer to its site."""
        if letter.counted:
            account = self.accounts[letter.site]
            account.bytes_up += reply.size
            account.seconds += seconds


def arrival_of(letter: Letter, at_s: float, reply: Reply, kept: Mapping[str, Any]) -> Arrival:
    """Return a reply as what came in answer to a letter; ``kept`` is what the record has of it."""
    return Arrival(letter, at_s, reply.content, str(reply.failure or ""), reply.failure, tuple(refs_of(kept)))
