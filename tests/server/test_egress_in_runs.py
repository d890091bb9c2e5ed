"""What leaves a site in a whole run: all replies are read, and hold no row and no model that may not go."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from numpy.typing import NDArray

from clients.custody import ScenarioCustody
from collab.data.preprocess import Preprocessing
from protocol.errors import ConfigError
from protocol.messages import Assignment, Capability, Contribution, DataSummary, Subtask
from protocol.records import ARRAYS, unpack, unpack_arrays
from tests.small import NAMES, SOFT_LABELS, WEIGHTS, Small, Tables, run, scenario, sites, tables

BOTH = {"iris": WEIGHTS, "wine": SOFT_LABELS}
KEEPS = {"egress": {"models": False}}


def _replies(found: Small, site: str) -> Iterator[tuple[str, Message]]:
    """Yield (message type, answer) of everything that a site let out."""
    node = NAMES.index(site) + 1
    for asked, reply in found.grid.passed:
        if asked.metadata.dst_node_id == node and reply.has_content():
            yield asked.metadata.message_type, reply


def _arrays(reply: Message) -> Mapping[str, NDArray[Any]]:
    return unpack_arrays(reply.content.get(ARRAYS))


def test_no_row_leaves_a_site(tmp_path: Path) -> None:
    """No array that leaves holds two neighbouring cells of a private row, raw or preprocessed."""
    made = tables(BOTH, sites=sites(beta=KEEPS))
    found, collaboration = run(made, tmp_path, baselines=True), scenario(made)
    for site in NAMES:
        arrays = [a for _, reply in _replies(found, site) for a in _arrays(reply).values()]
        assert len(arrays) > 50
        for name in BOTH:
            subtask = _subtask(found, name)
            raw = ScenarioCustody(collaboration, site).rows(subtask)
            preprocessing = Preprocessing.model_validate_json(str(subtask.preprocessing))
            for side in (raw.train, raw.validation, raw.test):
                for private_NF in (side.numeric_NP, preprocessing.transform(side)):
                    assert not any(_holds(array, private_NF) for array in arrays)


def _holds(array: NDArray[Any], rows_NF: NDArray[np.floating]) -> bool:
    """Return whether the first two numbers of any one row stand side by side in the array."""
    flat = np.asarray(array, dtype=np.float64).reshape(-1)
    wanted = np.asarray(rows_NF, dtype=np.float64)[:, :2]
    telling = (np.abs(wanted) > 1e-3).all(axis=1)  # zeros stand side by side anywhere
    return bool(set(map(tuple, wanted[telling].tolist())) & set(itertools.pairwise(flat.tolist())))


def test_that_a_row_would_have_been_seen() -> None:
    """The check above finds a row where there is one."""
    rows_NP = np.random.default_rng(0).normal(size=(20, 4))
    assert _holds(np.concatenate([np.zeros(7), rows_NP[3], np.zeros(2)]), rows_NP)
    assert not _holds(np.random.default_rng(1).normal(size=500), rows_NP)


def _subtask(found: Small, name: str) -> Subtask:
    """Return the subtask as its sites saw it, with the preprocessing."""
    asked = [asked for asked, _ in found.grid.passed if asked.metadata.message_type.startswith("train.")]
    subtasks = (unpack(message.content, Assignment)[0].subtask for message in asked)
    return next(subtask for subtask in subtasks if subtask.name == name)


def _summaries(found: Small, site: str) -> dict[str, DataSummary]:
    opened = [
        unpack(r.content, DataSummary)[0] for kind, r in _replies(found, site) if kind == "query.summary"
    ]
    return {summary.subtask: summary for summary in opened}


def test_a_model_that_is_kept_leaves_in_contributions_alone(tmp_path: Path) -> None:
    """With models = false a site hands over what an assignment asks for, and no model beside that."""
    found = run(tables(BOTH, rounds=2, sites=sites(beta=KEEPS)), tmp_path, baselines=True)
    for kind, reply in _replies(found, "beta"):
        arrays = _arrays(reply)
        if kind == "train.weights":
            assert set(arrays) == {"1.weight", "1.bias"}
        elif kind == "train.soft_labels":
            assert set(arrays) == {"probabilities"}
        else:
            assert not any(name.split("/")[-1] in {"1.weight", "1.bias", "mixing"} for name in arrays), kind
    assert not any(path.endswith("beta.safetensors") for path in found.models())
    assert all(found.summary["subtasks"][n]["fusion"]["rule"] == "own_pool" for n in BOTH)
    assert not found.grid.answers("query.local_model")


@pytest.mark.parametrize("rule", ["least_squares", "mean"])
def test_a_rule_that_needs_models_is_refused_where_one_is_kept(rule: str, tmp_path: Path) -> None:
    """A named rule that needs shared models is refused before the first round, naming who keeps theirs."""
    made = tables(sites=sites(beta=KEEPS), fusion={"rule": rule})
    with pytest.raises(
        ConfigError, match=rf"fusion '{rule}' of subtask 'iris' .* keep theirs: beta; use rule"
    ):
        run(made, tmp_path)


def test_where_all_share_the_rule_is_least_squares(tmp_path: Path) -> None:
    """Unnamed, the rule is the best that the sites allow; every shared model is a candidate."""
    entry = run(tables(), tmp_path).summary["subtasks"]["iris"]["fusion"]
    assert entry["rule"] == "least_squares"
    assert set(entry["weights"]) == {"final", *NAMES}


def _counts(folder: Path, histogram: str, subtasks: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    made = tables(subtasks, sites=sites(beta={"egress": {"label_histogram": histogram}}))
    found = run(made, folder / histogram)
    told = _summaries(found, "beta")
    given = [
        unpack(reply.content, Contribution)[0]
        for kind, reply in _replies(found, "beta")
        if kind == "train.soft_labels"
    ]
    assert all(c.class_counts == told[c.subtask].class_counts for c in given)
    return {name: summary.class_counts for name, summary in told.items()}


def test_the_server_sees_the_histogram_that_the_rules_allow(tmp_path: Path) -> None:
    """A mask holds zeros and ones, a rounded histogram tens from above, and the others' stay exact."""
    exact = _counts(tmp_path, "exact", BOTH)
    rounded, mask = _counts(tmp_path, "rounded", BOTH), _counts(tmp_path, "mask", BOTH)
    for name in BOTH:
        assert sum(exact[name]) > 0
        assert rounded[name] == tuple(10.0 * np.ceil(n / 10) for n in exact[name])
        assert mask[name] == tuple(float(n > 0) for n in exact[name])


class _Cells:
    """The text of all private cells, as a log or a repr would write them."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(9)
        self.table_NP = np.round(rng.uniform(1e5, 9e5, size=(90, 3)), 3)
        text = "\n".join(
            f"{a:.3f},{b:.3f},{c:.3f},{('no', 'yes')[i % 2]}" for i, (a, b, c) in enumerate(self.table_NP)
        )
        self.path = folder / "rows.csv"
        self.path.write_text(f"a,b,c,y\n{text}\n", encoding="utf-8")

    def found_in(self, text: str) -> list[str]:
        """Return the cells that stand in the text."""
        return [cell for cell in (f"{v:.3f}".rstrip("0") for v in self.table_NP.reshape(-1)) if cell in text]


def _on_cells(cells: _Cells) -> Tables:
    made = tables({"rows": {**WEIGHTS, "labels": ["no", "yes"]}})
    made["data"]["rows"] = {"format": "csv", "path": str(cells.path), "target": "y"}
    return made


def test_no_cell_stands_in_what_a_run_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither log, summary, notes, models' cards nor anything printed holds a cell of a private table."""
    cells = _Cells(tmp_path)
    with caplog.at_level(logging.DEBUG):
        found = run(_on_cells(cells), tmp_path, baselines=True)
    told = capfd.readouterr()
    assert cells.found_in(found.everything() + caplog.text + told.out + told.err) == []
    assert cells.found_in(cells.path.read_text(encoding="utf-8"))


def test_no_repr_shows_a_cell(tmp_path: Path) -> None:
    """Rows, splits, sites and replies have a repr of shapes alone."""
    cells = _Cells(tmp_path)
    made = _on_cells(cells)
    found = run(made, tmp_path)
    subtask = _subtask(found, "rows")
    rows = ScenarioCustody(scenario(made), "alpha").rows(subtask)
    capability = unpack(found.grid.answers("query.capability")[0].content, Capability)[0]
    shown = [repr(rows), str(rows), repr(rows.train), repr(capability), repr(list(_replies(found, "alpha")))]
    assert cells.found_in("".join(shown)) == []
