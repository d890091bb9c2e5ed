"""A task taken apart by modality, run whole: a site without one takes part in the others."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from numpy.typing import NDArray
from rich.console import Console

from clients.app import app as client_app
from clients.custody import DeploymentCustody, ScenarioCustody
from clients.site import from_file, from_scenario
from clients.state import SiteState
from clients.whole import evaluate_whole
from collab import metrics
from collab.collaboration import Collaboration
from collab.data.config import DataConfig
from collab.scenario import public_set
from collab.settings import parse, parse_toml
from protocol.errors import ConfigError, DataError, MessageError
from protocol.fusing import WholeRequest
from protocol.messages import Capability, Evaluation
from protocol.records import pack, unpack
from server.console import result_table
from server.description import describe
from server.federation import COLLABORATION
from server.models import FUSION, read_arrays
from server.outlook import as_json
from server.predict import predict
from server.preparation import Prepared, check_modalities
from server.report import render
from server.runlog import replay
from simulations.simulate import first_allocation
from tests.server.modality_cases import COLUMNS, MODALITIES, block, made, patients, scans, write
from tests.small import NAMES, SOFT_LABELS, Small, run, scenario

PARTS = ("case-history", "case-laboratory", "case-ecg")
Tables = dict[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return a run in which gamma has no laboratory."""
    folder = tmp_path_factory.mktemp("modality")
    return run(made(folder), folder, baselines=True)


def kept(small: Small) -> Collaboration:
    """Return the collaboration that a run's folder holds."""
    return parse(parse_toml((small.folder / COLLABORATION).read_text(), "kept"), "kept")


def write_test_rows(collaboration: Collaboration, path: Path) -> NDArray[np.int64]:
    """Write the rows that test the whole, without labels, and return these."""
    y = []
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for site in NAMES:
            rows = ScenarioCustody(collaboration, site).whole(describe(collaboration, "case-ecg")).test
            at = {name: rows.numeric_NP[:, i] for i, name in enumerate(rows.numeric_names)}
            at |= {name: rows.categorical_NQ[:, i] for i, name in enumerate(rows.categorical_names)}
            cells = [["" if str(v) == "nan" else v for v in at[name]] for name in COLUMNS]
            writer.writerows(zip(*cells, strict=True))
            y.append(rows.y)
    return np.concatenate(y)


def test_a_site_without_a_modality_takes_part_in_the_others(found: Small) -> None:
    """Gamma's laboratory cells are all empty: it has the other parts, and all parts are measured."""
    models = {name: set(one["models"]) for name, one in found.summary["subtasks"].items()}
    assert models == {
        "case-history": set(NAMES),
        "case-laboratory": {"alpha", "beta"},
        "case-ecg": set(NAMES),
    }
    whole = found.summary["decompositions"]["case"]
    assert (whole["by"], whole["fusion"], whole["metric"]) == ("modality", "product", "log_loss")
    assert set(whole["sites"]) == set(NAMES)
    assert whole["own"] == pytest.approx(np.mean(list(whole["sites"].values())))
    assert set(whole["per_part"]) == set(PARTS)


def test_the_metric_is_recomputed_from_the_saved_models(found: Small, tmp_path: Path) -> None:
    """Predicting all test rows with the run's own models gives the figure of the summary."""
    y_N = write_test_rows(kept(found), tmp_path / "test.csv")
    said = predict(found.folder, "case", tmp_path / "test.csv")
    measured = metrics.summarise(metrics.classification_statistics(said.outputs_NK, y_N))
    whole = found.summary["decompositions"]["case"]
    assert measured["log_loss"] == pytest.approx(whole["global"], rel=1e-9)
    assert measured["accuracy"] == pytest.approx(whole["metrics"]["accuracy"])


def test_the_product_is_that_of_the_parts_and_their_priors(found: Small, tmp_path: Path) -> None:
    """By hand: p(y) times p_m(y|x)/p_m(y) of the modalities that a row has, priors from the sites' counts."""
    collaboration = kept(found)
    write_test_rows(collaboration, tmp_path / "test.csv")
    counts_MC = np.zeros((3, 2))
    whole_C = np.zeros(2)
    for site in NAMES:
        custody = ScenarioCustody(collaboration, site)
        of_parts = [np.bincount(custody.rows(_part(collaboration, p)).train.y, minlength=2) for p in PARTS]
        counts_MC += of_parts
        whole_C += np.bincount(custody.whole(_part(collaboration, PARTS[0])).train.y, minlength=2)
    prior_C = (whole_C + 0.5) / (whole_C + 0.5).sum()
    priors_MC = (counts_MC + 0.5) / (counts_MC + 0.5).sum(axis=1, keepdims=True)
    state = read_arrays(found.folder, "case", FUSION)
    np.testing.assert_allclose(np.exp(state["log_prior"]), prior_C)
    np.testing.assert_allclose(np.exp(state["log_priors"]), priors_MC)
    with (tmp_path / "test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected_NC = np.tile(prior_C, (len(rows), 1))
    for part, prior_m, (_, columns) in zip(PARTS, priors_MC, MODALITIES.items(), strict=True):
        own_NC = predict(found.folder, part, tmp_path / "test.csv").outputs_NK
        names = [c for c in COLUMNS if c in columns or (c == "lab_a" and "lab_*" in columns)]
        has_N = np.array([any(row[name] for name in names) for row in rows])
        expected_NC[has_N] *= (own_NC / prior_m)[has_N]
    expected_NC /= expected_NC.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        predict(found.folder, "case", tmp_path / "test.csv").outputs_NK, expected_NC, atol=1e-6
    )


def _part(collaboration: Collaboration, name: str) -> Any:
    return describe(collaboration, name)


def test_each_modality_alone_stands_beside_on_the_same_rows(found: Small, tmp_path: Path) -> None:
    """The best alone is the best of all, its difference is that of the figures, with a paired error."""
    whole = found.summary["decompositions"]["case"]
    best = whole["best_alone"]
    assert set(whole["alone"]) == set(MODALITIES)
    assert best["global"] == min(whole["alone"].values()) == whole["alone"][best["part"]]
    assert best["difference"] == pytest.approx(whole["global"] - best["global"])
    assert best["standard_error"] > 0
    y_N = write_test_rows(kept(found), tmp_path / "test.csv")
    assert whole["rows"]["history"] == len(y_N)
    assert whole["rows"]["laboratory"] < whole["rows"]["history"]
    assert sum(whole["prior"].values()) == pytest.approx(1)


def test_parts_are_views_of_one_split(tmp_path: Path) -> None:
    """No part trains on a row that tests the whole, and gamma's profile has no laboratory."""
    collaboration = scenario(made(tmp_path))
    assert "case-laboratory" not in (collaboration.sites["gamma"].subtasks or ())
    for site in NAMES:
        custody = ScenarioCustody(collaboration, site)
        whole = custody.whole(describe(collaboration, "case-history"))
        history = custody.rows(describe(collaboration, "case-history"))
        for side in ("train", "validation", "test"):
            rows, own = getattr(whole, side), getattr(history, side)
            age = list(rows.numeric_names).index("age")
            np.testing.assert_array_equal(own.numeric_NP[:, 0], rows.numeric_NP[:, age])
            ecg = getattr(custody.rows(describe(collaboration, "case-ecg")), side)
            pulse_N = rows.numeric_NP[:, list(rows.numeric_names).index("pulse")]
            np.testing.assert_array_equal(ecg.numeric_NP[:, 0], pulse_N[~np.isnan(pulse_N)])
            assert ecg.numeric_names == ("pulse",)


def test_console_and_report_show_the_whole(found: Small) -> None:
    """A row with the best alone and the difference; without decompositions no such table."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result_table(found.summary))
    shown = console.export_text()
    assert "best alone" in shown
    assert found.summary["decompositions"]["case"]["best_alone"]["part"] in shown
    page = render(found.summary)
    assert "Taken apart by modality" in page
    assert "Taken apart, and together again" not in page
    assert json.loads(json.dumps(found.summary, allow_nan=False))["decompositions"]["case"]["rows"]


def test_the_run_replays_and_can_be_planned(found: Small) -> None:
    """The kept file gives the same instructions again; plan shows the parts and who could do them."""
    collaboration = kept(found)
    assert replay(found.folder, collaboration).ended
    pairs = as_json(first_allocation(collaboration))["pairs"]
    able = {(pair["site"], pair["subtask"]) for pair in pairs if not pair["obstacles"]}
    assert able == {(s, p) for s in NAMES for p in PARTS} - {("gamma", "case-laboratory")}


def test_new_rows_may_lack_a_modality(found: Small, tmp_path: Path) -> None:
    """A file without a modality's columns is answered by the others; with none of them it is refused."""
    write_test_rows(kept(found), tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    blank = [{**row, "chol": "", "lab_a": ""} for row in rows]
    for name, columns, given in (
        ("blank.csv", COLUMNS, blank),
        ("fewer.csv", ("age", "sex", "pulse"), rows),
        ("half.csv", ("age", "pulse", "chol", "lab_a"), rows),
        ("none.csv", ("colour",), [{"colour": "red"}]),
    ):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(given)
    said = predict(found.folder, "case", tmp_path / "fewer.csv")
    assert said.labels == ("no", "yes")
    np.testing.assert_array_equal(
        said.outputs_NK, predict(found.folder, "case", tmp_path / "blank.csv").outputs_NK
    )
    with pytest.raises(DataError, match="'sex'"):
        predict(found.folder, "case", tmp_path / "half.csv")
    with pytest.raises(DataError, match="none of the modalities"):
        predict(found.folder, "case", tmp_path / "none.csv")
    with pytest.raises(DataError, match="no --site"):
        predict(found.folder, "case", tmp_path / "fewer.csv", "alpha")


def test_a_real_site_needs_one_block_for_the_whole(tmp_path: Path) -> None:
    """A deployed site's parts are views of its one file; a file without the columns has not the part."""
    collaboration = scenario(made(tmp_path))
    write(tmp_path / "mine.csv", ("alpha",))
    config = DataConfig.model_validate(block(Path("mine.csv")))
    custody = DeploymentCustody({"case": config}, tmp_path, "real")
    whole = custody.whole(describe(collaboration, "case-laboratory"))
    laboratory = custody.rows(describe(collaboration, "case-laboratory"))
    assert laboratory.test.numeric_names == ("chol", "lab_a")
    np.testing.assert_array_equal(laboratory.test.y, whole.test.y)
    fewer = config.model_copy(update={"drop": ("chol", "lab_a")})
    without = DeploymentCustody({"case": fewer}, tmp_path, "real")
    assert len(without.rows(describe(collaboration, "case-history")).train)
    with pytest.raises(DataError, match="'chol' of a modality"):
        without.rows(describe(collaboration, "case-laboratory"))


def test_real_sites_offer_the_whole(tmp_path: Path) -> None:
    """Real sites know the whole alone: they get the parts that they have rows of, notes name the others."""

    def real(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type != "query.capability":
            return reply
        said, _ = unpack(reply.content, Capability)
        return Message(pack(said.model_copy(update={"subtasks": {"case": 0}})), reply_to=message)

    found = run(made(tmp_path), tmp_path, app=real)
    assert set(found.summary["subtasks"]["case-laboratory"]["models"]) == {"alpha", "beta"}
    assert "gamma: left out of case-laboratory: " in found.notes
    assert set(found.summary["decompositions"]["case"]["sites"]) == set(NAMES)


def _letter(small: Small, site: str) -> tuple[WholeRequest, dict[str, Any]]:
    letters = [m for m, _ in small.grid.passed if m.metadata.message_type == "evaluate.whole"]
    opened = [unpack(letter.content, WholeRequest) for letter in letters]
    return next((request, arrays) for request, arrays in opened if request.site == site)


def test_a_real_site_without_the_columns_measures_the_whole(found: Small, tmp_path: Path) -> None:
    """A site whose file has no laboratory answers as one whose laboratory cells are empty."""
    request, arrays = _letter(found, "alpha")
    cells, labels = patients("alpha")
    for name, columns in (("without", (0, 1, 4)), ("blank", range(5))):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*(COLUMNS[i] for i in columns), "site", "sick"])
            for row, label in zip(cells, labels, strict=True):
                kept_cells = ["" if i in (2, 3) else row[i] for i in columns]
                writer.writerow([*kept_cells, "alpha", label])
        (tmp_path / f"{name}.toml").write_text(
            f'name = "alpha"\n[data.case]\nformat = "csv"\npath = "{name}.csv"\ntarget = "sick"\n'
            'drop = ["site"]\ncategorical = ["sex"]\nsplit = { test = 0.3, validation = 0.2 }\n'
        )
    answers = []
    for name in ("without", "blank"):
        site = from_file(tmp_path / f"{name}.toml")
        answers.append(evaluate_whole(site, SiteState(RecordDict()), request, arrays))
    (said, sums), (_, blank) = answers
    assert said.num_examples > 10
    assert sums["rows/counts"].tolist()[1] == 0
    assert sums.keys() == blank.keys()
    for name, array in sums.items():
        np.testing.assert_array_equal(array, blank[name])


def test_a_site_refuses_parts_of_another_whole(found: Small) -> None:
    """A view that is not the request's own, other labels, or one modality alone are no whole."""
    request, arrays = _letter(found, "alpha")
    site, state = from_scenario(kept(found), "alpha"), SiteState(RecordDict())
    first = request.parts[0]
    view = first.subtask.part
    assert view is not None
    for changes in ({"labels": ("a", "b", "c"), "classes": (0, 1, 2)}, {"classes": (1, 0)}, {"whole": "w"}):
        part = first.subtask.model_copy(update={"part": view.model_copy(update=changes)})
        other = first.model_copy(update={"subtask": part})
        with pytest.raises(MessageError, match="other labels or inputs"):
            evaluate_whole(
                site, state, request.model_copy(update={"parts": (*request.parts[1:], other)}), arrays
            )
    with pytest.raises(ConfigError, match="at least two"):
        evaluate_whole(site, state, request.model_copy(update={"parts": request.parts[:1]}), arrays)


def test_memory_is_asked_only_for_what_a_site_has(found: Small) -> None:
    """A site that cannot hold the models answers with no rows."""
    request, arrays = _letter(found, "gamma")
    site, state = from_scenario(kept(found), "gamma"), SiteState(RecordDict())
    said, sums = evaluate_whole(site, state, request, arrays)
    assert said.num_examples
    assert sums["rows/counts"].tolist()[1] == 0
    tight = replace(site, capability=site.capability.model_copy(update={"memory_mib": 1e-3}))
    said, sums = evaluate_whole(tight, state, request, arrays)
    assert (said.num_examples, sums) == (0, {})


def test_a_site_that_lies_of_the_whole_is_not_counted(tmp_path: Path) -> None:
    """Sums of more rows than a site has are refused under its name, and the others are merged."""

    def liar(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type != "evaluate.whole":
            return reply
        said, arrays = unpack(reply.content, Evaluation)
        if said.site == "beta":
            arrays = {**arrays, "rows/counts": np.array([1.0, 1e6, 1.0])}
        return Message(pack(said, arrays), reply_to=message)

    found = run(made(tmp_path), tmp_path, app=liar)
    assert set(found.summary["decompositions"]["case"]["sites"]) == {"alpha", "gamma"}
    assert "beta: its test result for case is not used" in found.notes


def test_masked_histograms_stay_masked(tmp_path: Path) -> None:
    """Of sites that tell only which classes they have the priors are even; nothing else is learnt of them."""
    sites = {name: {"device": "cpu", "egress": {"label_histogram": "mask"}} for name in NAMES}
    found = run(made(tmp_path, sites=sites), tmp_path)
    state = read_arrays(found.folder, "case", FUSION)
    np.testing.assert_allclose(np.exp(state["log_prior"]), 0.5)
    np.testing.assert_allclose(np.exp(state["log_priors"]), 0.5)
    for reply in found.grid.answers("query.summary"):
        body = json.loads(bytes(reply.content["consilium"]["body"]))  # type: ignore[index, arg-type]
        assert set(body["class_counts"]) <= {0.0, 1.0}
    assert found.summary["decompositions"]["case"]["global"] < 0.69


def test_a_column_in_no_modality_or_in_two_is_refused(tmp_path: Path) -> None:
    """What the data has must be in one modality each; the line says which column and what to do."""
    fewer = {"history": ["age", "sex"], "laboratory": ["chol", "lab_*"]}
    with pytest.raises(ConfigError, match=r"decomposition\.case: 1 column\(s\) are in no modality.*'pulse'"):
        scenario(made(tmp_path, modalities=fewer))
    twice = {"history": ["age", "sex", "pulse"], "laboratory": ["c*", "lab_*"], "ecg": ["p*", "*_a"]}
    with pytest.raises(ConfigError, match=r"column 'pulse' is in modalities history and ecg"):
        scenario(made(tmp_path, modalities=twice))
    image = {**MODALITIES, "scan": "image"}
    with pytest.raises(ConfigError, match="need format 'npz' with inputs and table"):
        scenario(made(tmp_path, modalities=image))


def test_patterns_that_meet_at_real_sites_are_refused(found: Small) -> None:
    """Only the sites' columns tell that two patterns mean one column: the line names it and both parts."""
    parts = {part.subtask.name: part.subtask for part in _letter(found, "alpha")[0].parts}
    check_modalities({name: Prepared(subtask, {}, {}, {}) for name, subtask in parts.items()})
    twice = {"case-ecg": parts["case-ecg"], "case-pulse": parts["case-ecg"]}
    with pytest.raises(ConfigError, match="'pulse' is a part of case-ecg and of case-pulse"):
        check_modalities({name: Prepared(subtask, {}, {}, {}) for name, subtask in twice.items()})


def test_soft_labels_of_a_modality_are_on_rows_that_have_it(tmp_path: Path) -> None:
    """The public set is held out once for all parts; each sees its own columns of the rows that have them."""
    tables = made(tmp_path, subtask=SOFT_LABELS, rounds=2)
    collaboration = scenario(tables)
    ecg, history = (public_set(collaboration, f"case-{part}") for part in ("ecg", "history"))
    assert len(history) == 40
    assert 0 < len(ecg) < 40
    assert ecg.numeric_names == ("pulse",)
    assert not np.isnan(ecg.numeric_NP).any()
    found = run(tables, tmp_path)
    assert {outcome for site in NAMES for outcome in found.outcomes(site)} == {"contributed"}
    # A single column may teach no student that beats the class frequencies: then no whole, and a note.
    assert found.summary["decompositions"] or "case: not measured as a whole" in found.notes


def test_images_and_columns_of_the_same_rows(tmp_path: Path) -> None:
    """One archive of scans and columns: two kinds of subtask, beta without scans, one answer."""
    found = run(scans(tmp_path), tmp_path)
    subtasks = found.summary["subtasks"]
    assert subtasks["case-scan"]["kind"] == "image_classification"
    assert set(subtasks["case-scan"]["models"]) == {"alpha", "gamma"}
    assert set(subtasks["case-scan"]["models"].values()) == {"mlp_medium"}
    assert set(subtasks["case-blood"]["models"]) == set(NAMES)
    whole = found.summary["decompositions"]["case"]
    assert whole["rows"]["scan"] < whole["rows"]["blood"]
    collaboration = kept(found)
    rows = [
        ScenarioCustody(collaboration, s).whole(describe(collaboration, "case-blood")).test for s in NAMES
    ]
    image, table = (np.concatenate([getattr(r, key) for r in rows]) for key in ("image_NCHW", "numeric_NP"))
    np.savez(tmp_path / "new.npz", image=image, table=table)
    y_N = np.concatenate([r.y for r in rows])
    said_NC = predict(found.folder, "case", tmp_path / "new.npz").outputs_NK
    measured = metrics.summarise(metrics.classification_statistics(said_NC, y_N))
    assert measured["log_loss"] == pytest.approx(whole["global"], rel=1e-6)
    np.savez(tmp_path / "table.npz", table=table)
    without_NC = predict(found.folder, "case", tmp_path / "table.npz").outputs_NK
    lacks_N = np.isnan(image).all(axis=(1, 2, 3))
    np.testing.assert_allclose(without_NC[lacks_N], said_NC[lacks_N])
    with (tmp_path / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["chol", "age"], *table.tolist()])
    np.testing.assert_allclose(predict(found.folder, "case", tmp_path / "table.csv").outputs_NK, without_NC)
