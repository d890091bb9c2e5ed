"""What a collaboration is compared with: the same rows, the same budget, and fair where it is trivial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from numpy.typing import NDArray
from safetensors.numpy import load_file

from clients.custody import ScenarioCustody
from clients.site import from_scenario
from clients.state import SiteState
from clients.work import Desk
from collab.collaboration import Collaboration
from collab.data.examples import Examples
from collab.data.preprocess import Preprocessing, measure
from collab.models.contract import to_arrays
from collab.rng import generator
from collab.scenario import public_set
from collab.training import train, train_early_stopped
from protocol.messages import Subtask
from server.description import describe
from simulations import baselines
from simulations.simulate import Order, simulate
from tests.clients.desk_cases import desks
from tests.small import NAMES, SOFT_LABELS, WEIGHTS, run, scenario, sites, tables

BOTH = {"iris": WEIGHTS, "wine": SOFT_LABELS}


def _rows(collaboration: Collaboration, name: str, side: str) -> NDArray[np.float64]:
    """Return the rows of one side of all sites, sorted, so that two sets of rows can be compared."""
    parts = [_side(collaboration, site, name, side).numeric_NP for site in collaboration.sites_of(name)]
    stacked = np.concatenate(parts)
    return stacked[np.lexsort(stacked.T)]


def _side(collaboration: Collaboration, site: str, name: str, side: str) -> Examples:
    rows = ScenarioCustody(collaboration, site).rows(_bare(collaboration, name))
    found: Examples = getattr(rows, side)
    return found


def _bare(collaboration: Collaboration, name: str) -> Subtask:
    return describe(collaboration, name)


def _seen_by_pooled(monkeypatch: pytest.MonkeyPatch, collaboration: Collaboration) -> dict[str, Any]:
    """Run the pooled baseline of ``wine`` and return the rows that it trained and stopped on."""
    seen: dict[str, Any] = {}
    original = train_early_stopped

    def spy(model: Any, rows: Any, validation: Any, *args: Any, **kwargs: Any) -> Any:
        seen.update(train=rows.x.numpy(), validation=validation.x.numpy(), epochs=kwargs["epochs"])
        return original(model, rows, validation, *args, **kwargs)

    monkeypatch.setattr("simulations.baselines.train_early_stopped", spy)
    baselines.pooled(collaboration, "wine")
    return seen


def test_pooled_sees_the_sites_rows_and_no_public_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains on just the sites' train rows, stops on their validation rows; no public row among them."""
    collaboration = scenario(tables(BOTH, rounds=2))
    seen = _seen_by_pooled(monkeypatch, collaboration)
    preprocessing = desks(tables(BOTH), "wine")["alpha"].preprocessing
    for side in ("train", "validation"):
        parts = [_side(collaboration, site, "wine", side) for site in NAMES]
        expected = np.concatenate([preprocessing.transform(part) for part in parts])
        np.testing.assert_array_equal(seen[side], expected)
    public = {tuple(row) for row in preprocessing.transform(public_set(collaboration, "wine")).tolist()}
    assert len(public) > 30
    assert not public & {tuple(row) for side in ("train", "validation") for row in seen[side].tolist()}


def test_pooled_has_the_budget_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds times local epochs, as every site alone has."""
    assert _seen_by_pooled(monkeypatch, scenario(tables(BOTH, rounds=3)))["epochs"] == 3 * 4


def test_plain_fedavg_is_everybody_with_the_smallest_model(tmp_path: Path) -> None:
    """Weights among all, the smallest model of each list, not a row more or less than the collaboration's."""
    models = [{"name": "mlp_medium", "memory_mib": 64}, {"name": "linear", "memory_mib": 32}, "mlp_small"]
    subtasks = {"iris": WEIGHTS, "wine": {**SOFT_LABELS, "models": models, "target": 0.1}}
    ours = scenario(tables(subtasks, sites=sites(beta={"subtasks": ["wine"]})))
    plain = baselines.smallest_common(ours)
    assert {terms.exchange for terms in plain.subtasks.values()} == {"weights"}
    assert plain.allocation.policy.rule == "everyone"
    assert plain.subtasks["wine"].target is None
    chosen = plain.subtasks["wine"].models
    assert chosen is not None
    assert [m.name for m in chosen] == ["mlp_small"]  # about 17 MiB by the estimate
    for name in subtasks:
        assert plain.sites_of(name) == ours.sites_of(name)
        for side in ("train", "validation", "test"):
            np.testing.assert_array_equal(_rows(plain, name, side), _rows(ours, name, side))


def test_all_baselines_stand_in_the_summary(tmp_path: Path) -> None:
    """Pooled and plain FedAvg come with global and own, and own for each site beside its alone."""
    collaboration = scenario(tables(BOTH))
    summary = simulate(collaboration, Order("r", tmp_path), lambda _: None)
    for entry in summary["subtasks"].values():
        for key in ("pooled", "fedavg_smallest", "local_mean"):
            assert all(np.isfinite(entry["baselines"][key][where]) for where in ("global", "own"))
        for gain in entry["gains"].values():
            assert {"own", "alone", "pooled", "fedavg_smallest"} <= gain.keys()
    pooled = baselines.pooled(collaboration, "iris")
    assert summary["subtasks"]["iris"]["baselines"]["pooled"] == pooled.measured
    assert pooled.measured["own"] == pytest.approx(np.mean(list(pooled.own.values())))


def test_plain_fedavg_compared_with_itself_is_the_same(tmp_path: Path) -> None:
    """Where the collaboration is plain FedAvg, the baseline of that name has its very numbers."""
    made = tables(rounds=2, fusion={"rule": "own_pool"})
    entry = simulate(scenario(made), Order("r", tmp_path), lambda _: None)["subtasks"]["iris"]
    assert entry["baselines"]["fedavg_smallest"] == pytest.approx(entry["collaboration"], rel=1e-12)


def test_one_site_among_itself_trains_as_alone(tmp_path: Path) -> None:
    """K = 1: FedAvg of one site is bit for bit that site's local training, round after round."""
    made = tables(rounds=3, sites={"alpha": {"device": "cpu"}})
    found = run(made, tmp_path)
    collaboration = scenario(made)
    place = from_scenario(collaboration, "alpha")
    raw = place.custody.rows(_bare(collaboration, "iris"))
    fitted = Preprocessing.fit(measure(raw.train)).model_dump_json()
    subtask = _bare(collaboration, "iris").model_copy(update={"preprocessing": fitted})
    desk = Desk(place, SiteState(RecordDict()), subtask)
    module = desk.fresh("linear")
    for number in (1, 2, 3):
        rng = generator(collaboration.seed, number, "iris", "alpha", "batches")
        train(module, desk.rows(raw.train), desk.kind, subtask.train, rng)
    final = load_file(found.folder / "models" / "iris" / "final.safetensors")
    assert final.keys() == to_arrays(module).keys()
    for name, array in to_arrays(module).items():
        np.testing.assert_array_equal(final[name], array)


def test_identical_sites_get_identical_weights(tmp_path: Path) -> None:
    """Sites with the same rows and one batch a round have one model; the fusion cannot tell them apart."""
    sides = ("train", "train", "validation")
    lines = "\n".join(f"{i},{i**2 % 11},{('no', 'yes')[i % 2]},{sides[i // 2 % 3]}" for i in range(30))
    files = {}
    for name in NAMES:
        (tmp_path / f"{name}.csv").write_text(f"a,b,y,side\n{lines}\n", encoding="utf-8")
        files[name] = str(tmp_path / f"{name}.csv")
    whole = {**WEIGHTS, "train": {"lr": 0.1, "batch_size": 1000}}
    made = tables({"rows": whole}, rounds=2)
    split = {"column": "side"}
    made["data"] = {"rows": {"format": "csv", "files": files, "target": "y", "split": split}}
    made["partition"] = {"default": {"kind": "files"}}
    found = run(made, tmp_path)
    # Temperatures are found to 1e-8, and a ridge of 1e-3 makes weights a thousand times as sensitive.
    assert found.summary["subtasks"]["rows"]["fusion"]["weights"] == pytest.approx(
        dict.fromkeys(("final", *NAMES), 0.25), rel=1e-5
    )
    folder = found.folder / "models" / "rows"
    alpha, beta = (load_file(folder / f"{name}.safetensors") for name in ("alpha", "beta"))
    for name, array in alpha.items():
        np.testing.assert_allclose(array, beta[name], rtol=1e-5, atol=1e-6)
