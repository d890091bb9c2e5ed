"""Work says how far it is, changes no bit by it, and leaves nothing behind when it is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.app import app as cold_app
from clients.app import make_app
from clients.warm import Warm
from protocol.errors import Cancelled
from protocol.messages import Assignment, Personal, Refusal, Subtask, SubtaskQuery
from protocol.records import unpack
from server.flwr_adapter import task_identity
from tests.clients.warm_cases import (
    OPINIONS,
    PROTOTYPES,
    RISK,
    STATED,
    Node,
    first,
    ready,
    rounds,
    write_site,
)

DITTO = RISK.model_copy(update={"personal": Personal(rule="ditto", strength=0.1)})
FEDREP = RISK.model_copy(update={"personal": Personal(rule="fedrep")})
CASES = pytest.mark.parametrize(
    "subtask",
    [RISK, DITTO, FEDREP, PROTOTYPES, OPINIONS],
    ids=["weights", "ditto", "fedrep", "prototypes", "opinions"],
)


@pytest.fixture(autouse=True)
def _run() -> Iterator[None]:
    with task_identity(1):
        yield


def _work(node: Node, subtask: Subtask, round_: int = 1) -> Any:
    told = Assignment(run="r", round=round_, subtask=subtask, site="north", model="mlp_small")
    arrays = first(subtask) if subtask.exchange == "weights" else {}
    return node.ask(f"train.{subtask.exchange}", told, arrays)


@CASES
def test_progress_rises_to_the_end_and_changes_no_bit(subtask: Subtask, tmp_path: Path) -> None:
    """Each message's shares rise within [0, 1] and end with 1; all answers are those of nobody watching."""
    path = write_site(tmp_path, limits=STATED)
    subtask, shares = ready(subtask, path), list[float]()
    watched, plain = Node(make_app(Warm(), shares.append), path), Node(cold_app, path)
    for _ in range(2):
        shares.clear()
        _work(watched, subtask)
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert shares[0] > 0
        assert len(shares) > 5
    _work(plain, subtask)
    _work(plain, subtask)
    assert list(rounds(watched, subtask, 1)) == list(rounds(plain, subtask, 1))


def test_a_trial_of_several_models_tells_the_share_of_all(tmp_path: Path) -> None:
    """Each model is its part of the work."""
    path, shares = write_site(tmp_path, limits=STATED), list[float]()
    asked = SubtaskQuery(subtask=ready(RISK, path), models=("linear", "mlp_small"))
    Node(make_app(Warm(), shares.append), path).ask("query.trial", asked)
    assert shares == sorted(shares)
    assert shares[len(shares) // 2 - 1] == 0.5
    assert shares[-1] == 1.0


@CASES
@pytest.mark.parametrize("at", [0.0, 0.7])
def test_work_that_is_stopped_leaves_nothing_behind(subtask: Subtask, at: float, tmp_path: Path) -> None:
    """The answer is a refusal with the code; the next rounds are those of a site that was never asked."""
    path = write_site(tmp_path, limits=STATED)
    subtask, limit = ready(subtask, path), [2.0]

    def tick(done: float) -> None:
        if done >= limit[0]:
            raise Cancelled("nobody waits for it")

    stopped, plain = Node(make_app(Warm(), tick), path), Node(cold_app, path)
    for node in (stopped, plain):
        _work(node, subtask)
    before = dict(plain.context.state)
    limit[0] = at
    said, _ = unpack(_work(stopped, subtask, 2), Refusal)
    assert said.code == "cancelled"
    assert dict(stopped.context.state) == before
    limit[0] = 2.0
    assert list(rounds(stopped, subtask, 2)) == list(rounds(plain, subtask, 2))
