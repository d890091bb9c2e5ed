"""What a subtask reads that comes after others: its own features, then what their models predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from collab.collaboration import named_kind
from collab.data.examples import Examples, of_table
from collab.data.preprocess import Preprocessing, measure
from collab.decomposition.chain import ablated, check_arrays, input_shape, inputs, memory_mib
from collab.models.contract import build, from_arrays, to_arrays
from collab.training import predict
from protocol.arrays import digest
from protocol.errors import ArraysError, DataError, MessageError, UpstreamError
from protocol.messages import Subtask
from protocol.parts import SettledModel, Upstream
from tests.small import Named

ROWS = of_table(
    np.array([[1.0, 10.0, 5.0], [2.0, 30.0, 1.0], [4.0, 20.0, 0.0]]), ("a", "b", "c"), np.zeros(3, int)
)
NAMES = ("a", "b", "c")


def _preprocessing(*columns: str) -> Preprocessing:
    places = [NAMES.index(c) for c in columns]
    return Preprocessing.fit(measure(of_table(ROWS.numeric_NP[:, places], columns, ROWS.y)))


def _upstream(
    name: str, columns: tuple[str, ...], outputs: int, *, seed: int = 1, extra: int = 0, **settled: Any
) -> tuple[Upstream, Named]:
    """Return an upstream subtask with a settled linear model, and the model's arrays."""
    kind = "tabular_regression" if outputs == 1 else "tabular_classification"
    after = settled.pop("after", ())
    arrays = to_arrays(build("linear", (len(columns) + extra,), outputs, seed))
    model = SettledModel(
        model="linear",
        digest=digest(arrays),
        preprocessing=_preprocessing(*columns).model_dump_json(),
        **settled,
    )
    direct = name != "far"
    one = Upstream(name=name, kind=kind, outputs=outputs, after=after, direct=direct, settled=model)
    return one, arrays


def _subtask(*upstream: Upstream) -> Subtask:
    return Subtask(
        name="own",
        data="own",
        kind="tabular_classification",
        outputs=2,
        metric="log_loss",
        exchange="weights",
        seed=0,
        preprocessing=_preprocessing("c").model_dump_json(),
        upstream=upstream,
    )


def _inputs(subtask: Subtask, arrays: dict[str, Named], rows: Examples = ROWS) -> Any:
    return inputs(subtask, lambda _: rows, arrays)


def _raw(one: Upstream, arrays: Named, x: Any) -> Any:
    assert one.settled is not None
    module = build("linear", x.shape[1:], one.outputs, 0)
    from_arrays(module, arrays)
    import torch

    return predict(module, torch.as_tensor(x), named_kind(one.kind))


def test_without_upstream_the_inputs_are_the_features() -> None:
    """A subtask that comes first reads what its preprocessing gives, bit for bit."""
    x = _inputs(_subtask(), {})
    np.testing.assert_array_equal(x, _preprocessing("c").transform(ROWS))
    assert input_shape(_subtask()) == (1,)


def test_probabilities_are_appended_by_upstreams_own_preprocessing() -> None:
    """Upstream reads its own columns of the same rows, by name; its probabilities follow the features."""
    one, arrays = _upstream("near", ("b", "a"), 3)
    subtask = _subtask(one)
    x = _inputs(subtask, {"near": arrays})
    assert x.shape[1:] == input_shape(subtask) == (4,)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x[:, :1], _preprocessing("c").transform(ROWS))
    expected = _raw(one, arrays, _preprocessing("b", "a").transform(ROWS))
    np.testing.assert_allclose(x[:, 1:], expected, rtol=1e-6)
    np.testing.assert_allclose(x[:, 1:].sum(axis=1), 1, rtol=1e-6)


def test_probabilities_are_taken_at_the_final_models_temperature() -> None:
    """A model that is too sure is calibrated before anything is built on it."""
    one, arrays = _upstream("near", ("a", "b"), 3)
    cool, _ = _upstream("near", ("a", "b"), 3, temperature=4.0)
    plain, calibrated = (_inputs(_subtask(u), {"near": arrays})[:, 1:] for u in (one, cool))
    roots = plain ** (1 / 4.0)
    np.testing.assert_allclose(calibrated, roots / roots.sum(axis=1, keepdims=True), rtol=1e-5)


def test_a_value_is_appended_standardised() -> None:
    """A regression's prediction as (value - mean) / scale, so that it is on the features' scale."""
    one, arrays = _upstream("near", ("a",), 1, mean=2.0, scale=0.5)
    x = _inputs(_subtask(one), {"near": arrays})
    expected = (_raw(one, arrays, _preprocessing("a").transform(ROWS)) - 2.0) / 0.5
    np.testing.assert_allclose(x[:, 1:], expected, rtol=1e-6)


def test_upstream_of_upstream_feeds_it_and_nobody_else() -> None:
    """A model that itself comes after another reads that one's outputs; only direct ones are appended."""
    far, far_arrays = _upstream("far", ("a",), 2)
    near, near_arrays = _upstream("near", ("b",), 3, extra=2, after=("far",), seed=2)
    subtask = _subtask(far, near)
    x = _inputs(subtask, {"far": far_arrays, "near": near_arrays})
    assert x.shape == (3, 4) == (3, *input_shape(subtask))
    told = _raw(far, far_arrays, _preprocessing("a").transform(ROWS)).astype(np.float32)
    read = np.concatenate([_preprocessing("b").transform(ROWS), told], axis=1)
    np.testing.assert_allclose(x[:, 1:], _raw(near, near_arrays, read), rtol=1e-5)


def test_ablated_inputs_say_the_same_of_every_row() -> None:
    """Own features stay; what upstream says becomes its mean over train rows."""
    one, arrays = _upstream("near", ("a", "b"), 3)
    subtask = _subtask(one)
    x = _inputs(subtask, {"near": arrays})
    blind = ablated(x[:2], x, subtask)
    np.testing.assert_array_equal(blind[:, :1], x[:2, :1])
    np.testing.assert_allclose(blind[:, 1:], np.tile(x[:, 1:].mean(axis=0), (2, 1)), rtol=1e-6)


def test_what_is_not_settled_or_not_there_is_asked_for() -> None:
    """No inputs are made without the models that were announced."""
    one, arrays = _upstream("near", ("a",), 2)
    with pytest.raises(
        UpstreamError, match="the model of upstream subtask 'near' is not here: send it along"
    ):
        _inputs(_subtask(one), {})
    waiting = one.model_copy(update={"settled": None})
    with pytest.raises(UpstreamError, match="'near' is not over yet: it has no final model"):
        _inputs(_subtask(waiting), {"near": arrays})
    assert input_shape(_subtask(waiting)) == (3,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a | {"1.bias": a["1.bias"] + 1e-3}, "are not those of its digest"),
        (lambda a: a | {"1.bias": np.full_like(a["1.bias"], np.nan)}, "holds NaN or infinite values"),
        (lambda a: a | {"1.bias": a["1.bias"][:1]}, "has shape"),
        (lambda a: a | {"1.bias": a["1.bias"].astype(np.float64)}, "has dtype float64"),
        (lambda a: a | {"more": a["1.bias"]}, "not expected"),
        (lambda a: {"1.bias": a["1.bias"]}, "missing"),
    ],
)
def test_other_arrays_than_announced_are_refused(change: Any, said: str) -> None:
    """Names, shapes, dtypes, finiteness and the digest are checked before a model is built of them."""
    one, arrays = _upstream("near", ("a",), 2)
    with pytest.raises(ArraysError, match=said):
        check_arrays(one, _subtask(one), change(arrays))
    with pytest.raises(ArraysError, match=said):
        _inputs(_subtask(one), {"near": change(arrays)})


def test_a_model_that_predicts_infinities_is_refused() -> None:
    """Finite arrays may still predict what is not finite; nothing is trained on that."""
    arrays = {name: np.full_like(a, 3e38) for name, a in to_arrays(build("linear", (2,), 1, 0)).items()}
    one, _ = _upstream("near", ("a", "b"), 1)
    assert one.settled is not None
    settled = one.settled.model_copy(update={"digest": digest(arrays)})
    one = one.model_copy(update={"settled": settled})
    with pytest.raises(ArraysError, match="predicts what is not finite"):
        _inputs(_subtask(one), {"near": arrays})


def test_rows_without_upstreams_columns_are_refused() -> None:
    """Upstream was fitted on a column that these rows lack: the error names it."""
    one, arrays = _upstream("near", ("a",), 2)
    rows = of_table(ROWS.numeric_NP[:, 2:], ("c",), ROWS.y)
    with pytest.raises(DataError, match="'a'"):
        _inputs(_subtask(one), {"near": arrays}, rows)


def test_a_preprocessing_that_cannot_be_read_is_refused() -> None:
    """What came over the wire is checked, upstream's too."""
    one, arrays = _upstream("near", ("a",), 2)
    assert one.settled is not None
    broken = one.model_copy(update={"settled": one.settled.model_copy(update={"preprocessing": "{}"})})
    with pytest.raises(MessageError, match="the preprocessing of subtask 'near' is not of this version"):
        _inputs(_subtask(broken), {"near": arrays})
    with pytest.raises(MessageError, match="subtask 'own' came without its preprocessing"):
        input_shape(_subtask(one).model_copy(update={"preprocessing": None}))


def test_the_memory_is_that_of_the_largest_upstream_model() -> None:
    """They predict one after the other."""
    one, arrays = _upstream("near", ("a",), 2)
    assert memory_mib(_subtask(), {}) == 0
    assert memory_mib(_subtask(one), {"near": arrays}) >= 16


def test_a_chain_out_of_order_is_no_message() -> None:
    """Each stands after all that it names, once, and none is the subtask itself."""
    far, _ = _upstream("far", ("a",), 2)
    near, _ = _upstream("near", ("b",), 3, extra=2, after=("far",))
    own = near.model_copy(update={"name": "own", "after": ()})
    for chain, said in (((near, far), "does not stand before it"), ((far, far), "twice"), ((own,), "twice")):
        with pytest.raises(ValueError, match=said):
            _subtask(*chain)
