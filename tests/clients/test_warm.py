"""A resident process: the same bits as one that is gone after each message, and nothing loaded twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.app import app as cold_app
from clients.app import make_app
from clients.counters import process_counters
from clients.reading import ANEW
from clients.warm import Warm
from collab.collaboration import named_kind
from collab.decomposition.shared_encoder import Part, build_shared
from protocol.errors import ConfigError, DataError
from protocol.messages import Assignment, Joint, Subtask
from server.flwr_adapter import task_identity
from tests.clients.warm_cases import (
    NOTES,
    OPINIONS,
    PROTOTYPES,
    RISK,
    SCANS,
    STATED,
    Node,
    bits,
    ready,
    rounds,
    write_site,
    write_table,
)

LOADS = ("site_loads", "data_loads", "speed_measurements", "tensor_builds")


@pytest.fixture(autouse=True)
def _run() -> Iterator[None]:
    with task_identity(1):
        yield


def _loads(warm: Warm) -> dict[str, int]:
    return {name: count for name, count in asdict(warm.counters).items() if name in LOADS}


def _rows(warm: Warm, path: Path) -> torch.Tensor:
    site = warm.site({"site": str(path)}, {}, Path())
    rows = site.custody.rows(RISK)
    return site.keeper.derived(rows.train, "x", lambda: torch.as_tensor(rows.train.numeric_NP.copy()))


@pytest.mark.parametrize(
    "subtask", [RISK, NOTES, SCANS, PROTOTYPES, OPINIONS], ids=["table", "text", "image", "means", "opinions"]
)
def test_the_bits_are_those_of_the_cold_path(subtask: Subtask, tmp_path: Path) -> None:
    """Every answer of every round, and what the site keeps, is the same to the last bit."""
    path = write_site(tmp_path, limits=STATED)
    subtask = ready(subtask, path)
    cold, warm = Node(cold_app, path), Node(make_app(Warm()), path)
    answers = list(rounds(cold, subtask))
    assert answers == list(rounds(warm, subtask))
    assert not any("Refusal" in str(answer) for answer in answers)
    assert cold.context.state == warm.context.state


def test_a_group_has_the_bits_of_the_cold_path(tmp_path: Path) -> None:
    """Two subtasks on one file share their rows' tensor, whether it was made now or before."""
    path = write_site(tmp_path, limits=STATED)
    outcome, sex = (
        ready(RISK.model_copy(update={"name": name, "data": name, "labels": labels, "family": "f"}), path)
        for name, labels in (("outcome", ("no", "yes")), ("sex", ("f", "m")))
    )
    parts = [Part(one.name, named_kind(one.kind), one.outputs, 1.0) for one in (outcome, sex)]
    arrays = dict(build_shared("mlp_small", (1,), parts, outcome.seed).shared_arrays())
    group = Joint(subtasks=(outcome, sex), importances=(1.0, 1.0), every=2)
    asked = Assignment(run="r", round=1, subtask=outcome, site="north", model="mlp_small", joint=group)
    memory, shares = Warm(), list[float]()
    cold, warm = Node(cold_app, path), Node(make_app(memory, shares.append), path)
    for every in (2, None, 2):
        alike = group.model_copy(update={"every": every})
        asked = asked.model_copy(update={"joint": alike})
        shares.clear()
        answer = bits(cold.ask("train.joint", asked, arrays))
        assert answer == bits(warm.ask("train.joint", asked, arrays))
        assert "Refusal" not in str(answer)
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
    assert cold.context.state == warm.context.state
    assert (memory.counters.data_loads, memory.counters.tensor_builds) == (2, 2)


@pytest.mark.parametrize("subtask", [RISK, OPINIONS], ids=["weights", "opinions"])
def test_later_rounds_load_nothing(subtask: Subtask, tmp_path: Path) -> None:
    """The first round loads the site, its rows and its tensors; the others find all of it."""
    path, warm = write_site(tmp_path), Warm()
    subtask = ready(subtask, path)
    node = Node(make_app(warm), path)
    list(rounds(node, subtask, count=1))
    once = _loads(warm)
    assert once["site_loads"] == once["speed_measurements"] == 1
    assert once["data_loads"] == (2 if subtask.exchange == "soft_labels" else 1)
    hits = warm.counters.hits
    for _ in range(3):
        list(rounds(node, subtask, count=2))
    assert _loads(warm) == once
    assert warm.counters.hits > hits
    assert warm.used > 0


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    """Other rows, and as the cold path would answer them; what was made of the old ones is gone."""
    path, warm = write_site(tmp_path), Warm()
    subtask = ready(RISK, path)
    before = list(rounds(Node(make_app(warm), path), subtask, count=1))
    used = warm.used
    write_table(tmp_path / "rows.csv", seed=8)
    after = list(rounds(Node(make_app(warm), path), subtask, count=1))
    assert warm.counters.data_loads == 2
    assert warm.used == pytest.approx(used, rel=0.05)
    assert after != before
    assert after == list(rounds(Node(make_app(Warm()), path), subtask, count=1))


def test_an_old_date_put_back_hides_no_change(tmp_path: Path) -> None:
    """Same path, size and date, other cells: the file's inode says that it was written."""
    path, warm, rows = write_site(tmp_path), Warm(), tmp_path / "rows.csv"
    first, date = _rows(warm, path), rows.stat().st_mtime_ns
    text = rows.read_text(encoding="utf-8")
    rows.write_text(text[: text.rindex(",")].replace("5", "6") + text[text.rindex(",") :], encoding="utf-8")
    os.utime(rows, ns=(date, date))
    assert not torch.equal(_rows(warm, path).nan_to_num(), first.nan_to_num())
    assert warm.counters.data_loads == 2


def test_a_changed_image_is_seen(tmp_path: Path) -> None:
    """Of a folder all files count, also one that is new."""
    path, warm = write_site(tmp_path), Warm()
    site = warm.site({"site": str(path)}, {}, Path())
    assert site.custody.rows(SCANS) is site.custody.rows(SCANS)
    (tmp_path / "scans" / "no" / "0.png").rename(tmp_path / "scans" / "yes" / "0.png")
    rows = site.custody.rows(SCANS)
    assert sum(int((part.y == 1).sum()) for part in (rows.train, rows.validation, rows.test)) == 21
    assert warm.counters.data_loads == 2


def test_a_changed_site_file_is_read_again(tmp_path: Path) -> None:
    """Its rules hold from the next message on; its speed and its rows are as they were."""
    path, warm = write_site(tmp_path), Warm()
    _rows(warm, path)
    speed = warm.site({"site": str(path)}, {}, Path()).capability.examples_per_s
    path.write_text(path.read_text(encoding="utf-8") + "\n[egress]\nmodels = true\n", encoding="utf-8")
    site = warm.site({"site": str(path)}, {}, Path())
    assert site.egress.models
    assert site.capability.examples_per_s == speed
    _rows(warm, path)
    assert _loads(warm) == {"site_loads": 2, "data_loads": 1, "speed_measurements": 1, "tensor_builds": 1}


def test_a_file_that_is_gone_is_said_each_time(tmp_path: Path) -> None:
    """What is kept does not hide that a file is not there any more; the message is the cold path's."""
    path, warm = write_site(tmp_path), Warm()
    _rows(warm, path)
    (tmp_path / "rows.csv").unlink()
    for _ in range(2):
        with pytest.raises(DataError, match=r"rows\.csv' is missing"):
            _rows(warm, path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"site\.toml: cannot be read"):
        _rows(warm, path)


def test_what_differs_in_a_subtask_is_kept_apart(tmp_path: Path) -> None:
    """Seed, data name, labels and family are what rows depend on; a name of the run's is not."""
    path, warm = write_site(tmp_path), Warm()
    custody = warm.site({"site": str(path)}, {}, Path()).custody
    plain = custody.rows(RISK)
    for fields in ({"seed": 4}, {"data": "other"}, {"labels": ("yes", "no")}, {"family": "f"}):
        changed = RISK.model_copy(update=fields)
        cold = replace(custody, keeper=ANEW).rows(changed)  # type: ignore[type-var]
        assert custody.rows(changed) is not plain
        for side in ("train", "validation", "test"):
            np.testing.assert_array_equal(getattr(custody.rows(changed), side).y, getattr(cold, side).y)
    assert custody.rows(RISK.model_copy(update={"metric": "accuracy"})) is plain


def test_nobody_writes_in_what_is_kept(tmp_path: Path) -> None:
    """Arrays are read-only; a tensor in which somebody wrote is made anew."""
    path, warm = write_site(tmp_path), Warm()
    rows = warm.site({"site": str(path)}, {}, Path()).custody.rows(RISK)
    with pytest.raises(ValueError, match="read-only"):
        rows.train.numeric_NP[0, 0] = 1.0
    first = _rows(warm, path)
    whole = first.clone()
    first[:2].zero_()  # a view's write is its whole's
    assert torch.equal(_rows(warm, path).nan_to_num(), whole.nan_to_num())
    assert warm.counters.tensor_builds == 2


def test_a_bound_is_kept(tmp_path: Path) -> None:
    """Nothing fits in no memory, and the bits are the same; what is bounded never holds more."""
    path = write_site(tmp_path, limits=STATED)
    subtask = ready(RISK, path)
    expected = list(rounds(Node(cold_app, path), subtask, count=1))
    for bound in (0, 4000, 10**9):
        warm = Warm(max_bytes=bound)
        assert list(rounds(Node(make_app(warm), path), subtask, count=1)) == expected
        assert warm.used <= bound
    warm.clear()
    assert warm.used == 0


def test_a_simulated_site_goes_by_the_cold_path() -> None:
    """Without a site.toml the node is one of a scenario's, or refused as ever."""
    with pytest.raises(ConfigError, match="site"):
        Warm().site({}, {}, Path())


def test_the_process_says_what_it_has_loaded() -> None:
    """In a test torch is there; CUDA is only said to be, if it is."""
    found = process_counters()
    assert found.torch_imported
    assert found.cuda_initialised == torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
