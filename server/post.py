"""The way of letters over Flower's Grid and back, and that all that passes is on the run's record."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from protocol.header import digest
from protocol.records import parts_of, wire_bytes
from server.courier import Account, Arrival, Letter
from server.provenance import Remembering
from server.pulling import Reply, pull
from server.record import Record
from server.replies import from_json, keepable, refs_of, to_json

# Of a longer part of a letter its size stands for it: what it is made of is on the record by its hash.
_HASHED = 2**20


@dataclass(frozen=True)
class Open:
    """A letter that was sent and not answered.

    ``sent_s`` is when that was, ``batch`` the first one that was sent with it. What is ``superseded`` nobody
    waits for: its site was sent the same of a later round, and what it would be sent again is let go.
    """

    letter: Letter
    sent_s: float
    batch: int
    superseded: bool = False


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
        """Send a site that left nothing more, and wait for nothing of it."""
        self.nodes.pop(site, None)
        gone = {n for n, one in self.open.items() if one.letter.site == site}
        self.posted = {key: n for key, n in self.posted.items() if n not in gone}
        for number in gone:
            del self.open[number]

    def go_live(self) -> None:
        """Send what an earlier process had sent, and no answer came to."""
        self.post([n for n in sorted(self.open) if not self.open[n].superseded])

    def push(self, letters: Iterable[Letter], now_s: float) -> float:
        """Send letters to sites that are there; return when that was, on the record."""
        chosen = {next(self._numbers): x for x in letters if x.site in self.nodes}
        if not chosen:
            return now_s
        keeps = self.record.keeps  # what is not kept is not compared, and need not be hashed
        named = [[n, x.site, x.message_type, x.about, _mark(x) if keeps else ""] for n, x in chosen.items()]
        said = self.record.replayed("sent")
        if said is None:
            said = self.record.note("sent", "", {"at_s": now_s, "letters": named})
            self.record.commit()
        elif said["letters"] != named:
            differs = next((one for one in named if one not in said["letters"]), named[-1])
            what = f"a letter to {differs[1]} about {differs[3]}"
            raise self.record.diverged(f"{what} is not the one of the journal")
        for number, letter in chosen.items():
            self._supersede(letter)
            self.open[number] = Open(letter, said["at_s"], min(chosen))
            if letter.counted:
                self.accounts[letter.site].bytes_down += wire_bytes(letter.content)
        if self.record.is_live:
            self.post(list(chosen))
        return float(said["at_s"])

    def _supersede(self, new: Letter) -> None:
        """Let go of what the site was sent of the same training in an earlier round."""
        if not new.is_training:
            return
        for number, one in self.open.items():
            old = one.letter
            if (old.site, old.message_type, old.subtask) == (new.site, new.message_type, new.subtask):
                self.open[number] = replace(one, letter=replace(old, content=RecordDict()), superseded=True)

    def post(self, numbers: Sequence[int]) -> None:
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
                letter = self.open[number].letter
                kept = [keepable(reply, letter.most_bytes) for reply in replies]
                found.extend((number, self._proven(reply, message_id)) for reply in kept)
        return found

    def _proven(self, reply: Reply, message_id: str) -> Reply:
        """Return a reply with where it came from, as far as the grid knows."""
        known = self.grid.provenance(message_id) if isinstance(self.grid, Remembering) else None
        if known is None:
            return reply
        asked, signature, version = known.asked.hex(), known.signature.hex(), known.version.hex()
        return replace(reply, asked=asked, signature=signature, version=version)

    def keep(self, found: Sequence[tuple[int, Reply]], more: Mapping[str, Any]) -> list[list[str]]:
        """Put what came on the record; return where that keeps the arrays of each."""
        if not self.record.keeps:
            return [[] for _ in found]
        replies = [
            {"n": n, "about": self.open[n].letter.about, "site": self.open[n].letter.site}
            | to_json(reply, self.record.content)
            for n, reply in found
        ]
        self.record.note("received", "", {"replies": replies, **more})
        self.record.commit()
        return [refs_of(one) for one in replies]

    def again(self, said: Mapping[str, Any]) -> tuple[list[tuple[int, Reply]], list[list[str]]]:
        """Return what had come, from the record, and where that keeps the arrays of each."""
        content = self.record.content
        refs = [refs_of(one) for one in said["replies"]]
        found = []
        for one in said["replies"]:
            is_judged = self.open[one["n"]].letter.is_training  # then nothing is kept of it but its head
            found.append((one["n"], from_json(one, content, may_be_gone=is_judged)))
        return found, refs

    def close(self, found: Iterable[tuple[int, Reply]]) -> dict[int, Open]:
        """Take what was answered from what is open; return it."""
        return {n: self.open.pop(n) for n in {n for n, _ in found}}

    def account(self, letter: Letter, reply: Reply, seconds: float) -> None:
        """Charge an answer to its site."""
        if letter.counted:
            account = self.accounts[letter.site]
            account.bytes_up += reply.size
            account.seconds += seconds


def _mark(letter: Letter) -> str:
    """Return what tells what a letter asks: its digest, with a long part's size in the part's place."""
    parts = parts_of(letter.content)
    return digest([p if len(p) <= _HASHED else str(len(p)).encode() for p in parts])[0].hex()[:32]


def arrival_of(letter: Letter, at_s: float, reply: Reply, refs: Sequence[str]) -> Arrival:
    """Return a reply as what came in answer to a letter; ``refs`` is where the record keeps its arrays."""
    failure = reply.failure
    return Arrival(letter, at_s, reply.content, str(failure or ""), failure, tuple(refs))
