"""What a site measures: sums that add up to those of all rows together, and answers within its rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from clients import measure, work
from clients.app import app as client_app
from clients.weights import train_weights
from clients.work import Desk, raw_outputs
from collab import metrics
from collab.data.examples import concatenate
from collab.fusion import least_squares
from collab.paired import difference
from collab.sparse import expand
from protocol.arrays import Arrays
from protocol.errors import ArraysError
from protocol.fusing import FINAL, Candidate, FusionRequest
from protocol.messages import Refusal, SubtaskQuery
from protocol.records import pack, unpack
from server.federation import to_toml
from server.flwr_adapter import task_identity
from tests.clients.desk_cases import RUN, assignment, desks, fresh, request
from tests.small import NAMES, WEIGHTS, Named, scenario, sites, tables

COUNTS = (40.0, 40.0, 40.0)
METHODS = {
    *("final", "calibrated", "fused", "own", "local", "local_calibrated", "alone"),
    *("paired", "pool"),
}


@pytest.fixture(scope="module")
def places() -> dict[str, Desk]:
    """Three desks; each site has trained once from the common start."""
    found = desks(tables(), "iris")
    for desk in found.values():
        train_weights(desk, assignment(desk), fresh(desk))
        work.train_alone(desk, assignment(desk, budget=2))
    return found


def _dense(arrays: Arrays) -> Named:
    return expand(arrays, metrics.statistics_spec("classification", 3))


@pytest.mark.parametrize("rows", ["validation", "test"])
def test_the_sites_sums_are_those_of_all_rows(places: dict[str, Desk], rows: str) -> None:
    """Adding what three sites answer gives exactly the metrics of the three splits as one."""
    parts, raw = [], []
    for desk in places.values():
        told, arrays = measure.evaluate(desk, request(desk, rows=rows), fresh(desk))
        raw.append(getattr(desk.raw(), rows))
        assert told.num_examples == len(raw[-1])
        parts.append(_dense(arrays))
    union, desk = concatenate(raw), places["alpha"]
    outputs_NK = raw_outputs(desk, desk.fresh("linear"), desk.rows(union))
    expected = metrics.summarise(metrics.classification_statistics(outputs_NK, union.y))
    assert metrics.summarise(metrics.merge(parts)) == pytest.approx(expected)


def test_a_model_is_compared_with_the_class_frequencies(places: dict[str, Desk]) -> None:
    """With class counts the answer holds the paired difference from the predictor that knows them alone."""
    desk = places["beta"]
    _, arrays = measure.evaluate(desk, request(desk, class_counts=COUNTS), fresh(desk))
    sums = {k.removeprefix("constant/"): v for k, v in arrays.items() if k.startswith("constant/")}
    mean, _ = difference(sums, "log_loss")
    own = metrics.summarise(_dense({k: v for k, v in arrays.items() if "/" not in k}))["log_loss"]
    assert own - mean == pytest.approx(np.log(3))
    _, without = measure.evaluate(desk, request(desk), fresh(desk))
    assert not any(name.startswith("constant/") for name in without)


def test_a_site_that_cannot_hold_the_model_abstains() -> None:
    """It answers with no examples and no arrays, which is no error."""
    desk = desks(tables(sites=sites(beta={"memory_mib": 1})), "iris")["beta"]
    told, arrays = measure.evaluate(desk, request(desk), fresh(desk))
    assert (told.num_examples, arrays) == (0, {})


def test_without_rows_there_is_nothing_to_say() -> None:
    """A site without validation rows answers with no examples, to every question about them."""
    made = tables()
    made["data"]["iris"]["split"] = {"test": 0.2, "validation": 0.0}
    desk = desks(made, "iris")["beta"]
    told, arrays = measure.evaluate(desk, request(desk), fresh(desk))
    assert (told.num_examples, arrays) == (0, {})
    told, arrays = measure.evaluate_local(desk, request(desk), 7)
    assert (told.num_examples, told.examples_processed, arrays) == (0, 7, {})
    told, arrays = measure.fuse(desk, _fusion(desk, "validation"), _models(desk))
    assert (told.num_examples, arrays) == (0, {})


@pytest.mark.parametrize("shares", [True, False])
def test_a_model_leaves_where_the_rules_allow(shares: bool) -> None:
    """``[egress] models`` decides; a site that has not trained has none to give."""
    desk = desks(tables(sites=sites(beta={"egress": {"models": shares}})), "iris")["beta"]
    assert measure.local_model(desk)[1] == {}
    _, trained = train_weights(desk, assignment(desk), fresh(desk))
    told, arrays = measure.local_model(desk)
    assert told.model == ("linear" if shares else None)
    assert arrays.keys() == (trained.keys() if shares else set())


def _fusion(desk: Desk, rows: str, names: tuple[str, ...] = (FINAL, "beta"), **fields: Any) -> FusionRequest:
    told = {
        "run": RUN,
        "subtask": desk.subtask,
        "site": desk.site.name,
        "rule": "least_squares",
        "rows": rows,
        "candidates": [Candidate(name=name, model="linear") for name in names],
        "class_counts": COUNTS,
    }
    return FusionRequest.model_validate(told | fields)


def _models(desk: Desk) -> Named:
    """Return the common start as the final model, and the site's own as the second candidate."""
    kept = desk.state.get("iris")
    own = kept.arrays if kept else fresh(desk)
    return {f"0/{k}": v for k, v in fresh(desk).items()} | {f"1/{k}": v for k, v in own.items()}


def test_normal_equations_add_up(places: dict[str, Desk]) -> None:
    """The sum of the sites' equations is that of all validation rows, stacked."""
    models = _models(places["alpha"])
    given = [measure.fuse(desk, _fusion(desk, "validation"), models)[1] for desk in places.values()]
    union = concatenate([desk.raw().validation for desk in places.values()])
    desk = places["alpha"]
    own = desk.model("linear", {k[2:]: v for k, v in models.items() if k.startswith("1/")})
    modules = [desk.fresh("linear"), own]
    outputs_MNK = np.stack([raw_outputs(desk, module, desk.rows(union)) for module in modules])
    expected = least_squares.statistics(outputs_MNK, np.eye(3)[union.y.astype(int)], {})
    total = metrics.merge(given)
    assert total.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(total[name], array, rtol=1e-12)


def test_on_test_rows_every_method_is_measured(places: dict[str, Desk]) -> None:
    """Final, fused, own and alone on the same rows; all weight on the final model makes fused equal it."""
    desk = places["beta"]
    arrays = _models(desk) | {"fusion/weights": np.array([1.0, 0.0])}
    told, reply = measure.fuse(desk, _fusion(desk, "test"), arrays)
    methods = {name.split("/")[0] for name in reply}
    assert methods == METHODS
    assert told.num_examples == len(desk.raw().test)
    by_method = {
        m: _dense({k.removeprefix(f"{m}/"): v for k, v in reply.items() if k.startswith(f"{m}/")})
        for m in METHODS - {"paired", "pool"}
    }
    for name, array in by_method["calibrated"].items():
        np.testing.assert_array_equal(by_method["fused"][name], array)
    paired = {k.removeprefix("paired/"): v for k, v in reply.items() if k.startswith("paired/")}
    losses = {m: metrics.summarise(s)["log_loss"] for m, s in by_method.items()}
    assert difference(paired, "log_loss")[0] == pytest.approx(losses["own"] - losses["alone"])
    assert losses["calibrated"] == pytest.approx(losses["final"])  # its temperature is 1


def test_without_candidates_the_own_model_is_measured(places: dict[str, Desk]) -> None:
    """A request without any candidate is answered with what the site has by itself."""
    desk = places["beta"]
    _, reply = measure.fuse(desk, _fusion(desk, "test", ()), {})
    assert {name.split("/")[0] for name in reply} == METHODS - {"final", "calibrated", "fused", "pool"}


def test_candidates_are_checked(places: dict[str, Desk]) -> None:
    """A candidate whose arrays are missing or of another shape is refused."""
    desk = places["beta"]
    with pytest.raises(ArraysError):
        measure.fuse(desk, _fusion(desk, "test", (FINAL, "beta", "gamma")), _models(desk))


def test_an_error_of_ours_becomes_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    """What the ClientApp refuses is an answer with code and sentence; what it did not foresee is Flower's."""
    made = tables({"iris": {**WEIGHTS}}, sites=sites(beta={"device": "cpu"}))
    config: dict[str, bool | float | int | str] = {"collaboration": to_toml(scenario(made))}
    with task_identity(1):
        context = Context(1, 2, {"partition-id": NAMES.index("beta")}, RecordDict(), config)
        query = SubtaskQuery(subtask=desks(made, "iris")["beta"].subtask.model_copy(update={"name": "rusk"}))
        message = Message(pack(query), 2, "query.summary")
        refusal, _ = unpack(client_app(message, context).content, Refusal)
        assert refusal.code == "data"
        assert "unknown subtask 'rusk' at site 'beta'" in refusal.detail
        broken = Context(1, 2, {"partition-id": "two"}, RecordDict(), config)
        with pytest.raises(ValueError, match="two"):
            client_app(message, broken)
    assert not caplog.records
