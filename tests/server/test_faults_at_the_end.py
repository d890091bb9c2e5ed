"""In evaluations and at the end, what cannot be used is left out by name; the others go on as without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from protocol.fusing import FusionRequest
from protocol.messages import Contribution, LocalModel
from protocol.records import unpack
from tests.fault_cases import (
    Fault,
    app_with,
    assert_as_without,
    cut,
    fails,
    gives,
    nan,
    refuses,
    says,
    unreadable,
)
from tests.small import SOFT_LABELS, Answerer, Small, run, tables


def _on(rows: str, fault: Fault) -> Fault:
    """Return a fault on the validation or the test rows of the fusion alone."""

    def chosen(message: Message, reply: Message) -> Message:
        request, _ = unpack(message.content, FusionRequest)
        return fault(message, reply) if request.rows == rows else reply

    return chosen


NO_SUMS, NO_RESULT = _on("validation", refuses), _on("test", refuses)

Reference = Callable[[Fault, str], Small]


def _compared(folder: Path, app: Answerer) -> Small:
    return run(tables(), folder, app=app, baselines=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The run with baselines in which ``alpha`` answers one type of message with that fault, made once."""
    made: dict[tuple[Fault, str], Small] = {}

    def get(fault: Fault, message_type: str) -> Small:
        if (fault, message_type) not in made:
            app = app_with(fault, message_type, "alpha")
            made[fault, message_type] = _compared(tmp_path_factory.mktemp("reference"), app)
        return made[fault, message_type]

    return get


EVALUATIONS = {
    "NaN": nan("log_loss"),
    "another shape": cut("confusion"),
    "a name less": gives(lambda arrays: {k: v for k, v in arrays.items() if k != "confusion"}),
    "a name more": gives(lambda arrays: arrays | {"more": np.zeros(1)}),
    "no arrays": gives(lambda arrays: {}),
    "NaN beside the constant": nan("constant/log_loss"),
    "another shape beside the constant": cut("constant/log_loss"),
    "unreadable": unreadable,
    "dead": fails,
}


@pytest.mark.parametrize("what", sorted(EVALUATIONS))
def test_a_bad_evaluation_is_not_counted(what: str, reference: Reference, tmp_path: Path) -> None:
    """Validation is that of the other sites where one sends statistics that cannot be added."""
    found = _compared(tmp_path, app_with(EVALUATIONS[what], "evaluate.model", "alpha"))
    assert_as_without(found, reference(refuses, "evaluate.model"), "alpha")


@pytest.mark.parametrize("what", ["NaN beside the constant", "another shape beside the constant"])
def test_one_bad_comparison_does_not_refuse_a_good_student(what: str, tmp_path: Path) -> None:
    """A site that sends nonsense for the constant predictor has no say in whether the student is kept."""
    app = app_with(EVALUATIONS[what], "evaluate.model", "alpha")
    found = run(tables({"wine": SOFT_LABELS}), tmp_path, app=app)
    assert found.summary["subtasks"]["wine"]["student"]["accepted"]
    assert "alpha: evaluation of wine not used" in found.notes


LOCAL_MODELS = {
    "NaN": gives(lambda arrays: {k: v * np.nan for k, v in arrays.items()}, LocalModel),
    "other shapes": gives(lambda arrays: {k: v[:1] for k, v in arrays.items()}, LocalModel),
    "no arrays": gives(lambda arrays: {}, LocalModel),
    "an unknown model": says(LocalModel, model="mlp_huge"),
    "unreadable": unreadable,
}


@pytest.mark.parametrize("what", sorted(LOCAL_MODELS))
def test_a_bad_local_model_is_no_candidate(what: str, reference: Reference, tmp_path: Path) -> None:
    """The fusion is that of the other candidates where a site hands over a model that cannot be built."""
    found = _compared(tmp_path, app_with(LOCAL_MODELS[what], "query.local_model", "alpha"))
    assert_as_without(found, reference(refuses, "query.local_model"), "alpha")
    assert set(found.summary["subtasks"]["iris"]["fusion"]["weights"]) == {"final", "beta", "gamma"}


SUMS = {
    "NaN": nan("gram"),
    "another shape": gives(lambda arrays: {"gram": np.eye(9), "cross": np.ones(9)}),
    "a name less": gives(lambda arrays: {"gram": arrays["gram"]}),
    "negative squares": gives(lambda arrays: arrays | {"gram": -1e9 * arrays["gram"]}),
    "no arrays": gives(lambda arrays: {}),
    "unreadable": unreadable,
}


@pytest.mark.parametrize("what", sorted(SUMS))
def test_bad_sums_have_no_say_in_the_fusion(what: str, reference: Reference, tmp_path: Path) -> None:
    """The fusion weights are those of the other sites' validation rows."""
    app = app_with(_on("validation", SUMS[what]), "evaluate.fusion", "alpha")
    assert_as_without(_compared(tmp_path, app), reference(NO_SUMS, "evaluate.fusion"), "alpha")


RESULTS = {
    "NaN": nan("final/log_loss"),
    "another shape": cut("own/confusion"),
    "an unknown method": gives(lambda arrays: arrays | {"best/x": np.zeros(1)}),
    "paired of another shape": cut("paired/log_loss"),
    "paired of other names": gives(lambda arrays: arrays | {"paired/more": np.zeros(1)}),
    "a pool that is none": gives(lambda arrays: arrays | {"pool/mixing": np.array([np.inf])}),
    "unreadable": unreadable,
}


@pytest.mark.parametrize("what", sorted(RESULTS))
def test_a_bad_test_result_is_not_reported(what: str, reference: Reference, tmp_path: Path) -> None:
    """The results are those of the other sites, and the site has none."""
    found = _compared(tmp_path, app_with(_on("test", RESULTS[what]), "evaluate.fusion", "alpha"))
    assert_as_without(found, reference(NO_RESULT, "evaluate.fusion"), "alpha")
    assert set(found.summary["subtasks"]["iris"]["gains"]) == {"beta", "gamma"}


def test_a_comparison_without_its_results_has_no_error_estimate(tmp_path: Path) -> None:
    """Paired sums that come without what they compare are no ground for a standard error, nor for a crash."""
    subtasks = {"diabetes": {"kind": "tabular_regression", "models": ["linear"], "train": {"lr": 0.01}}}
    fault = gives(lambda arrays: {k: v for k, v in arrays.items() if not k.startswith(("own/", "alone/"))})
    app = app_with(_on("test", fault), "evaluate.fusion", "alpha")
    found = run(tables(subtasks), tmp_path, app=app, baselines=True)
    assert found.summary["subtasks"]["diabetes"]["gains"]["alpha"]["own"] is None
    assert found.summary["subtasks"]["diabetes"]["gains"]["beta"]["own"] is not None


@pytest.mark.parametrize("fault", [says(Contribution, model="mlp_huge"), unreadable, fails])
def test_a_bad_baseline_is_left_out(fault: Fault, tmp_path: Path) -> None:
    """A site whose model alone cannot be used is no baseline for all, and the others' are."""
    found = run(tables(), tmp_path, app=app_with(fault, "train.alone", "alpha"), baselines=True)
    local = found.summary["subtasks"]["iris"]["baselines"]["local"]
    assert [local[site]["global"] is None for site in ("beta", "gamma")] == [False, False]
    assert local.get("alpha", {}).get("global") is None
    assert "alpha: no baseline alone for iris" in found.notes
