"""The courier that sends settled models along: once to each site, and again to one that may lack them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from flwr.app import RecordDict

from protocol.bounds import Frozen
from protocol.messages import Evaluation, Refusal, assignment_id
from protocol.records import attached, pack
from server.courier import Account, Arrival, Letter
from server.upstream import ChainedCourier, worse_than_ablated

MODELS = {"verdict": {"side": {"w": np.ones(2, np.float32)}}}
ANSWER = Evaluation(run="r", round=1, subtask="verdict", site="north", num_examples=1)


class _Below:
    """A courier that hands back, in order, what it was told to answer."""

    def __init__(self) -> None:
        self.accounts: defaultdict[str, Account] = defaultdict(Account)
        self.sent: list[Letter] = []
        self.answers: list[Arrival] = []
        self.now_s = 0.0

    def send(self, letters: Sequence[Letter]) -> None:
        self.sent += letters

    def next(self, until_s: float) -> Arrival | None:
        return self.answers.pop(0) if self.answers else None

    def spend(self, seconds: float) -> None:
        self.now_s += seconds

    def admit(self, site: str, node: int) -> None:
        pass

    def dismiss(self, site: str) -> None:
        pass


def _letter(about: str = "verdict", site: str = "north") -> Letter:
    return Letter(site, "evaluate.model", pack(ANSWER), about, 3)


def _exchange(courier: ChainedCourier, below: _Below, letter: Letter, answer: Frozen | None) -> bool:
    """Send a letter and have it answered; return whether models went along."""
    courier.send([letter])
    sent = below.sent[-1]
    below.answers.append(Arrival(sent, 1.0, None if answer is None else pack(answer)))
    arrival = courier.next(9.0)
    assert arrival is not None
    assert arrival.letter is letter  # whoever sent it knows it again
    return bool(attached(sent.content))


@pytest.fixture
def below() -> _Below:
    """The courier below."""
    return _Below()


@pytest.fixture
def courier(below: _Below) -> ChainedCourier:
    """A courier with one settled model."""
    return ChainedCourier(below, models=dict(MODELS))


def test_a_model_goes_once_to_each_site(courier: ChainedCourier, below: _Below) -> None:
    """An answer is the receipt; another site has its own."""
    assert _exchange(courier, below, _letter(), ANSWER)
    assert not _exchange(courier, below, _letter(), ANSWER)
    assert _exchange(courier, below, _letter(site="south"), ANSWER)
    assert courier.next(9.0) is None


def test_an_assignment_is_about_its_subtask(courier: ChainedCourier, below: _Below) -> None:
    """The subtask is known by its name or by the id of an assignment of it; other letters carry nothing."""
    assert not _exchange(courier, below, _letter("side"), ANSWER)
    assert not _exchange(courier, below, _letter(assignment_id("r", 1, "side", "north", 1)), ANSWER)
    assert _exchange(courier, below, _letter(assignment_id("r", 3, "verdict", "north", 1)), ANSWER)


@pytest.mark.parametrize(
    "answer", [None, Refusal(code="upstream", detail="x"), Refusal(code="arrays", detail="x")]
)
def test_who_may_lack_them_gets_them_again(
    courier: ChainedCourier, below: _Below, answer: Frozen | None
) -> None:
    """A failure, or a refusal of what came, is no receipt, nor is it later."""
    assert _exchange(courier, below, _letter(), answer)
    assert _exchange(courier, below, _letter(), ANSWER)
    assert not _exchange(courier, below, _letter(), answer)
    assert _exchange(courier, below, _letter(), ANSWER)


def test_who_refuses_for_its_own_data_has_them(courier: ChainedCourier, below: _Below) -> None:
    """It kept what came before it looked at its rows: nothing is gained by sending it every time."""
    assert _exchange(courier, below, _letter(), Refusal(code="data", detail="no rows"))
    assert not _exchange(courier, below, _letter(), ANSWER)


def test_a_refusal_that_cannot_be_read_is_no_receipt(courier: ChainedCourier, below: _Below) -> None:
    """Whatever claims to be a refusal and is none counts as one."""
    courier.send([_letter()])
    record = pack(Refusal(code="data", detail="x"))
    record["more"] = pack(ANSWER)["consilium"]
    below.answers.append(Arrival(below.sent[-1], 1.0, RecordDict(dict(record.items()))))
    courier.next(9.0)
    assert _exchange(courier, below, _letter(), ANSWER)


def test_a_site_that_comes_anew_has_nothing(courier: ChainedCourier, below: _Below) -> None:
    """It may be another machine under the same name."""
    assert _exchange(courier, below, _letter(), ANSWER)
    courier.admit("north", 7)
    assert _exchange(courier, below, _letter(), ANSWER)


def test_a_chain_that_does_worse_is_noted() -> None:
    """By the metric's own direction; what was not measured says nothing."""

    def chain(metric: str, end_to_end: float | None, ablated: float | None) -> dict[str, object]:
        return {"after": ["side"], "metric": metric, "end_to_end": end_to_end, "ablated": ablated}

    chains = {
        "worse": chain("log_loss", 0.7, 0.5),
        "better": chain("log_loss", 0.5, 0.7),
        "lower": chain("accuracy", 0.5, 0.75),
        "same": chain("accuracy", 0.5, 0.5),
        "unknown": chain("accuracy", None, 0.5),
        "whole": chain("accuracy", 0.5, None),
    }
    notes = worse_than_ablated(chains)
    assert [note.split(":")[0] for note in notes] == ["worse", "lower"]
    assert "what side predicts makes it worse: its log_loss is 0.7, and 0.5 with their mean" in notes[0]
