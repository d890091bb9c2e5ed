"""A site's agent: it answers its server and nobody else, by the roster in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict

from clients import upkeep
from clients.agent import Agent
from clients.flwr_adapter import Job
from clients.kit import SiteKit
from protocol.errors import RosterError, SealError
from protocol.records import HEAD, SEAL, pack, with_seal
from protocol.roster_book import RosterBook
from protocol.seal import Seal, Signer
from tests.clients.agent_cases import (
    QUERY,
    Desk,
    contribution,
    desk,
    job,
    kits,
    receipt,
)

ROOT = Path(__file__).parent.parent.parent
__all__ = ["desk", "kits"]


def _of_another_key(desk: Desk) -> RecordDict:
    signer = Signer("clinic", "server", Ed25519PrivateKey.generate(), lambda: 1, desk.clock)
    return with_seal(*desk.sealed(QUERY, signer))


def _changed(desk: Desk) -> RecordDict:
    _, seal = desk.sealed(QUERY)
    return with_seal(pack(QUERY.model_copy(update={"model": "other"})), seal)


def _changed_header(desk: Desk) -> RecordDict:
    record, seal = desk.sealed(QUERY)
    header = seal.header.replace(b"train.weights", b"train.finishx")
    return with_seal(record, Seal(header, seal.signature))


def _expired(desk: Desk) -> RecordDict:
    record = with_seal(*desk.sealed(QUERY, valid_s=60))
    desk.ahead_s += 60 + 121
    return record


def _early(desk: Desk) -> RecordDict:
    desk.ahead_s += 125
    record = with_seal(*desk.sealed(QUERY))
    desk.ahead_s -= 125
    return record


def _twice(desk: Desk) -> RecordDict:
    record = with_seal(*desk.sealed(QUERY))
    assert desk.agent.answer(job(record)) is not None
    desk.bench.puts.clear()
    return record


STRANGE = {
    "missing": lambda desk: pack(QUERY),
    "form": lambda desk: RecordDict({SEAL: ConfigRecord({"header": b"", "signature": b""})}),
    "body": _changed,
    "signature": _of_another_key,
    "recipient": lambda desk: with_seal(*desk.sealed(QUERY, recipient="south")),
    "sender": lambda desk: with_seal(*desk.sealed(QUERY, desk.signer("south"))),
    "federation": lambda desk: with_seal(*desk.sealed(QUERY, desk.signer(federation="other"))),
    "new_epoch": lambda desk: with_seal(*desk.sealed(QUERY, desk.signer(epoch=9))),
    "expired": _expired,
    "early": _early,
    "replay": _twice,
}


@pytest.mark.parametrize("why", STRANGE)
def test_what_is_not_the_servers_word_now_is_not_answered(
    desk: Desk, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes back, nothing is done or written, and the reason is the one that it should be."""
    record = STRANGE[why](desk)
    audit, seen = desk.audit(), []
    plain = Agent._open

    def watched(agent: Agent, asked: Job) -> Any:
        try:
            return plain(agent, asked)
        except SealError as error:
            seen.append(error.reason)
            raise

    monkeypatch.setattr(Agent, "_open", watched)
    assert desk.agent.answer(job(record)) is None
    assert seen == [why]
    assert desk.bench.puts == []
    assert desk.audit() == audit


def test_a_changed_header_is_not_signed(desk: Desk) -> None:
    """Another kind in the place of the one that the server signed."""
    assert desk.agent.answer(job(_changed_header(desk))) is None
    assert desk.bench.puts == []


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"other": ConfigRecord({"a": 1})}),
        RecordDict({SEAL: ConfigRecord({"header": b"x" * 5000, "signature": b"x" * 64})}),
        RecordDict({SEAL: ConfigRecord({"header": b"x", "signature": b"x" * 64, "parts": b"\xff" * 9})}),
        RecordDict({SEAL: ConfigRecord({"header": "text", "signature": 7})}),
        RecordDict(
            {HEAD: ConfigRecord({"version": 1}), SEAL: ConfigRecord({"header": b"", "signature": b""})}
        ),
    ],
)
def test_what_is_no_message_is_no_error_either(desk: Desk, record: RecordDict) -> None:
    """Whatever it is."""
    assert desk.agent.answer(job(record)) is None


def _offers(kits: Path) -> Any:
    def fetch(kit: SiteKit, book: RosterBook) -> bool:
        return book.offer((kits / "2" / "north" / "roster.json").read_bytes())

    return fetch


def test_a_new_roster_is_fetched_when_the_server_goes_by_it(
    desk: Desk, kits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then its message is good, and answered by the new roster; one by the old roster no longer is."""
    monkeypatch.setattr(upkeep, "fetch_roster", _offers(kits))
    desk.epoch = 2
    desk.bench.auto = contribution()
    header, _ = desk.open(desk.ask(QUERY))
    assert header.epoch == 2
    old = with_seal(*desk.sealed(QUERY, desk.signer(epoch=1)))
    assert desk.agent.answer(job(old)) is None
    assert desk.agent_now().book.epoch() == 2


@pytest.mark.parametrize("error", [httpx.ConnectError("x"), RosterError("of another"), OSError("x")])
def test_a_roster_that_cannot_be_had_is_no_error(
    desk: Desk, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is not answered, and the agent goes on."""

    def fail(kit: SiteKit, book: RosterBook) -> bool:
        raise error

    monkeypatch.setattr(upkeep, "fetch_roster", fail)
    assert desk.agent.answer(job(with_seal(*desk.sealed(QUERY, desk.signer(epoch=2))))) is None
    desk.agent.upkeep.roster_at -= 301
    desk.agent.tend()
    assert receipt(desk, desk.ask(QUERY)).state == "waiting"


def test_the_roster_is_fetched_now_and_then(desk: Desk, kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no message says that there is a new one."""
    monkeypatch.setattr(upkeep, "fetch_roster", _offers(kits))
    desk.agent.tend()
    assert desk.agent.book.epoch() == 1
    desk.agent.upkeep.roster_at -= 301
    desk.agent.tend()
    assert desk.agent.book.epoch() == 2
