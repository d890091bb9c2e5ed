"""One assignment at one site: what it starts from, what it costs, what it keeps and what it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from clients import work
from clients.state import SiteState
from clients.work import Desk
from collab.soft_labels.contract import check_soft_labels
from collab.training import mean_loss
from protocol.arrays import digest
from protocol.errors import ArraysError, DataError, MessageError
from protocol.messages import SubtaskQuery, TrainSpec
from tests.clients.desk_cases import assignment, desks, fresh
from tests.small import NAMES, SOFT_LABELS, WEIGHTS, Named, sites, tables

CLASSES = 3


@pytest.fixture
def desk() -> Desk:
    """The desk of one site for a subtask that exchanges weights."""
    return desks(tables(), "iris")["beta"]


@pytest.fixture
def soft_desk() -> Desk:
    """The desk of one site for a subtask that exchanges soft labels."""
    return desks(tables({"wine": SOFT_LABELS}), "wine")["beta"]


def _same(one: Named, other: Named) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_contribution_is_the_trained_model(desk: Desk) -> None:
    """It says the rows, the work and the digest of arrays unlike those that came, which stay untouched."""
    given = fresh(desk)
    before = {name: array.copy() for name, array in given.items()}
    told, arrays = work.train_weights(desk, assignment(desk), given)
    rows = len(desk.raw().train)
    assert (told.num_examples, told.examples_processed) == (rows, rows)
    assert told.digest == digest(arrays)
    assert told.id == assignment(desk).id
    assert _same(given, before)
    assert not _same(arrays, given)
    kept = desk.state.get("iris")
    assert kept is not None
    assert _same(dict(kept.arrays), arrays)


def test_a_repeated_assignment_gives_the_same_bits(desk: Desk) -> None:
    """The attempt changes nothing, the round draws other batches."""
    first = work.train_weights(desk, assignment(desk), fresh(desk))[1]
    again = work.train_weights(desk, assignment(desk, attempt=2), fresh(desk))[1]
    later = work.train_weights(desk, assignment(desk, 2), fresh(desk))[1]
    assert _same(first, again)
    assert not _same(first, later)


@pytest.mark.parametrize(
    ("spec", "passes"),
    [
        ({"local_epochs": 3, "batch_size": 7}, 3.0),
        ({"local_steps": 2, "batch_size": 8}, None),
    ],
)
def test_work_is_counted_in_examples(desk: Desk, spec: dict[str, Any], passes: float | None) -> None:
    """Epochs times rows, or exactly the steps that were asked for, whatever the batch size."""
    subtask = desk.subtask.model_copy(update={"train": TrainSpec(**spec)})
    busy = Desk(desk.site, desk.state, subtask)
    told, _ = work.train_weights(busy, assignment(busy), fresh(busy))
    assert told.examples_processed == (passes * told.num_examples if passes else 16)


@pytest.mark.parametrize(
    ("steps", "batch", "rows", "epochs"), [(10, 8, 40, 2), (10, 8, 41, 2), (1, 8, 100, 1)]
)
def test_steps_are_epochs_rounded_up(steps: int, batch: int, rows: int, epochs: int) -> None:
    """The budget of a baseline is at least that of the steps."""
    subtask = desks(tables(), "iris")["beta"].subtask
    spec = TrainSpec(local_steps=steps, batch_size=batch)
    assert work.epochs_per_round(subtask.model_copy(update={"train": spec}), rows) == epochs


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: {},
        lambda arrays: arrays | {"1.bias": np.zeros(9, np.float32)},
        lambda arrays: arrays | {"1.bias": np.full(CLASSES, np.nan, np.float32)},
    ],
)
def test_a_site_checks_what_the_server_sends(desk: Desk, spoil: Any) -> None:
    """Arrays of other names, shapes or values are refused before anything is loaded."""
    with pytest.raises(ArraysError):
        work.train_weights(desk, assignment(desk), spoil(fresh(desk)))
    assert desk.state.get("iris") is None


def test_without_preprocessing_there_is_no_work(desk: Desk) -> None:
    """A subtask that comes without the merged preprocessing is refused in a sentence."""
    bare = Desk(desk.site, desk.state, desk.subtask.model_copy(update={"preprocessing": None}))
    with pytest.raises(MessageError, match="without its preprocessing"):
        work.train_weights(bare, assignment(bare), {})


def test_soft_labels_are_probabilities_of_the_public_rows(soft_desk: Desk) -> None:
    """One row a public row, summing to 1, with the class counts that the summary told."""
    told, arrays = work.train_soft_labels(soft_desk, assignment(soft_desk))
    check_soft_labels(arrays["probabilities"], 40, CLASSES)
    summary = work.summarise(soft_desk, SubtaskQuery(subtask=soft_desk.subtask))
    assert told.class_counts == summary.class_counts
    assert sum(told.class_counts) == told.num_examples == summary.train


def test_a_site_digests_then_trains_on(soft_desk: Desk) -> None:
    """What it digested is where it trains on from, once; the last trained model stays its own till then."""
    work.train_soft_labels(soft_desk, assignment(soft_desk))
    trained = soft_desk.state.get("wine")
    flat_NC = np.full((40, CLASSES), 1 / CLASSES, np.float32)
    assert work.digest_soft_labels(soft_desk, "linear", 1, flat_NC) == 40
    digested = soft_desk.state.get("wine", "digested")
    assert trained is not None
    assert digested is not None
    assert _same(dict(soft_desk.state.get("wine").arrays), dict(trained.arrays))  # type: ignore[union-attr]
    assert not _same(dict(digested.arrays), dict(trained.arrays))
    work.train_soft_labels(soft_desk, assignment(soft_desk, 2))
    assert soft_desk.state.get("wine", "digested") is None


def test_another_public_set_is_refused(soft_desk: Desk) -> None:
    """Soft labels over other rows than the server's would be nonsense: the digest tells."""
    subtask = soft_desk.subtask.model_copy(update={"public_digest": "0" * 64})
    other = Desk(soft_desk.site, soft_desk.state, subtask)
    with pytest.raises(DataError, match="differs from the server's"):
        work.train_soft_labels(other, assignment(other))


def test_bad_soft_labels_are_not_digested(soft_desk: Desk) -> None:
    """A site checks soft labels as the server does, and keeps its model."""
    with pytest.raises(ArraysError, match="do not sum to 1"):
        work.digest_soft_labels(soft_desk, "linear", 1, np.zeros((40, CLASSES), np.float32))
    assert soft_desk.state.get("wine", "digested") is None


def test_finishing_never_makes_its_own_model_worse(desk: Desk) -> None:
    """Early stopped on validation from the final model on: no greater loss there, and nothing leaves."""
    final = fresh(desk)
    told, arrays = work.finish_local(desk, assignment(desk, 4), final)
    rows = desk.rows(desk.raw().validation)
    kept = desk.state.get("iris")
    assert kept is not None
    ours = mean_loss(desk.model("linear", kept.arrays), rows, desk.kind)
    assert ours <= mean_loss(desk.model("linear", final), rows, desk.kind)
    assert arrays == {}
    assert told.examples_processed == 4 * told.num_examples


@pytest.mark.parametrize("shares", [True, False])
def test_alone_a_site_gives_its_model_where_models_may_leave(shares: bool) -> None:
    """The baseline is kept apart from the site's own model, and leaves under the same rule as any model."""
    made = tables(sites=sites(beta={"egress": {"models": shares}}))
    desk = desks(made, "iris")["beta"]
    told, arrays = work.train_alone(desk, assignment(desk, 3))
    kept = desk.state.get("iris", "alone")
    assert kept is not None
    assert told.digest == digest(kept.arrays)
    assert _same(arrays, dict(kept.arrays) if shares else {})
    assert desk.state.get("iris") is None


def test_every_site_starts_alike_and_trains_on_its_own_rows() -> None:
    """Fresh models are equal at all sites; what they contribute is not."""
    places = desks(tables({"wine": WEIGHTS}), "wine")
    starts = [fresh(place) for place in places.values()]
    given = [work.train_weights(p, assignment(p), fresh(p))[1] for p in places.values()]
    assert all(_same(starts[0], start) for start in starts[1:])
    assert not any(_same(given[0], other) for other in given[1:])
    assert list(places) == list(NAMES)


def test_state_is_kept_in_flowers_records_alone() -> None:
    """Another SiteState over the same records finds the model; roles and subtasks do not mix."""
    records = RecordDict()
    SiteState(records).put("iris", "linear", {"x": np.ones(2, np.float32)}, role="alone")
    kept = SiteState(records).get("iris", "alone")
    assert kept is not None
    assert (kept.model, kept.arrays["x"].tolist()) == ("linear", [1.0, 1.0])
    assert SiteState(records).get("iris") is SiteState(records).get("wine", "alone") is None
    SiteState(records).forget("iris", "alone")
    SiteState(records).forget("iris", "alone")
    assert not records
