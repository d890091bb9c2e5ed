"""A site and a subtask that comes after another: upstream models come once, are checked, kept and used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from clients.custody import DeploymentCustody
from clients.measure import evaluate, fuse
from clients.state import SiteState
from clients.warm import Warm
from clients.weights import train_weights
from clients.work import UPSTREAM, Desk, finish_local, train_alone
from collab import metrics
from collab.data.config import DataConfig
from collab.models.contract import to_arrays
from collab.sparse import expand
from protocol.arrays import digest
from protocol.errors import ArraysError, DataError, MessageError, UpstreamError
from protocol.fusing import FINAL, Candidate, FusionRequest
from protocol.parts import SettledModel
from tests.chain_cases import two
from tests.clients.desk_cases import RUN, assignment, desks, fresh, kept, request, told
from tests.small import Named


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the rows."""
    return tmp_path_factory.mktemp("chain")


@pytest.fixture
def upstream(folder: Path) -> tuple[SettledModel, Named]:
    """The settled model of ``side``, trained for a while at one site."""
    desk = desks(two(folder), "side")["alpha"]
    model = "mlp_small"
    train_alone(desk, assignment(desk, 0, budget=4, model=model))
    arrays = kept(desk, "alone")
    preprocessing = str(desk.subtask.preprocessing)
    return SettledModel(model=model, digest=digest(arrays), preprocessing=preprocessing), arrays


@pytest.fixture
def desk(folder: Path, upstream: tuple[SettledModel, Named]) -> Desk:
    """The desk of ``verdict`` at one site, told of the settled model and without its arrays."""
    found = desks(two(folder), "verdict")["beta"]
    (one,) = found.subtask.upstream
    return told(found, upstream=(one.model_copy(update={"settled": upstream[0]}),))


def _sent(arrays: Named, name: str = "side") -> Named:
    return {f"{name}/{key}": array for key, array in arrays.items()}


def _asked(desk: Desk, model: str) -> FusionRequest:
    return FusionRequest(
        run=RUN,
        subtask=desk.subtask,
        site=desk.site.name,
        rule="own_pool",
        rows="test",
        candidates=(Candidate(name=FINAL, model=model),),
    )


def test_a_site_without_the_models_asks_for_them(desk: Desk) -> None:
    """It neither trains nor measures on other inputs, and says what to send."""
    with pytest.raises(UpstreamError, match="subtask 'verdict': no final model of side here: send it along"):
        train_weights(desk, assignment(desk), fresh(desk))
    with pytest.raises(UpstreamError, match="send it along"):
        evaluate(desk, request(desk), fresh(desk))


def test_models_that_came_are_kept_and_used(desk: Desk, upstream: tuple[SettledModel, Named]) -> None:
    """Once is enough: what follows needs no arrays of upstream, and its inputs are wider by its outputs."""
    desk.keep_upstream(_sent(upstream[1]))
    desk.keep_upstream({})
    own = desk.preprocessing.input_shape[0]
    rows = desk.rows(desk.raw().train)
    assert rows.x.shape[1] == own + 2
    np.testing.assert_allclose(rows.x[:, own:].sum(dim=1).cpu(), 1, rtol=1e-5)
    said, given = train_weights(desk, assignment(desk), fresh(desk))
    assert said.num_examples == len(rows)
    assert given["1.weight"].shape == (2, own + 2)


def test_rows_that_are_kept_go_by_the_settled_models(
    desk: Desk, upstream: tuple[SettledModel, Named]
) -> None:
    """Tensors from the last round are those of the cold path, and never of a model that is not here."""
    warm = replace(desk, site=replace(desk.site, keeper=Warm(max_bytes=10**8)))
    examples = desk.raw().train
    warm.keep_upstream(_sent(upstream[1]))
    x = warm.rows(examples).x
    assert torch.equal(x, desk.rows(examples).x)
    assert warm.rows(examples).x is x
    one = desk.subtask.upstream[0]
    cooler = one.model_copy(update={"settled": upstream[0].model_copy(update={"temperature": 2.0})})
    other = told(warm, upstream=(cooler,)).rows(examples).x
    assert not torch.equal(other, x)
    assert torch.equal(other, told(desk, upstream=(cooler,)).rows(examples).x)
    warm.state.forget(one.name, UPSTREAM)
    with pytest.raises(UpstreamError, match="send it along"):
        warm.rows(examples)


def test_every_use_of_the_rows_sees_the_same_inputs(
    desk: Desk, upstream: tuple[SettledModel, Named], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, evaluation, the finish, the baseline alone and the end all go by the one function."""
    desk.keep_upstream(_sent(upstream[1]))
    widths: list[int] = []
    plain = Desk.inputs
    monkeypatch.setattr(Desk, "inputs", lambda d, e: widths.append(plain(d, e).shape[1]) or plain(d, e))
    train_weights(desk, assignment(desk), fresh(desk))
    evaluate(desk, request(desk), fresh(desk))
    finish_local(desk, assignment(desk, 0, budget=1), fresh(desk))
    train_alone(desk, assignment(desk, 0, budget=1))
    assert set(widths) == {desk.preprocessing.input_shape[0] + 2}
    assert len(widths) >= 6


def test_a_tampered_model_is_refused_and_not_kept(desk: Desk, upstream: tuple[SettledModel, Named]) -> None:
    """A changed number has another digest; a missing array, another shape or NaN is seen before that."""
    good = upstream[1]
    name = next(iter(good))
    for bad in (
        good | {name: good[name] + np.float32(1e-4)},
        good | {name: np.full_like(good[name], np.nan)},
        good | {name: good[name][:1]},
        {key: array for key, array in good.items() if key != name},
    ):
        with pytest.raises(ArraysError):
            desk.keep_upstream(_sent(bad))
    assert desk.state.get("side", UPSTREAM) is None


def test_models_of_others_are_refused(desk: Desk, upstream: tuple[SettledModel, Named]) -> None:
    """Only what the subtask comes after is taken, and nothing before it is settled."""
    with pytest.raises(MessageError, match="does not come after the models sent along"):
        desk.keep_upstream(_sent(upstream[1], "other"))
    (one,) = desk.subtask.upstream
    waiting = told(desk, upstream=(one.model_copy(update={"settled": None}),))
    with pytest.raises(UpstreamError, match="'side' is not over yet"):
        waiting.keep_upstream(_sent(upstream[1]))


def test_a_model_that_was_replaced_is_asked_for_anew(
    desk: Desk, upstream: tuple[SettledModel, Named]
) -> None:
    """What is kept counts by its digest: that of another run is none of this one's."""
    desk.keep_upstream(_sent(upstream[1]))
    (one,) = desk.subtask.upstream
    other = upstream[0].model_copy(update={"digest": "0" * 64})
    with pytest.raises(UpstreamError, match="send it along"):
        told(desk, upstream=(one.model_copy(update={"settled": other}),)).rows(desk.raw().test)


def test_a_model_that_the_memory_does_not_hold_is_said(
    desk: Desk, upstream: tuple[SettledModel, Named]
) -> None:
    """The site does not try: it refuses, and says how much the model would take."""
    desk.keep_upstream(_sent(upstream[1]))
    capability = desk.site.capability.model_copy(update={"memory_mib": 1.0})
    small = replace(desk, site=replace(desk.site, capability=capability))
    with pytest.raises(DataError, match="an upstream model takes 16 MiB"):
        small.rows(desk.raw().test)


def test_the_ablation_measures_the_same_model_on_blind_inputs(
    desk: Desk, upstream: tuple[SettledModel, Named]
) -> None:
    """A model that goes by upstream loses what upstream told it."""
    desk.keep_upstream(_sent(upstream[1]))
    train_alone(desk, assignment(desk, 0, budget=8))
    arrays = {f"0/{key}": array for key, array in kept(desk, "alone").items()}
    _, reply = fuse(desk, _asked(desk, "linear"), arrays | {"fusion/weights": np.ones(1)})
    spec = metrics.statistics_spec("classification", 2)
    losses = {}
    for group in ("final", "ablated"):
        sums = {k.removeprefix(f"{group}/"): v for k, v in reply.items() if k.startswith(f"{group}/")}
        losses[group] = metrics.summarise(expand(sums, spec))["log_loss"]
    assert losses["final"] < 0.7 * losses["ablated"]


def test_a_subtask_that_comes_first_has_no_ablation(folder: Path) -> None:
    """There is nothing to take away."""
    desk = desks(two(folder), "side")["alpha"]
    arrays = {f"0/{key}": array for key, array in to_arrays(desk.fresh("mlp_small")).items()}
    _, reply = fuse(desk, _asked(desk, "mlp_small"), arrays | {"fusion/weights": np.ones(1)})
    assert {name.partition("/")[0] for name in reply} >= {"final", "own"}
    assert not any(name.startswith("ablated") for name in reply)


def test_a_real_site_refuses_blocks_that_leak(desk: Desk, folder: Path) -> None:
    """Its own file says which rows are test rows for both subtasks, or it does not take part."""
    made = two(folder)["data"]
    blocks = {name: DataConfig.model_validate(block) for name, block in made.items()}
    at = DeploymentCustody(blocks, folder, "north")
    assert len(at.rows(desk.subtask).train)
    drawn = {key: value for key, value in made["verdict"].items() if key != "split"}
    leaking = blocks | {"verdict": DataConfig.model_validate(drawn)}
    with pytest.raises(DataError, match="'verdict' and 'side' at site 'north': rows that one trains on"):
        DeploymentCustody(leaking, folder, "north").rows(desk.subtask)
    for spelt in ("./rows.csv", f"../{folder.name}/rows.csv"):
        leaking["verdict"] = leaking["verdict"].model_copy(update={"path": spelt})
        with pytest.raises(DataError, match="'verdict' and 'side' at site 'north': rows that one trains on"):
            DeploymentCustody(leaking, folder, "north").rows(desk.subtask)


def test_another_memory_keeps_nothing(desk: Desk, upstream: tuple[SettledModel, Named]) -> None:
    """Models are kept in the site's state, not in the process."""
    desk.keep_upstream(_sent(upstream[1]))
    with pytest.raises(UpstreamError):
        replace(desk, state=SiteState(RecordDict())).rows(desk.raw().test)
