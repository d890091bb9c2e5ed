"""Sealed simulations: every message is signed, checked and answered under seal, as between real parties."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from protocol.errors import ConsiliumError
from protocol.keys import public_bytes
from protocol.messages import Refusal
from protocol.records import pack, parts_of, take_seal, with_seal
from protocol.roster import SERVER
from protocol.seal import Header, Signer, Verifier
from server.envelopes import Envelopes, task_of
from server.grids import GridAround

FEDERATION = "simulated"


@dataclass
class Party:
    """One party with keys of its own, made for one simulation."""

    signer: Signer
    verifier: Verifier


def parties(names: Sequence[str]) -> dict[str, Party]:
    """Return a party for each name, all knowing each other's keys by one roster of epoch 1."""
    keys = {name: Ed25519PrivateKey.generate() for name in names}
    public = {name: public_bytes(key) for name, key in keys.items()}
    return {
        name: Party(
            Signer(FEDERATION, name, key, lambda: 1, time.time),
            Verifier(FEDERATION, name, public.get, lambda: 1, time.time),
        )
        for name, key in keys.items()
    }


class SealedGrid(GridAround):
    """A Grid around the local engine's: seals and opens what passes, at both ends.

    Args:
        grid: the local engine's; its node n is the n-th of ``sites``.
        sites: the names of the sites, in order.
        run: the Consilium run.
    """

    def __init__(self, grid: Grid, sites: Sequence[str], run: str) -> None:
        super().__init__(grid)
        self._sites = list(sites)
        self._parties = parties([SERVER, *sites])
        server = self._parties[SERVER]
        self._envelopes = Envelopes(run, server.signer, server.verifier)
        self._asked: dict[str, tuple[str, Header]] = {}
        self._numbers = itertools.count(1)
        self.sealed = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Seal each message for its site, open it there, and hand it on."""
        opened, headers = [], []
        for message in messages:
            site = self._sites[message.metadata.dst_node_id - 1]
            kind = message.metadata.message_type
            sealed, _ = self._envelopes.seal(message.content, site, kind, task_of(message.content, kind))
            record, seal = take_seal(sealed)
            header = self._parties[site].verifier.open(parts_of(record), seal, sender=SERVER, kind=kind)
            message.content = record
            opened.append(message)
            headers.append((site, header))
        ids = list(self._grid.push_messages(opened))
        self._asked.update(zip(ids, headers, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers, each sealed by its site and opened by the server."""
        found = []
        for message_id in message_ids:
            for reply in self._grid.pull_messages([message_id]):
                if reply.has_content():
                    reply.content = self._through(reply.content, *self._asked[message_id])
                found.append(reply)
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and return their answers, which the local engine has at once."""
        del timeout
        return self.pull_messages(list(self.push_messages(messages)))

    def _through(self, record: RecordDict, site: str, asked: Header) -> RecordDict:
        """Return an answer as it comes out at the server; one that must not be used becomes a Refusal."""
        try:
            seal = self._parties[site].signer.seal(
                parts_of(record),
                run=asked.run,
                task=asked.task,
                kind=asked.kind,
                recipient=SERVER,
                answers=asked.body_digest,
            )
            self.sealed += 1
            opened, header = self._envelopes.open(
                with_seal(record, seal), site, asked.task, asked.body_digest
            )
            self._envelopes.once(header)
        except ConsiliumError as error:
            return pack(Refusal(code=error.code, detail=str(error)[:500]))
        return opened
