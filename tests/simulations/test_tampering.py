"""What Byzantine sites send passes the server's checks; everything else passes untouched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from protocol.arrays import digest, spec_of
from protocol.errors import ConfigError
from protocol.messages import Assignment, Contribution, Refusal, Subtask
from protocol.records import pack, unpack
from server.flwr_adapter import task_identity
from simulations.attacks import alie, alie_z, soft_label_swap
from simulations.tampering import tamper

Named = dict[str, NDArray[Any]]
SENT: Named = {
    "w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "norm.running_mean": np.zeros(2, np.float32),
    "norm.num_batches_tracked": np.array(3),
}


@pytest.fixture(autouse=True)
def _may_make_messages() -> Iterator[None]:
    with task_identity(1):
        yield


def _subtask(**fields: Any) -> Subtask:
    told = {"name": "t", "data": "t", "kind": "tabular_classification", "outputs": 3, "metric": "accuracy"}
    return Subtask.model_validate(told | {"exchange": "weights", "seed": 1} | fields)


def _honest(site: int) -> Named:
    rng = np.random.default_rng(site)
    return {
        "w": (SENT["w"] + rng.normal(size=(2, 3))).astype(np.float32),
        "norm.running_mean": rng.normal(size=2).astype(np.float32),
        "norm.num_batches_tracked": np.array(4 + site),
    }


def _table(site: int, rows: int = 5) -> Named:
    table_NC = np.random.default_rng(site).dirichlet(np.ones(3), rows).astype(np.float32)
    table_NC[0] = 0
    return {"probabilities": table_NC}


def _pair(
    number: int, given: Named, kind: str = "train.weights", sent: Named | None = None, **told: Any
) -> tuple[Message, Message]:
    subtask, site = told.pop("subtask", _subtask()), f"s{number}"
    assignment = Assignment(run="r", round=2, subtask=subtask, site=site, model=told.get("model", "linear"))
    request = Message(pack(assignment, sent), number + 1, kind)
    request.metadata.__dict__["_message_id"] = f"m{number}"
    contribution = Contribution(
        run="r",
        round=2,
        subtask=subtask.name,
        site=site,
        attempt=1,
        model=assignment.model,
        exchange=subtask.exchange,
        num_examples=10,
        examples_processed=20,
        computed_on="0" * 16,
        digest=digest(given),
    )
    return request, Message(pack(contribution, given), reply_to=request)


def _weights(count: int, **told: Any) -> list[tuple[Message, Message]]:
    return [_pair(i, _honest(i), sent=SENT, **told) for i in range(count)]


def _tables(count: int) -> list[tuple[Message, Message]]:
    subtask = _subtask(exchange="soft_labels")
    return [_pair(i, _table(i), "train.soft_labels", subtask=subtask) for i in range(count)]


def _given(reply: Message) -> Named:
    """Return the arrays of a reply, and check that the server would take them for what they say."""
    contribution, arrays = unpack(reply.content, Contribution)
    assert contribution.digest == digest(arrays)
    return arrays


def _all(attack: str, *numbers: int) -> Mapping[str, str]:
    return {f"s{i}": attack for i in numbers}


@pytest.mark.parametrize("attack", ["sign_flip", "alie", "ipm", "gaussian"])
def test_attackers_alone_are_rewritten(attack: str) -> None:
    """Honest replies are the same objects; an attacker's keep names, shapes, dtypes and what they say."""
    batch = _weights(6)
    replies = tamper(batch, _all(attack, 1, 4), seed=7)
    for i, ((request, before), after) in enumerate(zip(batch, replies, strict=True)):
        if i not in {1, 4}:
            assert after is before
            continue
        found, honest = _given(after), _honest(i)
        assert spec_of(found) == spec_of(honest)
        assert (found["w"] != honest["w"]).any()
        assert_array_equal(found["norm.running_mean"], honest["norm.running_mean"])
        assert_array_equal(found["norm.num_batches_tracked"], honest["norm.num_batches_tracked"])
        assert after.metadata.reply_to_message_id == request.metadata.message_id
        said = {"exclude": {"digest"}}
        told, tells = (unpack(m.content, Contribution)[0].model_dump(**said) for m in (before, after))
        assert told == tells


def test_a_flip_is_around_what_was_sent() -> None:
    """The update changes its sign: x - (y - x)."""
    (_, reply) = tamper(_weights(2), _all("sign_flip", 1), seed=0)
    assert_allclose(_given(reply)["w"], 2 * SENT["w"] - _honest(1)["w"], atol=1e-6)


def test_attackers_of_a_cohort_work_together() -> None:
    """ALIE of two among seven is the mean less z standard deviations of those two, from both."""
    replies = tamper(_weights(7), _all("alie", 2, 5), seed=0)
    honest = np.stack([_honest(i)["w"].reshape(-1).astype(np.float64) for i in (2, 5)])
    wanted = honest.mean(axis=0) - alie_z(7, 2) * honest.std(axis=0)
    for i in (2, 5):
        assert_allclose(_given(replies[i])["w"].reshape(-1), wanted, atol=1e-5)


def test_cohorts_of_another_subtask_or_architecture_are_apart() -> None:
    """A batch holds several cohorts; an attacker alone in its own knows no spread and stays honest."""
    batch = [*_weights(3), _pair(3, _honest(3), sent=SENT, model="other")]
    batch.append(_pair(4, _honest(4), sent=SENT, subtask=_subtask(name="u")))
    replies = tamper(batch, _all("alie", 0, 3, 4), seed=0)
    for i in (0, 3, 4):
        assert_allclose(_given(replies[i])["w"], _honest(i)["w"], atol=1e-6)


def test_control_variates_are_differences_already() -> None:
    """SCAFFOLD's second half flips around 0, though arrays of that name were sent."""
    control = {"control/w": np.ones((2, 3), np.float32)}
    pair = _pair(0, _honest(0) | {"control/w": control["control/w"] * 3}, sent=SENT | control)
    (reply,) = tamper([pair], _all("sign_flip", 0), seed=0)
    assert_array_equal(_given(reply)["control/w"], -3 * control["control/w"])


@pytest.mark.parametrize("attack", ["sign_flip", "alie", "soft_label_swap"])
def test_attacked_soft_labels_keep_their_silence(attack: str) -> None:
    """Rows still sum to 1, rows without an opinion stay without; a swap is that of the pure function."""
    replies = tamper(_tables(5), _all(attack, 0, 3), seed=0)
    for i in (0, 3):
        found_NC, honest_NC = _given(replies[i])["probabilities"], _table(i)["probabilities"]
        assert found_NC.dtype == np.float32
        assert_allclose(found_NC.sum(axis=1), [0, 1, 1, 1, 1], atol=1e-6)
        assert (found_NC[1:] != honest_NC[1:]).any()
        if attack == "soft_label_swap":
            assert_array_equal(found_NC, soft_label_swap(honest_NC))
    if attack == "alie":
        assert_array_equal(_given(replies[0])["probabilities"], _given(replies[3])["probabilities"])


def test_noise_is_a_function_of_seed_round_subtask_and_site() -> None:
    """Two attackers draw apart; the same run draws the same; another seed draws anew."""
    first, again, other = (tamper(_weights(2), _all("gaussian", 0, 1), seed=s) for s in (3, 3, 4))
    assert_array_equal(_given(first[0])["w"], _given(again[0])["w"])
    assert (_given(first[0])["w"] != _given(first[1])["w"]).all()
    assert (_given(first[0])["w"] != _given(other[0])["w"]).all()


def test_only_contributions_of_a_round_are_rewritten() -> None:
    """Own models, refusals, errors, poisoned data and honest sites pass as the same objects."""
    refused = _pair(1, _honest(1), sent=SENT)[0]
    failed = _pair(2, _honest(2), sent=SENT)[0]
    batch = [
        _pair(0, _honest(0), "train.alone", sent=SENT),
        (refused, Message(pack(Refusal(code="data", detail="no rows")), reply_to=refused)),
        (failed, Message(Error(code=2, reason="ValueError"), reply_to=failed)),
        _pair(3, _honest(3), sent=SENT),
    ]
    attackers = {**_all("sign_flip", 0, 1, 2), "s3": "label_flip"}
    replies = tamper(batch, attackers, seed=0)
    assert all(after is before for (_, before), after in zip(batch, replies, strict=True))
    assert tamper([], attackers, seed=0) == []


def test_what_cannot_be_attacked_is_refused() -> None:
    """An attack that is not defined on the exchange or the wire, or arrays that were never sent."""
    with pytest.raises(ConfigError, match="not defined on weights"):
        tamper(_weights(1), _all("soft_label_swap", 0), seed=0)
    quantised = _subtask(wire={"form": "int8_delta"})
    with pytest.raises(ConfigError, match="wire = 'fp32'"):
        tamper(_weights(1, subtask=quantised), _all("sign_flip", 0), seed=0)
    with pytest.raises(ConfigError, match="'w' was not sent"):
        tamper([_pair(0, _honest(0))], _all("sign_flip", 0), seed=0)


def test_float16_stays_float16_and_the_oracle_holds() -> None:
    """Updates are reckoned in float64 whatever travels."""
    sent = {"w": np.array([1.0, 2.0], np.float16)}
    given = [{"w": np.array(w, np.float16)} for w in ([2.0, 2.0], [4.0, 1.0])]
    batch = [_pair(i, g, sent=sent) for i, g in enumerate(given)] + [_pair(2, given[0], sent=sent)]
    found = _given(tamper(batch, _all("alie", 0, 1), seed=0)[0])["w"]
    moved = alie(np.array([[1.0, 0.0], [3.0, -1.0]]), 3)[0] + sent["w"]
    assert found.dtype == np.float16
    assert_allclose(found, moved, rtol=1e-3)
