"""The agent's gate: what the worker gives is an answer to the question, by this site, within its rules."""

from __future__ import annotations

import ast
import inspect
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from clients import app as app_module
from clients import ballots, gate, joint, measure, prototypes, soft_labels, weights, whole, work
from clients.gate import ANSWERS, check
from collab.terms import EgressTerms
from protocol.bounds import Frozen
from protocol.errors import MessageError
from protocol.fusing import BallotPaper
from protocol.messages import Capability, Contribution, DataSummary, Evaluation, LocalModel, Refusal, Trial
from protocol.records import HEAD, attach, pack

ROUND: dict[str, Any] = {"run": "r", "round": 1, "subtask": "risk", "site": "north"}
SAID: dict[type[Frozen], Frozen] = {
    Capability: Capability(site="north", memory_mib=1, examples_per_s=1, bandwidth_mbit=1, subtasks={}),
    DataSummary: DataSummary(
        site="north", subtask="risk", statistics="{}", class_counts=(10, 20), train=1, validation=1, test=1
    ),
    Trial: Trial(site="north", subtask="risk", num_examples=1, loss_sums={}),
    LocalModel: LocalModel(site="north", subtask="risk", model="mlp_small"),
    Contribution: Contribution(
        **ROUND, attempt=1, model="m", exchange="weights", num_examples=1, examples_processed=1,
        class_counts=(10, 0), computed_on="0" * 16, digest="0" * 64,
    ),
    Evaluation: Evaluation(**ROUND, num_examples=1),
    BallotPaper: BallotPaper(run="r", subtask="risk", site="north", order=("south",)),
}  # fmt: skip
ARRAYS = {"w": np.ones(2, dtype=np.float32)}
ALL = EgressTerms()
LEAST = EgressTerms(models=False, affinities=False, label_histogram="mask")


def refused(record: RecordDict, kind: str, terms: EgressTerms = ALL) -> str:
    """Why an answer must not leave."""
    with pytest.raises(MessageError) as caught:
        check(record, kind, "north", terms)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def answer(kind: str, **changes: Any) -> Frozen:
    """A rightful answer to a question of this kind."""
    return SAID[ANSWERS[kind]].model_copy(update=changes)


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_rightful_answer_leaves(kind: str) -> None:
    """Of every kind."""
    check(pack(answer(kind)), kind, "north", ALL)


def test_every_question_that_a_site_answers_is_known() -> None:
    """A handler of the ClientApp without an entry here would have its answers kept back."""
    assert set(app_module.app._registered_funcs) == set(ANSWERS)


def _returned(function: Any) -> type[Frozen]:
    """The message that a function says it returns, alone or with arrays."""
    found = get_type_hints(function)["return"]
    return next((part for part in get_args(found) if isinstance(part, type)), found)


def test_every_question_has_the_answer_that_its_handler_gives() -> None:
    """The functions that ``clients.app`` registers, by its source, say what they return."""
    modules = {
        module.__name__.split(".")[-1]: module
        for module in (ballots, joint, measure, prototypes, soft_labels, weights, whole, work)
    }
    seen = {}
    for node in ast.walk(ast.parse(inspect.getsource(app_module._register))):
        handles = node.decorator_list if isinstance(node, ast.FunctionDef) else [node]
        for call in handles:
            kind = _kind_of(call.func if node is call and isinstance(call, ast.Call) else call)
            if kind is None:
                continue
            body = node if isinstance(node, ast.FunctionDef) else call.args[0]  # type: ignore[attr-defined]
            named = [
                getattr(modules[part.value.id], part.attr)
                for part in ast.walk(body)
                if isinstance(part, ast.Attribute)
                and isinstance(part.value, ast.Name)
                and part.value.id in modules
            ] or [app_module._digest]
            if named == [app_module._digest]:
                named = [measure.evaluate_local]  # what it ends with
            assert len(named) == 1, kind
            seen[kind] = _returned(named[0])
    assert seen == ANSWERS


def _kind_of(call: ast.expr) -> str | None:
    """``query.summary`` of ``app.query("summary")``."""
    if (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "app"
        and isinstance(call.args[0], ast.Constant)
    ):
        return f"{call.func.attr}.{call.args[0].value}"
    return None


@pytest.mark.parametrize("kind", ANSWERS)
def test_nothing_else_answers_a_question(kind: str) -> None:
    """A message of every other type is kept back, and one of no type."""
    for other, message in SAID.items():
        if other is not ANSWERS[kind]:
            assert "gave a" in refused(pack(message), kind)
    head = pack(answer(kind))[HEAD]
    assert isinstance(head, ConfigRecord)
    assert "gave a" in refused(RecordDict({HEAD: ConfigRecord({**head, "type": "Bid"})}), kind)


def test_a_question_that_nobody_knows_has_no_answer() -> None:
    """Whatever it is."""
    assert "do not know" in refused(pack(SAID[Trial]), "query.rows")


@pytest.mark.parametrize("kind", ANSWERS)
def test_nobody_speaks_for_another_site(kind: str) -> None:
    """Of all that say a site's name, which is all."""
    assert "another site" in refused(pack(answer(kind, site="south")), kind)


@pytest.mark.parametrize("kind", ["query.capability", "train.weights", "evaluate.ballot"])
def test_a_refusal_answers_everything(kind: str) -> None:
    """Alone: with arrays beside it, it is none. Its own form is looked at too."""
    refusal = Refusal(code="data", detail="no rows")
    check(pack(refusal), kind, "north", LEAST)
    assert gate.is_refusal(pack(refusal))
    assert not gate.is_refusal(pack(refusal, ARRAYS))
    refused(pack(refusal, ARRAYS), kind)
    head = ConfigRecord({"version": 1, "type": "Refusal", "body": b'{"code":"a","detail":"b","rows":[1]}'})
    refused(RecordDict({HEAD: head}), kind)


@pytest.mark.parametrize("kind", ["query.local_model", "train.alone"])
def test_a_model_of_the_sites_own_leaves_only_where_it_may(kind: str) -> None:
    """``[egress] models`` is for these two; without arrays they leave anyway."""
    check(pack(answer(kind), ARRAYS), kind, "north", ALL)
    assert "models" in refused(pack(answer(kind, class_counts=()), ARRAYS), kind, LEAST)
    check(pack(answer(kind, class_counts=())), kind, "north", LEAST)


def test_the_run_itself_needs_no_leave_for_models() -> None:
    """What is aggregated, and statistics, travel as arrays whatever ``[egress] models`` says."""
    check(pack(answer("train.weights", class_counts=()), ARRAYS), "train.weights", "north", LEAST)
    check(pack(answer("evaluate.fusion"), ARRAYS), "evaluate.fusion", "north", LEAST)


@pytest.mark.parametrize("kind", ["query.capability", "query.summary", "query.trial", "evaluate.ballot"])
def test_nothing_rides_along(kind: str) -> None:
    """No arrays beside an answer that has none, and nothing under any other key."""
    assert "arrays" in refused(pack(answer(kind), ARRAYS), kind)
    assert "arrays" in refused(attach(pack(answer("train.weights")), ARRAYS), "train.weights")
    extra = RecordDict({**pack(answer(kind)), "more": ConfigRecord({})})
    refused(extra, kind)


@pytest.mark.parametrize(("says", "terms"), [(True, LEAST), (False, ALL)])
def test_a_capability_promises_what_the_rules_do(says: bool, terms: EgressTerms) -> None:
    """Neither more nor less."""
    assert "promises" in refused(
        pack(answer("query.capability", shares_models=says)), "query.capability", terms
    )


@pytest.mark.parametrize("kind", ["query.summary", "train.weights", "train.soft_labels", "train.prototypes"])
@pytest.mark.parametrize(
    ("mode", "leaves", "stays"),
    [
        ("exact", (3.0, 17.0), None),
        ("rounded", (0.0, 10.0, 120.0), (3.0, 10.0)),
        ("mask", (0.0, 1.0), (0.0, 10.0)),
    ],
)
def test_label_counts_leave_as_the_rules_say(
    kind: str, mode: Any, leaves: tuple[float, ...], stays: tuple[float, ...] | None
) -> None:
    """In a summary and in every contribution."""
    terms = EgressTerms(label_histogram=mode)
    for counts in (leaves, ()):
        check(pack(answer(kind, class_counts=counts)), kind, "north", terms)
    if stays is not None:
        assert "label_histogram" in refused(pack(answer(kind, class_counts=stays)), kind, terms)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{" * 10_000,
        b'{"a":' * 100_000,
        b'{"site":"north","secret":1}',
        b'{"class_counts":{"a":1}}',
        b"\xff",
    ],
)
def test_a_body_that_is_none_is_kept_back(body: bytes) -> None:
    """However deep it is; and the reason quotes nothing of it."""
    head = ConfigRecord({"version": 1, "type": "Contribution", "body": body})
    assert "secret" not in refused(RecordDict({HEAD: head}), "train.weights")


def test_no_field_is_smuggled_in_an_answer() -> None:
    """A body that has one field more than its message is no such message."""
    rightful = pack(SAID[Evaluation])[HEAD]
    assert isinstance(rightful, ConfigRecord)
    body = bytes(rightful["body"])[:-1] + b',"rows":[[1,2]]}'  # type: ignore[arg-type]
    refused(RecordDict({HEAD: ConfigRecord({**rightful, "body": body})}), "evaluate.model")


@pytest.mark.parametrize("record", [RecordDict(), RecordDict({"other": ConfigRecord({})})])
def test_no_message_is_no_answer(record: RecordDict) -> None:
    """Nothing, or something else."""
    assert "no message" in refused(record, "train.weights")
