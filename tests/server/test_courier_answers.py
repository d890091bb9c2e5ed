"""What comes back over the Grid: opened as what was asked, failures without the site's text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from protocol.errors import ProtocolError
from protocol.messages import Evaluation, Refusal
from protocol.records import HEAD, pack, wire_bytes
from server.courier import Arrival, Patience, gather, open_reply
from server.flwr_adapter import task_identity
from server.pulling import taken
from server.wall_courier import WallCourier
from tests.server.grid_cases import ASKED, NODES, SLOW, FakeGrid, answer, courier, drain, evaluation, letter


@pytest.fixture(autouse=True)
def _identity() -> Iterator[None]:
    with task_identity(7):
        yield


def test_a_sites_failure_is_an_arrival_without_its_text() -> None:
    """Flower's reason may hold a traceback with data: code and advice go on, the text does not."""
    failing = FakeGrid(lambda node, message: Error(code=2, reason="KeyError: 'patient Smith'"))
    sent = courier(failing)
    sent.send([letter("north")])
    arrival = sent.next(1e9)
    assert arrival is not None
    assert arrival.content is None
    assert arrival.error == "the site failed (Flower error code 2); its own log says why"
    with pytest.raises(ProtocolError) as caught:
        arrival.open(Evaluation)
    assert str(caught.value) == arrival.error
    assert "Smith" not in repr(arrival)
    assert sent.accounts["north"].bytes_up == 0


def test_a_refusal_says_why() -> None:
    """A site that may not or cannot answers with a code and a line, which opening raises."""
    refusing = FakeGrid(lambda node, message: pack(Refusal(code="egress", detail="models stay here")))
    sent = courier(refusing)
    sent.send([letter("north")])
    arrival = sent.next(1e9)
    assert arrival is not None
    with pytest.raises(ProtocolError, match=r"^egress: models stay here$"):
        arrival.open(Evaluation)


def test_an_answer_opens_as_what_was_asked() -> None:
    """The message comes out of its arrival, and another type is refused."""
    arrival = Arrival(letter("north"), 1.0, evaluation("north", 20))
    assert arrival.open(Evaluation)[0].site == "north"
    with pytest.raises(ProtocolError, match="expected Refusal"):
        arrival.open(Refusal)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"examples_processed":-1}',
        b'{"examples_processed":"5"}',
        b'{"examples_processed":NaN}',
        b'{"examples_processed":1e300}',
        b'{"examples_processed":null}',
        b'{"examples_processed":1' + b"0" * 400 + b"}",
        b'{"examples_processed":1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
        "not bytes",
        None,
    ],
)
def test_nonsense_about_work_neither_raises_nor_stops_the_clock(body: Any) -> None:
    """A site that says it did an impossible amount arrives in finite time; opening refuses it later."""
    head = ConfigRecord({} if body is None else {"body": body})
    sent = courier(FakeGrid(lambda node, message: RecordDict({HEAD: head})))
    sent.send([letter("north")])
    arrival = sent.next(1e9)
    assert arrival is not None
    assert arrival.at_s < 200


def test_gathering_returns_the_answers_by_site_and_the_rest() -> None:
    """Answers come sorted by what they are about; what else came meanwhile is handed over, not lost."""
    sent = courier()
    sent.send([letter("east", about="before")])
    found, others = gather(sent, [letter("west", about="a"), letter("north", about="a")], Patience(100))
    assert [arrival.letter.site for arrival in found] == ["north", "west"]
    assert [arrival.letter.about for arrival in others] == ["before"]


def test_gathering_ends_at_its_time() -> None:
    """Who is too slow is not waited for; its answer comes to whoever asks next."""
    sent = courier(profiles={"west": SLOW.model_copy(update={"latency_s": 500})})
    found, others = gather(sent, [letter("west"), letter("north")], Patience(100))
    assert ([arrival.letter.site for arrival in found], others) == (["north"], [])
    assert sent.now_s == 100
    assert [site for site, _ in drain(sent)] == ["west"]


def test_real_time_takes_answers_as_they_come() -> None:
    """The other courier hands over everything once, accounts the same bytes, and does not wait in vain."""
    sent = WallCourier(FakeGrid(answer).grid, NODES)
    assert sent.next(0) is None
    sent.send([letter("north"), letter("west"), letter("nowhere")])
    arrivals = [sent.next(1e9) for _ in range(2)]
    assert {arrival.letter.site for arrival in arrivals if arrival is not None} == {"north", "west"}
    assert sent.next(0) is None
    assert sent.accounts["north"].bytes_up == wire_bytes(evaluation("north", 20))
    assert sent.accounts["north"].bytes_down == wire_bytes(ASKED)
    assert "nowhere" not in sent.accounts


def test_a_reply_without_clock_opens_the_same_way() -> None:
    """Discovery opens replies directly: an error's text is kept back, a message comes out."""
    asked = Message(RecordDict(), 11, "query.x")
    asked.metadata.__dict__["_message_id"] = "m"
    assert open_reply(taken(Message(evaluation("north"), reply_to=asked)), Evaluation)[0].site == "north"
    with pytest.raises(ProtocolError) as caught:
        open_reply(taken(Message(Error(code=1, reason="patient Smith"), reply_to=asked)), Evaluation)
    assert "Smith" not in str(caught.value)
