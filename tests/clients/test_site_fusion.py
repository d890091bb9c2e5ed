"""A fusion of several exchanges at one site, and the calibration that candidates bring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clients import measure
from clients.weights import train_weights
from clients.work import Desk, raw_outputs
from collab.calibration import apply_temperature, fit_temperature, temperature_from
from collab.fusion import stacking
from protocol.errors import MessageError
from protocol.fusing import FINAL, Candidate, FusionRequest
from tests.clients.desk_cases import RUN, assignment, desks, fresh, kept, request
from tests.small import Named, tables

COUNTS = (40.0, 40.0, 40.0)
TEMPERATURES = (1.0, 2.5)


@pytest.fixture
def desk() -> Desk:
    """The desk of a site that has trained once."""
    found = desks(tables(), "iris")["beta"]
    train_weights(found, assignment(found), fresh(found))
    return found


def _asked(desk: Desk, step: int, **fields: Any) -> FusionRequest:
    names = zip((FINAL, "beta"), TEMPERATURES, strict=True)
    told = {
        "run": RUN,
        "subtask": desk.subtask,
        "site": desk.site.name,
        "rule": "stacking",
        "rows": "validation",
        "step": step,
        "candidates": [Candidate(name=n, model="linear", temperature=t) for n, t in names],
    }
    return FusionRequest.model_validate(told | fields)


def _models(desk: Desk) -> Named:
    return {f"0/{k}": v for k, v in fresh(desk).items()} | {f"1/{k}": v for k, v in kept(desk).items()}


def _outputs(desk: Desk) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the candidates' calibrated outputs [M, N, C] on validation rows, and one-hot targets [N, C]."""
    validation = desk.raw().validation
    modules = (desk.fresh("linear"), desk.model("linear", kept(desk)))
    found = [raw_outputs(desk, module, desk.rows(validation)) for module in modules]
    tempered = [apply_temperature(o, t) for o, t in zip(found, TEMPERATURES, strict=True)]
    return np.stack(tempered), np.eye(3)[validation.y.astype(int)]


def test_later_steps_need_no_models(desk: Desk) -> None:
    """After step 0 a site answers from the outputs that it kept, what the rule says of them, step by step."""
    outputs_MNC, targets_NC = _outputs(desk)
    arrays: Named = _models(desk)
    state: Named = {}
    for step in range(4):
        _, reply = measure.fuse(desk, _asked(desk, step), arrays)
        expected = stacking.statistics(outputs_MNC, targets_NC, state)
        assert reply.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(reply[name], array, rtol=1e-9, atol=1e-9)
        state = stacking.fit(reply, state, 2)
        arrays = {f"fusion/{name}": array for name, array in state.items()}


def test_a_step_without_the_first_is_refused(desk: Desk) -> None:
    """A site that was not asked step 0 has no outputs, and says so in a sentence."""
    with pytest.raises(MessageError, match="first step was not asked here"):
        measure.fuse(desk, _asked(desk, 1), {})


def test_outputs_of_other_candidates_are_not_used(desk: Desk) -> None:
    """A later step that names another rule or another number of candidates is refused."""
    measure.fuse(desk, _asked(desk, 0), _models(desk))
    with pytest.raises(MessageError, match="first step was not asked here"):
        measure.fuse(desk, _asked(desk, 1, rule="greedy_selection"), {})
    with pytest.raises(MessageError, match="first step was not asked here"):
        measure.fuse(desk, _asked(desk, 1, candidates=[Candidate(name=FINAL, model="linear")]), {})


def test_a_rule_of_one_step_keeps_nothing(desk: Desk) -> None:
    """Outputs stay at a site only where a later step will ask for them."""
    measure.fuse(desk, _asked(desk, 0, rule="least_squares"), _models(desk))
    assert desk.state.get("iris", "fusing") is None
    measure.fuse(desk, _asked(desk, 0), _models(desk))
    assert desk.state.get("iris", "fusing") is not None


def test_a_model_leaves_with_its_calibration(desk: Desk) -> None:
    """The temperature is the one that fits the site's own validation rows; without rows it is 1."""
    answer, arrays = measure.local_model(desk)
    validation = desk.raw().validation
    outputs_NC = raw_outputs(desk, desk.model("linear", arrays), desk.rows(validation))
    assert answer.temperature == pytest.approx(fit_temperature(outputs_NC, validation.y), rel=1e-3)
    assert answer.temperature != 1.0
    made = tables()
    made["data"]["iris"]["split"] = {"test": 0.2, "validation": 0.0}
    blind = desks(made, "iris")["beta"]
    train_weights(blind, assignment(blind), fresh(blind))
    assert measure.local_model(blind)[0].temperature == 1.0


def test_a_site_answers_its_temperature_sums(desk: Desk) -> None:
    """Beside an evaluation stand the sums from which the server fits the temperature that the rows want."""
    _, arrays = measure.evaluate(desk, request(desk, class_counts=COUNTS), fresh(desk))
    sums = {k.removeprefix("temperature/"): v for k, v in arrays.items() if k.startswith("temperature/")}
    validation = desk.raw().validation
    outputs_NC = raw_outputs(desk, desk.fresh("linear"), desk.rows(validation))
    assert temperature_from(sums) == pytest.approx(fit_temperature(outputs_NC, validation.y), rel=1e-3)
    assert sums["num"].tolist() == [len(validation)]
    _, unasked = measure.evaluate(desk, request(desk), fresh(desk))
    assert not any(name.startswith("temperature/") for name in unasked)
