"""Subtasks that come after others, from the file to the prediction: what upstream is worth, what it costs."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from rich.console import Console

from clients.app import app as client_app
from protocol.arrays import digest, num_bytes
from protocol.errors import ArraysError, DataError
from protocol.messages import Assignment, Refusal
from protocol.records import UPSTREAM, attach, attached, detach, unpack, wire_bytes
from server.console import result_table
from server.models import read_arrays, read_manifest
from server.outlook import as_json, shown
from server.predict import predict
from server.report import render
from server.runlog import replay
from server.upstream import as_json as chain_entries
from simulations.simulate import Order, first_allocation, simulate
from tests.chain_cases import SIDE, VERDICT, three, two
from tests.small import NAMES, Small, run, scenario, sites

Tables = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the rows and of the runs."""
    return tmp_path_factory.mktemp("chains")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Small:
    """A run of two subtasks, one after the other, with each site's baseline alone."""
    return run(two(folder), folder, baselines=True, name="two")


@pytest.fixture(scope="module")
def triple(folder: Path) -> Small:
    """A run of three subtasks, each after the one before; the last is a regression."""
    return run(three(folder), folder, name="three")


def _carried(found: Small) -> Iterator[tuple[str, str]]:
    """Yield site and upstream subtask of every model that travelled as such."""
    by_node = dict(enumerate(NAMES, start=1))
    for message, _ in found.grid.passed:
        names = {key.partition("/")[0] for key in attached(message.content)}
        yield from ((by_node[message.metadata.dst_node_id], name) for name in sorted(names))


def test_downstream_is_better_by_what_upstream_predicts(pair: Small, folder: Path) -> None:
    """A linear model that cannot see ``side`` in its columns learns from a model that can."""
    plain = two(folder)
    plain["subtasks"]["verdict"]["after"] = []
    without = run(plain, folder, name="without").summary["subtasks"]["verdict"]
    chain = pair.summary["chains"]["verdict"]
    assert chain["end_to_end"] < 0.5 * without["collaboration"]["global"]
    assert chain["end_to_end"] < 0.5 * chain["ablated"]
    accuracy = pair.summary["subtasks"]["verdict"]["collaboration_metrics"]["global"]["accuracy"]
    assert accuracy > without["collaboration_metrics"]["global"]["accuracy"] + 0.2


def test_where_upstream_does_harm_a_note_says_so(
    pair: Small, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures are turned round: the run's notes then say what the summary shows."""
    assert "makes it worse" not in pair.notes

    def turned(*given: Any) -> dict[str, Any]:
        found = chain_entries(*given)
        chain = found["verdict"]
        return {"verdict": chain | {"end_to_end": chain["ablated"], "ablated": chain["end_to_end"]}}

    monkeypatch.setattr("server.federation.chain_entries", turned)
    notes = run(two(folder), folder, name="turned").notes
    assert "verdict: what side predicts makes it worse: its log_loss is" in notes


def test_the_summary_says_each_node_and_the_whole_chain(triple: Small) -> None:
    """Every node has its own figures as before; end to end is that of the last on predicted outputs."""
    chains, subtasks = triple.summary["chains"], triple.summary["subtasks"]
    assert list(chains) == ["verdict", "dose"]
    assert [chains[name]["level"] for name in chains] == [2, 3]
    assert chains["dose"]["after"] == ["verdict"]
    assert chains["dose"]["metric"] == "rmse"
    for name, chain in chains.items():
        assert chain["end_to_end"] == subtasks[name]["collaboration"]["global"]
        assert chain["ablated"] > chain["end_to_end"]
    assert chains["dose"]["upstream"] == {
        name: {"metric": "log_loss", "global": subtasks[name]["collaboration"]["global"]}
        for name in ("side", "verdict")
    }
    assert triple.summary["ended"] == "all 7 rounds are done"


def test_rounds_follow_the_levels(triple: Small) -> None:
    """Nobody works on what comes after before what it comes after is over."""
    rounds: dict[str, set[int]] = {}
    for row in triple.summary["allocations"]:
        rounds.setdefault(row["subtask"], set()).add(row["round"])
    assert rounds == {"side": {1, 2}, "verdict": {3, 4}, "dose": {5, 6, 7}}


def test_upstream_models_travel_once_to_a_site(pair: Small, triple: Small) -> None:
    """Every site gets each model with the first letter that needs it, and never again."""
    assert Counter(_carried(pair)) == {(site, "side"): 1 for site in NAMES}
    assert Counter(_carried(triple)) == {(s, name): 1 for s in NAMES for name in ("side", "verdict")}


def test_what_travels_is_counted(triple: Small) -> None:
    """The bytes down are those of every letter, and among them each model once a site."""
    letters = [m.content for m, _ in triple.grid.passed if m.metadata.message_type != "query.capability"]
    carried = sum(wire_bytes(c) - wire_bytes(detach(c)) for c in letters)
    models = sum(num_bytes(read_arrays(triple.folder, name, "final")) for name in ("side", "verdict"))
    assert 3 * models < carried < 3 * (models + 1500)
    assert triple.summary["totals"]["bytes_down"] == sum(map(wire_bytes, letters))


def test_the_frozen_model_is_the_final_one(triple: Small) -> None:
    """What downstream took is what the run left as the final model, with its calibration."""
    subtask = read_manifest(triple.folder, "dose").subtask
    assert [one.name for one in subtask.upstream] == ["side", "verdict"]
    assert [one.direct for one in subtask.upstream] == [False, True]
    for one in subtask.upstream:
        manifest = read_manifest(triple.folder, one.name)
        assert one.settled == manifest.settled
        assert one.settled is not None
        assert one.settled.digest == digest(read_arrays(triple.folder, one.name, "final"))
        assert one.settled.temperature == manifest.candidates[0].temperature
    assert read_manifest(triple.folder, "dose").settled is None


def _test_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["part"] == "test"]


def _new_file(rows: list[dict[str, str]], path: Path) -> Path:
    """Write the rows as a site would give them: features alone, no target and no upstream label."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["w", "v", "u"])
        writer.writerows([row["w"], row["v"], row["u"]] for row in rows)
    return path


def test_the_prediction_chains_the_models_as_they_were_measured(
    pair: Small, triple: Small, folder: Path
) -> None:
    """On the sites' test rows, without any label, the fused model comes to the summary's figure."""
    rows = _test_rows(folder)
    source = _new_file(rows, folder / "new.csv")
    outputs_NC = predict(pair.folder, "verdict", source).outputs_NK
    y_N = np.array([("no", "yes").index(row["verdict"]) for row in rows])
    losses_N = -np.log(np.clip(outputs_NC[np.arange(len(rows)), y_N], 1e-12, 1))
    fused = pair.summary["subtasks"]["verdict"]["fusion"]
    assert losses_N.mean() == pytest.approx(fused["global"], rel=1e-5)
    values_N = predict(triple.folder, "dose", source).outputs_NK[:, 0]
    dose_N = np.array([float(row["dose"]) for row in rows])
    rmse = float(np.sqrt(np.square(values_N - dose_N).mean()))
    assert rmse == pytest.approx(triple.summary["subtasks"]["dose"]["fusion"]["global"], rel=1e-5)
    own = predict(pair.folder, "verdict", source, "alpha").outputs_NK
    assert own.shape == outputs_NC.shape


def test_a_prediction_needs_every_model_of_the_chain(triple: Small, folder: Path, tmp_path: Path) -> None:
    """Without upstream's model, or with another, nothing is predicted."""
    copy = tmp_path / "run"
    shutil.copytree(triple.folder, copy)
    source = _new_file(_test_rows(folder), tmp_path / "new.csv")
    final = copy / "models" / "side" / "final.safetensors"
    bytes_ = bytearray(final.read_bytes())
    bytes_[-1] ^= 1
    final.write_bytes(bytes(bytes_))
    with pytest.raises(ArraysError, match="'side' are not those of its digest"):
        predict(copy, "dose", source)
    shutil.rmtree(final.parent)
    with pytest.raises(DataError, match="no model for subtask 'side'"):
        predict(copy, "dose", source)


def test_the_log_replays(triple: Small, folder: Path) -> None:
    """The settling is in the log, and a fresh machine decides the same."""
    log = triple.log()
    assert any(one["type"] == "settle" for body in log for one in body["instructions"])
    assert any(body["event"]["type"] == "settled" for body in log)
    assert replay(triple.folder, scenario(three(folder))).ended


def test_a_run_gives_the_same_bits_again(pair: Small, folder: Path) -> None:
    """Frozen models, the inputs made of them and what is trained on those do not depend on luck."""
    again = run(two(folder), folder, baselines=True, name="again")
    assert again.models() == pair.models()


def test_the_terminal_and_the_page_show_the_chain(triple: Small) -> None:
    """Both say what came after what, end to end and with upstream ablated, beside each node."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result_table(triple.summary))
    text = console.export_text()
    assert "Chains: final models on what upstream models predict" in text
    assert "upstream ablated" in text
    page = render(triple.summary)
    assert "One after the other" in page
    assert page.index("One after the other") < page.index("All methods and all metrics")


def test_a_run_without_chains_shows_none(folder: Path) -> None:
    """Where no subtask comes after another, neither says a word of it."""
    found = run(two(folder, subtasks={"side": SIDE}), folder, name="plain")
    assert found.summary["chains"] == {}
    assert "One after the other" not in render(found.summary)
    assert list(_carried(found)) == []


def test_plan_shows_the_levels(folder: Path) -> None:
    """Before anything is trained a person sees what begins at once and what waits."""
    collaboration = scenario(three(folder))
    found = first_allocation(collaboration)
    assert as_json(found)["levels"] == [["side"], ["verdict"], ["dose"]]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(shown(found, collaboration))
    text = console.export_text()
    assert "level 1, begins at once: side" in text
    assert "level 3, once those are over, and on what they predict: dose" in text


class _Tampering:
    """A client application to which upstream models come changed, until the server has sent them twice."""

    def __init__(self) -> None:
        self.refused = 0

    def __call__(self, message: Message, context: Context) -> Message:
        """Change one number of the first upstream model that comes, then answer as a site does."""
        arrays = attached(message.content) if UPSTREAM in message.content else {}
        if arrays and not self.refused:
            self.refused += 1
            name = next(iter(arrays))
            changed = arrays | {name: arrays[name] + np.float32(1)}
            content = attach(RecordDict(dict(message.content.items())), changed)
            twin = Message(content, message.metadata.dst_node_id, message.metadata.message_type)
            twin.metadata.__dict__.update(message.metadata.__dict__)
            message = twin
        return client_app(message, context)


def test_a_tampered_model_is_refused_and_sent_again(folder: Path) -> None:
    """The site says that the arrays are not those announced; the next letter brings them whole."""
    client = _Tampering()
    found = run(two(folder), folder, app=client, name="tampered")
    assert client.refused == 1
    assert "are not those of its digest" in found.notes
    refused = [r for _, r in found.grid.passed if _is_refusal(r)]
    assert len(refused) == 1
    assert Counter(_carried(found)) == {("alpha", "side"): 2, ("beta", "side"): 1, ("gamma", "side"): 1}
    assert found.summary["chains"]["verdict"]["end_to_end"] < 0.5


def _is_refusal(reply: Message) -> bool:
    try:
        unpack(reply.content, Refusal)
    except Exception:  # noqa: BLE001 - any other answer
        return False
    return True


class _Forgetful:
    """A client application of which one site loses its memory before its second downstream letter."""

    def __init__(self) -> None:
        self.letters = 0

    def __call__(self, message: Message, context: Context) -> Message:
        """Forget the upstream models kept so far, once."""
        if context.node_config["partition-id"] == 0 and message.metadata.message_type == "train.weights":
            assignment, _ = unpack(RecordDict({"consilium": message.content["consilium"]}), Assignment)
            if assignment.subtask.name == "verdict":
                self.letters += 1
                if self.letters == 2:
                    for key in [key for key in context.state if key.startswith("upstream.")]:
                        del context.state[key]
        return client_app(message, context)


def test_a_site_that_lost_its_memory_gets_the_models_again(folder: Path) -> None:
    """It refuses with one line; from then on it takes part as before."""
    found = run(two(folder, rounds=5), folder, app=_Forgetful(), name="forgetful")
    assert "no final model of side here: send it along" in found.notes
    assert Counter(_carried(found))[("alpha", "side")] == 2
    assert found.outcomes("alpha").count("rejected") == 1


def test_a_site_that_joins_later_gets_the_models(folder: Path) -> None:
    """Whoever comes after upstream is over is told: in the query, which it forgets, and in its assignment."""
    made = two(folder, rounds=5, sites=sites(gamma={"from_round": 4}))
    found = run(made, folder, name="late")
    assert Counter(_carried(found)) == {(site, "side"): 1 + (site == "gamma") for site in NAMES}
    rows = [r for r in found.summary["allocations"] if (r["site"], r["subtask"]) == ("gamma", "verdict")]
    assert {row["round"] for row in rows} == {4, 5}


def test_what_never_started_is_said_and_has_no_result(folder: Path) -> None:
    """Upstream refused every student: its chain ends there, the run does not."""
    noise = {
        **SIDE,
        "exchange": "soft_labels",
        "models": ["linear"],
        "soft_labels": {"public": {"holdout": 20}},
        "distillation": {"epochs": 1, "lr": 1e-6, "sharpen": "none"},
        "train": {"lr": 1e-6, "local_epochs": 1},
    }
    made = two(folder, subtasks={"side": noise, "verdict": VERDICT})
    found = run(made, folder, baselines=True, name="never")
    assert "never started: 'verdict' (no final model of 'side')" in found.summary["ended"]
    assert "side: no final model, so what comes after it never starts" in found.notes
    entry = found.summary["subtasks"]["verdict"]
    assert entry["collaboration"] == {"global": None, "own": None}
    assert entry["baselines"] is None
    assert found.summary["chains"]["verdict"]["end_to_end"] is None
    assert render(found.summary)
    with pytest.raises(DataError, match="'verdict' left no model"):
        predict(found.folder, "verdict", _new_file(_test_rows(folder), folder / "none.csv"))


def test_baselines_have_the_same_inputs(folder: Path) -> None:
    """Pooled and alone take what the run's upstream models say, so they are far better than blind too."""
    order = Order("whole", folder, "local", baselines=True)
    summary = simulate(scenario(two(folder)), order, lambda _: None)
    entry = summary["subtasks"]["verdict"]
    blind = summary["chains"]["verdict"]["ablated"]
    for name in ("pooled", "fedavg_smallest", "local_mean"):
        assert entry["baselines"][name]["global"] < 0.6 * blind, name
