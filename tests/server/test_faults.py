"""A contribution that cannot be used is rejected under its site's name; the others go on as without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from protocol.arrays import digest
from protocol.codec import decode
from protocol.messages import PROTOCOL_VERSION, Contribution
from protocol.records import ARRAYS, BLOB, HEAD, STYPE, unpack
from tests.fault_cases import Fault, app_with, contribution, fails, in_round, refuses, retold, unreadable
from tests.small import SOFT_LABELS, Named, Small, Tables, run, tables

WEIGHT = "1.weight"
CELL = "cell 4711 of Jane Doe"


def _given(change: Callable[[Named], Named]) -> Fault:
    """Change the arrays, with a digest that fits them."""

    def changed(told: Contribution, arrays: Named) -> tuple[Contribution, Named]:
        given = change(arrays)
        return told.model_copy(update={"digest": digest(given)}), given

    return retold(changed, Contribution)


def _with(name: str, value: float) -> Fault:
    def change(arrays: Named) -> Named:
        arrays[name].flat[0] = value
        return arrays

    return _given(change)


def _record(**head: Any) -> Fault:
    """Answer with a head whose fields are these."""
    fields: dict[str, Any] = {"version": PROTOCOL_VERSION, "type": "Contribution", "body": b"{}"} | head
    return lambda message, reply: Message(RecordDict({HEAD: ConfigRecord(fields)}), reply_to=message)


def _blob(data: bytes) -> Fault:
    """Answer with the honest head and these bytes for arrays."""

    def fault(message: Message, reply: Message) -> Message:
        array = Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)
        content = RecordDict({HEAD: reply.content[HEAD], ARRAYS: ArrayRecord({BLOB: array})})
        return Message(content, reply_to=message)

    return fault


def _raises(message: Message, reply: Message) -> Message:
    raise ValueError(CELL)


def _greedy(message: Message, reply: Message) -> Message:
    """Claim more work than a float holds."""
    told, _ = unpack(reply.content, Contribution)
    body = told.model_dump(mode="json") | {"examples_processed": 10**400}
    return _record(body=json.dumps(body).encode())(message, reply)


ANY: Mapping[str, tuple[Fault, str]] = {
    "wrong digest": (contribution(digest="0" * 64), "arrays"),
    "more examples than it has": (contribution(num_examples=10**9), "message"),
    "another run": (contribution(run="other"), "message"),
    "another round": (contribution(round=7), "message"),
    "another attempt": (contribution(attempt=2), "message"),
    "another site": (contribution(site="alpha"), "message"),
    "another subtask": (contribution(subtask="other"), "message"),
    "another model": (contribution(model="mlp_small"), "message"),
    "an empty record": (unreadable, "message"),
    "another version": (_record(version=99), "version"),
    "another type": (_record(type="Evaluation"), "message"),
    "no JSON": (_record(body=b"\xff\x00"), "message"),
    "endless nesting": (_record(body=b"[" * 200_000), "limit"),
    "an endless number": (_greedy, "message"),
    "bytes that are no arrays": (_blob(b"not safetensors at all"), "arrays"),
    "bytes that end early": (_blob(b"\xff"), "arrays"),
    "a refusal": (refuses, "protocol"),
    "an exception": (_raises, "protocol"),
    "a process that died": (fails, "protocol"),
}
WEIGHTS_ALONE: Mapping[str, tuple[Fault, str]] = {
    "other names": (_given(lambda a: {"x" + name: array for name, array in a.items()}), "arrays"),
    "a name more": (_given(lambda a: a | {"more": np.zeros(1, np.float32)}), "arrays"),
    "a name less": (_given(lambda a: {WEIGHT: a[WEIGHT]}), "arrays"),
    "no arrays": (_given(lambda a: {}), "arrays"),
    "another shape": (_given(lambda a: a | {WEIGHT: a[WEIGHT].T.copy()}), "arrays"),
    "another dtype": (_given(lambda a: a | {WEIGHT: a[WEIGHT].astype(np.float64)}), "arrays"),
    "NaN": (_with(WEIGHT, np.nan), "arrays"),
    "infinity": (_with(WEIGHT, -np.inf), "arrays"),
}
SOFT_LABELS_ALONE: Mapping[str, tuple[Fault, str]] = {
    "rows that do not sum to 1": (_given(lambda a: {"probabilities": a["probabilities"] * 0.9}), "arrays"),
    "negative probabilities": (_given(lambda a: {"probabilities": a["probabilities"] - 2}), "arrays"),
    "NaN": (_with("probabilities", np.nan), "arrays"),
    "too few rows": (_given(lambda a: {"probabilities": a["probabilities"][1:]}), "arrays"),
    "too few classes": (_given(lambda a: {"probabilities": a["probabilities"][:, 1:]}), "arrays"),
    "whole numbers": (_given(lambda a: {"probabilities": a["probabilities"].astype(np.int64)}), "arrays"),
    "other names": (_given(lambda a: {"logits": a["probabilities"]}), "arrays"),
    "class counts of another length": (contribution(class_counts=(1.0,)), "message"),
    "other class counts than before": (contribution(class_counts=(1e12, 1.0, 1.0)), "message"),
}


def _weights(folder: Path, fault: Fault) -> Small:
    """Two rounds, the fault of ``beta`` in the first."""
    return run(tables(rounds=2), folder, app=app_with(in_round(1, fault), "train.weights"))


def _soft_labels(folder: Path, fault: Fault) -> Small:
    made = tables({"wine": SOFT_LABELS}, rounds=2)
    return run(made, folder, app=app_with(in_round(1, fault), "train.soft_labels"))


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Small]:
    """The runs in which ``beta`` gives nothing in the first round."""
    folder = tmp_path_factory.mktemp("without")
    return {"weights": _weights(folder / "w", fails), "soft_labels": _soft_labels(folder / "s", fails)}


def _assert_rejected(found: Small, expected: Small, code: str) -> None:
    """One rejection, of ``beta``; all else as if it had given nothing in that round."""
    assert found.outcomes("beta") == ["rejected", "contributed"]
    assert found.outcomes("alpha") == found.outcomes("gamma") == ["contributed"] * 2
    rejected = [row for row in found.summary["allocations"] if row["outcome"] == "rejected"]
    assert [row["detail"].split(":")[0] for row in rejected] == [code]
    assert [note.split(":")[0] for note in found.summary["notes"]] == ["beta"]
    assert [t["code"] for t in found.told if t["type"] == "rejected"] == [code]
    assert found.models() == expected.models()
    assert [c["contributed"] for c in found.summary["coverage"]] == [2, 3]
    assert "Traceback" not in found.everything()
    assert not (found.folder / "contributions").exists()


@pytest.mark.parametrize("what", sorted({**ANY, **WEIGHTS_ALONE}))
def test_bad_weights_leave_the_others_as_they_are(
    what: str, without: Mapping[str, Small], tmp_path: Path
) -> None:
    """Whatever one site sends for weights, the models are those of a round without it."""
    fault, code = {**ANY, **WEIGHTS_ALONE}[what]
    _assert_rejected(_weights(tmp_path, fault), without["weights"], code)


@pytest.mark.parametrize("what", sorted({*SOFT_LABELS_ALONE, "an exception"}))
def test_bad_soft_labels_leave_the_others_as_they_are(
    what: str, without: Mapping[str, Small], tmp_path: Path
) -> None:
    """Whatever one site sends for soft labels, the student is that of a round without it."""
    fault, code = {**ANY, **SOFT_LABELS_ALONE}[what]
    _assert_rejected(_soft_labels(tmp_path, fault), without["soft_labels"], code)


def _sent(found: Small) -> list[tuple[Contribution, Named]]:
    replies = found.grid.answers("train.weights")
    return [unpack(reply.content, Contribution) for reply in replies if reply.has_content()]


def test_without_the_bad_one_the_mean_is_that_of_the_good_ones(tmp_path: Path) -> None:
    """After a round with one bad contribution the model is the others' weighted mean, computed by hand."""
    unlike = {"default": {"kind": "quantity", "skew": 0.5}}
    app = app_with(_with(WEIGHT, np.nan), "train.weights")
    found = run(tables(partition=unlike), tmp_path, app=app)
    good = [(c.num_examples, arrays) for c, arrays in _sent(found) if c.site != "beta"]
    total = sum(n for n, _ in good)
    final = decode(found.models()["models/iris/final.safetensors"], 10**6)
    assert len({n for n, _ in good}) == 2
    for name, array in final.items():
        mean = sum(n / total * arrays[name].astype(np.float64) for n, arrays in good)
        np.testing.assert_allclose(array, mean, rtol=1e-6, atol=1e-7)


def test_an_exception_of_a_site_says_nothing_of_what_it_held(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The text of a site's own exception stays at the site; the server learns that it failed."""
    found = _weights(tmp_path, _raises)
    told = capfd.readouterr()
    assert "the site failed" in found.notes
    assert CELL not in found.everything() + found.notes + told.out + told.err


def test_a_refusal_is_one_printable_line(tmp_path: Path) -> None:
    """What a site says when it refuses can break no line and move no cursor."""
    told = _refusal("no\nerror: all is lost\x1b[2J\u202e")
    found = _weights(tmp_path, told)
    note = found.summary["notes"][0]
    assert "no error: all is lost" in note
    assert note.isprintable()
    assert all(row["detail"].isprintable() for row in found.summary["allocations"])


def _refusal(detail: str) -> Fault:
    body = json.dumps({"code": "policy", "detail": detail}).encode()
    return _record(type="Refusal", body=body)


def test_a_run_of_bad_contributions_alone_says_so(tmp_path: Path) -> None:
    """With nothing to merge the model stays as it began, no mean is made up, and every round is skipped."""
    made: Tables = tables(rounds=2, sites={"alpha": {"device": "cpu"}})
    app = app_with(_with(WEIGHT, np.nan), "train.weights", "alpha", ("alpha",))
    found = run(made, tmp_path, app=app)
    assert found.outcomes("alpha") == ["rejected"] * 2
    assert "nobody contributed; asked: alpha" in found.notes
    assert found.summary["subtasks"]["iris"]["collaboration"]["global"] is None
    assert "models/iris/final.safetensors" not in found.models()
