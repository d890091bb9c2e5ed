"""A group at a site: one encoder, the heads that it has, sums of affinities, and no row on two sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from clients.custody import DeploymentCustody
from clients.joint import AFFINITY, refuse_leaks, train_joint
from clients.site import Site, from_scenario
from clients.state import SiteState
from clients.work import Desk
from collab.data.config import DataConfig
from collab.decomposition import affinity
from collab.decomposition.shared_encoder import Part, build_shared, joint_kind, joint_rows
from collab.models.contract import to_arrays
from collab.training import Rows, train_counted
from protocol.errors import ArraysError, ConfigError, DataError, MessageError
from protocol.messages import Assignment, Joint
from server.description import describe
from tests.clients.desk_cases import assignment, desks, same
from tests.family_cases import SUBTASKS, block, family
from tests.small import NAMES, Named, Tables, scenario


def places(made: Tables, site: str = "alpha") -> dict[str, Desk]:
    """Return the site's desks of all subtasks of the family that it has, on one memory."""
    collaboration = scenario(made)
    shared = desks(family(Path(made["data"]["edges"]["path"]).parent), "edges")["alpha"].preprocessing
    place, state = from_scenario(collaboration, site), SiteState(RecordDict())
    return {
        name: Desk(
            place,
            state,
            describe(collaboration, name).model_copy(update={"preprocessing": shared.model_dump_json()}),
        )
        for name in SUBTASKS
        if site in collaboration.sites_of(name)
    }


def start(group: Sequence[Desk]) -> Named:
    """Return the arrays of a shared encoder of these subtasks."""
    parts = [Part(d.subtask.name, d.kind, d.subtask.outputs) for d in group]
    return build_shared("mlp_small", group[0].preprocessing.input_shape, parts, 5).shared_arrays()


def asked(
    group: Sequence[Desk], leader: Desk | None = None, every: int | None = 2, **fields: Any
) -> Assignment:
    """Return an assignment of these subtasks together."""
    joint = Joint(
        subtasks=tuple(d.subtask.model_copy(update={"preprocessing": None}) for d in group),
        importances=tuple(1.0 for _ in group),
        every=every,
        **fields,
    )
    return assignment(leader or group[0], model="mlp_small", joint=joint)


def test_it_trains_the_rows_of_all_as_one(tmp_path: Path) -> None:
    """Subtasks on the same rows share them; what comes back is what joint training of these rows gives."""
    group = list(places(family(tmp_path)).values())
    arrays = start(group)
    said, given = train_joint(group[0], asked(group, every=None), arrays)
    rows = group[0].rows(group[0].raw().train)
    assert said.num_examples == said.examples_processed == len(rows)
    parts = [Part(d.subtask.name, d.kind, d.subtask.outputs) for d in group]
    model = build_shared("mlp_small", group[0].preprocessing.input_shape, parts, 0)
    model.load_shared(arrays)
    targets = {d.subtask.name: Rows(rows.x, d.rows(d.raw().train).y) for d in group}
    from clients.work import batches_of

    rng = batches_of(group[0], asked(group))
    train_counted(model, joint_rows(parts, targets), joint_kind(parts), group[0].subtask.train, rng)
    assert same(given, model.shared_arrays())
    kept = group[0].state.get("coin")
    assert kept is not None
    assert same(kept.arrays, model.plain_arrays("coin"))
    assert same(kept.arrays, {n: kept.arrays[n] for n in to_arrays(group[0].fresh("mlp_small"))})


def test_a_site_without_the_leader_trains_what_it_has(tmp_path: Path) -> None:
    """Its affinities are of its own pairs alone; the contribution is under the leader's name."""
    made = family(tmp_path)
    group, leader = list(places(made, "beta").values()), places(made)["shape"]
    leader = replace(leader, site=group[0].site, state=group[0].state)
    said, given = train_joint(leader, asked(group, leader), start(group))
    assert said.subtask == "shape"
    assert {n.split("/")[1] for n in given if n.startswith("head/")} == {"edges", "coin"}
    sums = {n.removeprefix(AFFINITY): a for n, a in given.items() if n.startswith(AFFINITY)}
    affinity.check_sums(sums, 2)
    assert sums["rows"].min() > 0
    assert said.looked > 0
    assert said.examples_processed == said.num_examples + said.looked


def test_measuring_changes_no_parameter(tmp_path: Path) -> None:
    """A run that measures has the arrays of one that does not; a site may keep its affinities to itself."""
    group = list(places(family(tmp_path)).values())
    _, plain = train_joint(group[0], asked(group, every=None), start(group))
    _, measured = train_joint(group[0], asked(group), start(group))
    assert same(plain, {n: a for n, a in measured.items() if not n.startswith(AFFINITY)})
    shut: Site = replace(group[0].site, egress=group[0].site.egress.model_copy(update={"affinities": False}))
    said, given = train_joint(replace(group[0], site=shut), asked(group), start(group))
    assert said.looked == 0
    assert not given[AFFINITY + "rows"].any()
    assert same(plain, {n: a for n, a in given.items() if not n.startswith(AFFINITY)})


def test_what_it_refuses(tmp_path: Path) -> None:
    """Arrays of another model, and an assignment that says nothing of a group."""
    group = list(places(family(tmp_path)).values())
    arrays = start(group)
    with pytest.raises(ArraysError):
        train_joint(group[0], asked(group), {n: a for n, a in arrays.items() if "coin" not in n})
    with pytest.raises(MessageError, match="without a group"):
        train_joint(group[0], assignment(group[0], model="mlp_small"), arrays)


def test_no_row_tests_one_and_trains_another(tmp_path: Path) -> None:
    """In a scenario a site has the same rows of all, on the same sides; a budget says how much work."""
    group = list(
        places(family(tmp_path, partition={"default": {"kind": "dirichlet", "alpha": 0.5}})).values()
    )
    raw = {d.subtask.name: d.raw() for d in group}
    refuse_leaks(raw)
    first = raw["shape"]
    for rows in raw.values():
        assert np.array_equal(rows.train.numeric_NP, first.train.numeric_NP)
        assert np.array_equal(rows.test.numeric_NP, first.test.numeric_NP)
    said, _ = train_joint(group[0], asked(group, every=None, budget=0.5), start(group))
    whole, _ = train_joint(group[0], asked(group, every=None), start(group))
    assert said.steps == round(whole.steps / 2)
    longer, _ = train_joint(group[0], asked(group, every=None, budget=3), start(group))
    assert longer.steps == 3 * whole.steps
    swapped = replace(first, train=first.test, test=first.train)
    with pytest.raises(DataError, match="'shape' trains on rows that test or validate 'edges'"):
        refuse_leaks({"shape": swapped, "edges": raw["edges"]})


def test_blocks_that_do_not_read_the_same_rows_are_refused(tmp_path: Path) -> None:
    """In a scenario and at a real site they must be alike, however the file is spelt."""
    made = family(tmp_path)
    group = list(places(made).values())
    made["data"]["coin"] = block(tmp_path / "signs.csv", "coin", features=["x0", "x1"])
    with pytest.raises(ConfigError, match=r"read the same rows: give both the same features"):
        scenario(made)
    blocks = {n: DataConfig.model_validate(made["data"][n]) for n in SUBTASKS}
    blocks["coin"] = blocks["coin"].with_paths(lambda path: f"./{Path(path).name}")
    at = replace(group[0].site, custody=DeploymentCustody(blocks, tmp_path, "north"))
    with pytest.raises(
        DataError, match=r"site 'north': .*data\.shape.*data\.coin.*give both the same features"
    ):
        train_joint(replace(group[0], site=at), asked(group), start(group))


def test_a_file_that_names_its_sites_may_have_gaps(tmp_path: Path) -> None:
    """Dealt out by a column, subtasks need not have the same rows: a row without one target has the other."""
    rng = np.random.default_rng(2)
    lines = ["site,x0,x1,shape,coin"]
    for n in range(90):
        x, y = rng.normal(size=2).round(4)
        lines.append(
            f"{('alpha', 'beta', 'gamma')[n % 3]},{x},{y},{int(x > 0)},{int(y > 0) if n % 4 else ''}"
        )
    path = tmp_path / "sited.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = family(tmp_path, signs={"subtasks": ["shape", "coin"]}, partition={"default": {"kind": "column"}})
    own = {"features": ["x0", "x1"], "site": "site", "missing_rows": "drop"}
    made["data"] = {name: block(path, name, **own) for name in ("shape", "coin")}
    made["subtasks"] = {name: made["subtasks"][name] for name in ("shape", "coin")}
    made["sites"]["beta"] = {"device": "cpu"}
    collaboration = scenario(made)
    for site in NAMES:
        custody = from_scenario(collaboration, site).custody
        raw = {name: custody.rows(describe(collaboration, name)) for name in ("shape", "coin")}
        assert len(raw["coin"].train) < len(raw["shape"].train)
        refuse_leaks(raw)


def test_a_real_site_splits_its_blocks_alike(tmp_path: Path) -> None:
    """Two blocks of one file at a deployed site, with gaps in one target, share their sides row by row."""
    group = places(family(tmp_path))
    text = (tmp_path / "signs.csv").read_text(encoding="utf-8").splitlines()
    cut = [line.rsplit(",", 1)[0] + "," if n % 7 == 3 else line for n, line in enumerate(text)]
    (tmp_path / "signs.csv").write_text("\n".join(cut) + "\n", encoding="utf-8")
    drop = {"missing_rows": "drop"}
    blocks = {
        n: DataConfig.model_validate(block(tmp_path / "signs.csv", n, **drop)) for n in ("shape", "coin")
    }
    custody = DeploymentCustody(blocks, tmp_path, "north")
    raw = {name: custody.rows(group[name].subtask) for name in blocks}
    assert len(raw["coin"].train) < len(raw["shape"].train)
    refuse_leaks(raw)
