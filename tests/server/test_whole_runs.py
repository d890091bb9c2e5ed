"""A task taken apart by its labels, run whole: views without leaks, one measurement, one prediction."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from rich.console import Console

from clients.app import app as client_app
from clients.custody import DeploymentCustody, ScenarioCustody
from clients.site import from_scenario
from clients.state import SiteState
from clients.whole import evaluate_whole
from collab.data.config import DataConfig
from collab.data.examples import Examples
from collab.data.ngrams import count
from collab.data.preprocess import Preprocessing, measure
from collab.decomposition.view import classes_of
from collab.settings import parse, parse_toml
from protocol.errors import DataError, MessageError
from protocol.fusing import WholeRequest
from protocol.messages import Capability, DataSummary, Evaluation
from protocol.records import pack, unpack
from server.console import result_table
from server.description import describe
from server.federation import COLLABORATION, with_sets
from server.predict import predict
from server.preparation import Prepared
from server.report import render
from server.runlog import replay
from tests.small import Small, run, scenario, tables

GROUPS = {"weather": ["rain", "wind"], "clock": ["alarm", "timer"], "chat": ["hello", "bye"]}
SINGLE = GROUPS | {"chat": ["hello"]}
WORDS = {"rain": "wet drops", "wind": "blow gale", "alarm": "wake bell", "timer": "count minutes"}
WORDS |= {"hello": "meet hi", "bye": "leave late", "oos": "odd strange"}
OWNERS = {"weather": "alpha", "clock": "beta", "chat": "gamma"}
EXPERT: Mapping[str, Any] = {
    "kind": "text_classification",
    "models": ["linear"],
    "train": {"optimizer": "adam", "lr": 0.1, "batch_size": 8, "local_epochs": 6},
}
Tables = dict[str, Any]


def sentence(label: str, rng: np.random.Generator) -> str:
    """Return some words that tell the label, and some that do not."""
    noise = rng.choice(["please", "now", "today", "the", "my", "again", "kindly"], size=3).tolist()
    telling = rng.permutation(WORDS[label].split()).tolist()
    return " ".join([*telling, *noise])


def write(path: Path, labels: list[str], each: int = 30) -> Path:
    """Write ``each`` sentences of every label."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([sentence(label, rng), label] for label in labels for _ in range(each))
    return path


def made(folder: Path, *, outside: str | None = None, sited: bool = True, **changes: Any) -> Tables:
    """Return the tables of a whole of three groups; ``sited``: a group a site."""
    groups = changes.pop("groups", GROUPS)
    labels = [label for group in groups.values() for label in group] + ([outside] if outside else [])
    path = write(folder / "help.csv", labels)
    decomposition: Tables = {
        "by": "label_hierarchy",
        "groups": groups,
        "gate": {"aggregation": "normal_equations", "until_round": 1},
    }
    if sited:
        decomposition["sites"] = OWNERS | ({outside: "gamma"} if outside else {})
    if outside:
        decomposition["outside"] = outside
    decomposition |= changes.pop("decomposition", {})
    block = {
        "format": "text",
        "path": str(path),
        "grams": {"buckets": 128},
        "split": {"test": 0.3, "validation": 0.2},
    }
    allocation = {"policy": "everyone", "max_subtasks_per_site": 5}
    return tables(
        {"help": {**EXPERT, **changes.pop("subtask", {})}},
        **{
            "decomposition": {"help": {k: v for k, v in decomposition.items() if v is not None}},
            "data": {"help": block},
            "allocation": allocation,
            "rounds": 2,
        }
        | changes,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return a run with a group a site."""
    folder = tmp_path_factory.mktemp("whole")
    return run(made(folder), folder, baselines=True)


def test_the_whole_is_measured_on_every_test_row(found: Small) -> None:
    """The summary says what the parts answer together; the naive fusion and each part stand beside it."""
    whole = found.summary["decompositions"]["help"]
    assert set(found.summary["subtasks"]) == {"help-gate", "help-weather", "help-clock", "help-chat"}
    assert whole["fusion"] == "soft_gate"
    assert whole["global"] > 0.9
    assert whole["global"] >= whole["closed_set"]
    assert whole["recall_outside"] is None
    assert set(whole["sites"]) == {"alpha", "beta", "gamma"}
    assert whole["per_part"] == {
        name: found.summary["subtasks"][name]["collaboration"]["global"] for name in whole["per_part"]
    }


def test_the_metric_is_that_of_the_union_of_test_rows(found: Small) -> None:
    """Asking the run's own models again on all test rows gives the figure of the summary."""
    collaboration = parse(parse_toml((found.folder / COLLABORATION).read_text(), "kept"), "kept")
    path = found.folder / "test.csv"
    rows = _texts_of_test_rows(collaboration, Path(collaboration.data["help"].path or ""))
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *rows])
    said = [record["prediction"] for record in predict(found.folder, "help", path).records()]
    right = np.mean([a == label for a, (_, label) in zip(said, rows, strict=True)])
    assert right == pytest.approx(found.summary["decompositions"]["help"]["global"])


def _texts_of_test_rows(collaboration: Any, source: Path) -> list[list[str]]:
    """Return text and label of the rows that test the whole, found again by their counts of n-grams."""
    with source.open(encoding="utf-8", newline="") as file:
        written = list(csv.reader(file))[1:]
    recipe = collaboration.data["help"].grams
    known: dict[tuple[bytes, str], list[str]] = {}
    grams = count([text for text, _ in written], recipe).counts_NB.toarray()
    for counts_B, row in zip(grams, written, strict=True):
        known[counts_B.tobytes(), row[1]] = row
    labels = collaboration.decomposition["help"].labels
    rows = []
    for site in ("alpha", "beta", "gamma"):
        test = _whole_rows(collaboration, site).test
        assert test.grams is not None
        pairs = zip(test.grams.counts_NB.toarray(), test.y, strict=True)
        rows += [known[counts_B.tobytes(), labels[y]] for counts_B, y in pairs]
    return rows


def _whole_rows(collaboration: Any, site: str) -> Any:
    """Return the rows of the whole: the gate's, under the whole's labels."""
    gate = describe(collaboration, "help-gate")
    assert gate.part is not None
    every = gate.part.model_copy(update={"classes": tuple(range(len(gate.part.labels)))})
    return ScenarioCustody(collaboration, site).rows(gate.model_copy(update={"part": every}))


def _keys(examples: Examples) -> list[bytes]:
    assert examples.grams is not None
    return [row.tobytes() for row in examples.grams.counts_NB.toarray()]


def test_no_part_trains_on_a_row_that_tests_the_whole(tmp_path: Path) -> None:
    """Each side of an expert is that side of the whole: rows are split once, for the whole."""
    collaboration = scenario(made(tmp_path, sited=False, partition={"help": {"kind": "iid"}}))
    for site in ("alpha", "beta", "gamma"):
        whole = _whole_rows(collaboration, site)
        for name in ("help-weather", "help-clock", "help-gate", "help-chat"):
            part = ScenarioCustody(collaboration, site).rows(describe(collaboration, name))
            for side in ("train", "validation", "test"):
                rows, all_rows = getattr(part, side), getattr(whole, side)
                assert len(rows) <= len(all_rows)
                assert set(_keys(rows)) <= set(_keys(all_rows))
            total = sum(len(getattr(part, side)) for side in ("train", "validation", "test"))
            assert total == sum(
                len(_of(getattr(whole, side), describe(collaboration, name)))
                for side in ("train", "validation", "test")
            )


def _of(rows: Examples, subtask: Any) -> Any:
    return np.flatnonzero(classes_of(rows.y, subtask.part) >= 0)


def test_a_site_has_the_parts_that_it_has_rows_of(tmp_path: Path) -> None:
    """A group a site: the gate is everybody's, an expert its own site's alone; dealt freely, all are."""
    sited = scenario(made(tmp_path))
    assert {s: p.subtasks for s, p in sited.sites.items()} == {
        "alpha": ("help-gate", "help-weather"),
        "beta": ("help-gate", "help-clock"),
        "gamma": ("help-gate", "help-chat"),
    }
    single = scenario(made(tmp_path, groups=SINGLE))
    assert single.sites["gamma"].subtasks == ("help-gate",)
    free = scenario(made(tmp_path, sited=False))
    assert all(set(p.subtasks or ()) == set(free.subtasks) for p in free.sites.values())


def test_the_models_travel_once_and_are_counted(found: Small) -> None:
    """One letter a site with each part's final model, at the cost of its bytes."""
    letters = [m for m, _ in found.grid.passed if m.metadata.message_type == "evaluate.whole"]
    assert len(letters) == 3
    for letter in letters:
        request, arrays = unpack(letter.content, WholeRequest)
        assert [part.name for part in request.parts] == ["gate", "weather", "clock", "chat"]
        assert {name.split("/")[0] for name in arrays} == {"0", "1", "2", "3"}
        down = found.summary["sites"][request.site]["bytes_down"]
        assert down > sum(array.nbytes for array in arrays.values())


def test_a_run_of_parts_replays(found: Small) -> None:
    """The kept file is the whole collaboration: its log gives the same instructions again."""
    collaboration = parse(parse_toml((found.folder / COLLABORATION).read_text(), "kept"), "kept")
    assert replay(found.folder, collaboration).ended


def test_console_and_report_show_the_whole(found: Small) -> None:
    """A row each, with its fusion; a summary without decompositions has no such table."""

    def shown(summary: Tables) -> str:
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(result_table(summary))
        return console.export_text()

    assert "soft gate" in shown(found.summary)
    assert "Taken apart, and together again" in render(found.summary)
    without = {k: v for k, v in found.summary.items() if k != "decompositions"}
    assert "soft gate" not in shown(without)
    assert "Taken apart" not in render(without)


def test_rows_outside_are_refused(tmp_path: Path) -> None:
    """With an outside label the whole says how many rows of no group it refuses, beside those in scope."""
    whole = run(made(tmp_path, outside="oos"), tmp_path).summary["decompositions"]["help"]
    assert whole["recall_outside"] > 0.5
    assert whole["global"] > 0.7


@pytest.mark.parametrize("fusion", ["hard_gate", "closed_set"])
def test_other_fusions_run(tmp_path: Path, fusion: str) -> None:
    """A hard gate, and experts alone, whose answer then is the naive one."""
    gate = {"gate": None} if fusion == "closed_set" else {}
    found = run(made(tmp_path, sited=False, decomposition={"fusion": fusion, **gate}), tmp_path)
    whole = found.summary["decompositions"]["help"]
    assert whole["global"] > 0.5
    if fusion == "closed_set":
        assert whole["global"] == whole["closed_set"]
        assert "help-gate" not in found.summary["subtasks"]


def test_a_group_of_one_label_is_the_gates_alone(tmp_path: Path) -> None:
    """Its rows are answered though it has no expert, and then no naive fusion stands beside it."""
    whole = run(made(tmp_path, groups=SINGLE), tmp_path).summary["decompositions"]["help"]
    assert whole["global"] > 0.9
    assert whole["closed_set"] is None
    assert set(whole["per_part"]) == {"help-gate", "help-weather", "help-clock"}


def test_without_a_final_model_the_whole_is_left_out(tmp_path: Path) -> None:
    """Experts that keep their last layer at the sites: a note names them, and predict refuses."""
    subtask = {"personal": "fedper", "models": ["mlp_small"]}
    gate = {"personal": "fedper"}
    found = run(made(tmp_path, sited=False, subtask=subtask, decomposition={"gate": gate}), tmp_path)
    assert found.summary["decompositions"] == {}
    assert "help: not measured as a whole: there is no final model of help-gate" in found.notes
    new = write(tmp_path / "new.csv", ["rain"], 2)
    with pytest.raises(DataError, match="help-gate"):
        predict(found.folder, "help", new)


def test_predict_answers_with_the_whole(found: Small, tmp_path: Path) -> None:
    """Probabilities over all labels that sum to one; there is no site's own whole."""
    new = write(tmp_path / "new.csv", list(WORDS)[:6], 5)
    said = predict(found.folder, "help", new)
    assert said.labels == ("rain", "wind", "alarm", "timer", "hello", "bye")
    assert np.allclose(said.outputs_NK.sum(axis=1), 1)
    assert [r["prediction"] for r in said.records()] == [label for label in said.labels for _ in range(5)]
    with pytest.raises(DataError, match="no --site"):
        predict(found.folder, "help", new, "alpha")


def test_a_real_site_needs_one_block_for_the_whole(tmp_path: Path) -> None:
    """A deployed site's parts are views of the one file that it names for the whole, split once."""
    collaboration = scenario(made(tmp_path, sited=False))
    block = DataConfig.model_validate(
        {"format": "text", "path": "help.csv", "grams": {"buckets": 128}, "split": {"test": 0.3}}
    )
    custody = DeploymentCustody({"help": block}, tmp_path, "real")
    gate = custody.rows(describe(collaboration, "help-gate"))
    weather = custody.rows(describe(collaboration, "help-weather"))
    for side in ("train", "validation", "test"):
        in_group = getattr(gate, side).y == 0
        assert in_group.sum() == len(getattr(weather, side))
        assert _keys(getattr(gate, side).take(in_group)) == _keys(getattr(weather, side))


def test_a_site_that_offers_the_whole_offers_its_parts(tmp_path: Path) -> None:
    """Real sites know the whole alone: they get the parts that they have rows of, notes name the others."""

    def real(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type != "query.capability":
            return reply
        said, _ = unpack(reply.content, Capability)
        return Message(pack(said.model_copy(update={"subtasks": {"help": 0}})), reply_to=message)

    found = run(made(tmp_path), tmp_path, app=real)
    assert {name: set(one["models"]) for name, one in found.summary["subtasks"].items()} == {
        "help-gate": {"alpha", "beta", "gamma"},
        "help-weather": {"alpha"},
        "help-clock": {"beta"},
        "help-chat": {"gamma"},
    }
    assert "beta: left out of help-weather: " in found.notes


def test_texts_have_no_raw_inputs_and_no_more_texts_than_rows(tmp_path: Path) -> None:
    """A teacher from elsewhere is given no counts; a site that counts more texts than rows is left out."""
    soft: Tables = {"exchange": "soft_labels", "soft_labels": {"public": {"holdout": 20}}}
    gate = {"gate": {"until_round": 1}}
    collaboration = scenario(made(tmp_path, sited=False, subtask=soft, decomposition=gate))
    subtask = describe(collaboration, "help-gate")
    rows = ScenarioCustody(collaboration, "alpha").rows(subtask).train
    preprocessing = Preprocessing.fit(measure(rows)).model_dump_json()
    prepared = Prepared(subtask.model_copy(update={"preprocessing": preprocessing}), {}, {}, {})
    given = with_sets(collaboration, prepared)
    assert given.public is not None
    assert given.public.shape == (20, 128)
    assert given.public_raw is None

    def boaster(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type != "query.summary":
            return reply
        said, _ = unpack(reply.content, DataSummary)
        lies = (said.site, said.subtask) == ("gamma", "help-gate")
        fewer = said.model_copy(update={"train": said.train - lies})
        return Message(pack(fewer), reply_to=message)

    found = run(made(tmp_path), tmp_path, app=boaster)
    assert (
        "gamma: left out of help-gate: message: statistics count more texts than there are train rows"
        in found.notes
    )


def test_a_site_that_lies_of_the_whole_is_not_counted(tmp_path: Path) -> None:
    """Sums of more rows than a site has are refused under its name, and the others are merged."""

    def liar(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type != "evaluate.whole":
            return reply
        said, arrays = unpack(reply.content, Evaluation)
        if said.site != "beta":
            return reply
        more = said.model_copy(update={"num_examples": said.num_examples + 5})
        return Message(pack(more, arrays), reply_to=message)

    found = run(made(tmp_path), tmp_path, app=liar)
    assert set(found.summary["decompositions"]["help"]["sites"]) == {"alpha", "gamma"}
    assert "beta: its test result for help is not used" in found.notes


def test_a_site_refuses_parts_of_another_whole(found: Small) -> None:
    """Parts that are not those of the groups, or other labels, are no whole."""
    collaboration = parse(parse_toml((found.folder / COLLABORATION).read_text(), "kept"), "kept")
    letter = next(m for m, _ in found.grid.passed if m.metadata.message_type == "evaluate.whole")
    request, arrays = unpack(letter.content, WholeRequest)
    site, state = from_scenario(collaboration, request.site), SiteState(RecordDict())
    fewer = request.model_copy(update={"parts": request.parts[:-1]})
    with pytest.raises(MessageError, match="not those of the whole"):
        evaluate_whole(site, state, fewer, arrays)
    groups = {**request.groups, "weather": ("rain", "snow")}
    with pytest.raises(MessageError, match="other labels"):
        evaluate_whole(site, state, request.model_copy(update={"groups": groups}), arrays)


def test_a_site_without_the_memory_abstains(found: Small) -> None:
    """A site that cannot hold a part's model answers with no rows."""
    collaboration = parse(parse_toml((found.folder / COLLABORATION).read_text(), "kept"), "kept")
    letter = next(m for m, _ in found.grid.passed if m.metadata.message_type == "evaluate.whole")
    request, arrays = unpack(letter.content, WholeRequest)
    site, state = from_scenario(collaboration, request.site), SiteState(RecordDict())
    said, sums = evaluate_whole(site, state, request, arrays)
    assert said.num_examples == 18
    assert sums
    tight = replace(site, capability=site.capability.model_copy(update={"memory_mib": 1e-3}))
    said, sums = evaluate_whole(tight, state, request, arrays)
    assert (said.num_examples, sums) == (0, {})
