"""A family in a run: merged, measured, split, and every subtask an ordinary one to the end."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from rich.console import Console

from clients.app import app as client_app
from clients.joint import AFFINITY
from collab.allocation import everyone
from collab.allocation.contract import Suggestion
from collab.decomposition import affinity
from collab.settings import parse, parse_toml
from protocol.arrays import digest
from protocol.errors import ConfigError
from protocol.messages import Assignment, Contribution, Refusal
from protocol.records import pack, unpack
from server import explain
from server.console import result_table
from server.federation import COLLABORATION
from server.outlook import shown
from server.predict import predict
from server.report import render
from server.runlog import replay
from simulations import baselines
from simulations.simulate import first_allocation
from tests.family_cases import FEATURES, SUBTASKS, block, family, write
from tests.small import Named, Small, run, scenario


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return a run of the family, with each site alone."""
    folder = tmp_path_factory.mktemp("family")
    return run(family(folder, rounds=6, signs={"merge_rounds": 3}), folder, baselines=True)


def kept(small: Small) -> Any:
    """Return the collaboration as the run's folder has it."""
    return parse(parse_toml((small.folder / COLLABORATION).read_text(encoding="utf-8"), "kept"), "kept")


def test_it_finds_who_belongs_together(found: Small) -> None:
    """Subtasks that need one feature share an encoder; what cannot be learnt is by itself."""
    signs = found.summary["decompositions"]["signs"]
    assert signs["groups"] == [["shape", "edges"], ["coin"]]
    assert signs["split_after"] == 3
    assert signs["exact"]
    assert signs["measuring_examples"] > 0
    z_KK = np.array(signs["affinity"])
    assert affinity.value(z_KK, [(0, 1), (2,)]) == pytest.approx(signs["value"])
    assert np.array(signs["standard_errors"]).shape == (3, 3)


def test_every_subtask_is_an_ordinary_one(found: Small) -> None:
    """Each has a curve of all rounds, a final model, a result on its own test rows, and its baselines."""
    for name in SUBTASKS:
        entry = found.summary["subtasks"][name]
        assert [point["round"] for point in entry["curve"]] == [1, 2, 3, 4, 5, 6]
        assert entry["collaboration"]["global"] is not None
        assert entry["baselines"]["local_mean"]["own"] is not None
        assert set(entry["models"].values()) == {"mlp_small"}
    first, last = (found.summary["subtasks"]["shape"]["curve"][at]["value"] for at in (0, -1))
    assert last < first
    assert set(found.summary["subtasks"]["shape"]["models"]) == {"alpha", "gamma"}


def test_a_group_shares_its_encoder(found: Small) -> None:
    """The final models of a group have one body to the bit, and another group has another."""
    from server.models import read_arrays

    shape, edges, coin = (read_arrays(found.folder, name, "final") for name in SUBTASKS)
    head = {n for n in shape if shape[n].shape != edges[n].shape}
    assert head
    assert all(np.array_equal(shape[n], edges[n]) for n in shape if n not in head)
    assert not all(np.array_equal(shape[n], coin[n]) for n in shape if n not in head)


def test_the_log_says_why_and_replays(found: Small) -> None:
    """Replay gives the same instructions; explain shows the split from the round after it."""
    assert replay(found.folder, kept(found)).ended
    before, after = (explain.decision(found.folder, kept(found), number) for number in (3, 4))
    assert not before.grouped
    assert [s.subtask for s in before.sent] == ["shape"] * 3
    assert {s.subtask for s in after.sent} == {"shape", "coin"}
    text = io.StringIO()
    Console(file=text, width=100).print(explain.shown(after, [], None, None))
    assert "signs, after round 3: shape + edges | coin: no groups are worth more" in text.getvalue()
    assert explain.as_json(after, [])["grouped"][0]["groups"] == [["shape", "edges"], ["coin"]]


def test_allocations_say_who_trained_together(found: Small) -> None:
    """A site without shapes works under the leader's name on what it has."""
    rows = [r for r in found.summary["allocations"] if r["site"] == "beta" and r["round"] == 1]
    assert [(r["subtask"], r["together"]) for r in rows] == [("shape", ["edges", "coin"])]
    assert not any("together" in r for r in found.summary["allocations"] if r["subtask"] == "coin")


def test_people_see_it(found: Small) -> None:
    """The console has a row for the family and its affinities, and so has the page."""
    text = io.StringIO()
    Console(file=text, width=80).print(result_table(found.summary))
    assert "shape + edges | coin" in text.getvalue()
    assert "takes off the loss of" in text.getvalue()
    page = render(found.summary)
    assert "Family signs: shape + edges | coin" in page
    assert "the best by what a step" in page
    assert "Taken apart, and together again" not in page
    assert '<span class="soft">+ edges</span>' in page


def test_the_models_predict(found: Small, tmp_path: Path) -> None:
    """A subtask of a family predicts from its folder as any other."""
    path = tmp_path / "new.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FEATURES)
        writer.writerows(np.random.default_rng(1).normal(size=(5, len(FEATURES))).tolist())
    for name in SUBTASKS:
        assert len(list(predict(found.folder, name, path).records())) == 5


def test_the_plan_says_who_leads(found: Small) -> None:
    """Before anything trains, the plan shows the leader's pairs and what it leads."""
    text = io.StringIO()
    Console(file=text, width=120).print(shown(first_allocation(kept(found)), kept(found)))
    assert "signs: shape, edges, coin train together for 3 rounds, led by shape" in text.getvalue()


def test_the_baseline_has_the_same_rows(found: Small) -> None:
    """Plain FedAvg trains each subtask by itself, split as the family is."""
    plain = baselines.smallest_common(kept(found))
    assert not plain.decomposition
    assert {t.family for t in plain.subtasks.values()} == {"signs"}


def test_two_runs_are_the_same_bits(tmp_path: Path) -> None:
    """The groups, and every model's bytes."""
    one, other = (run(family(tmp_path), tmp_path, name=name) for name in ("one", "other"))
    assert one.models() == other.models()
    assert one.summary["decompositions"] == other.summary["decompositions"]


def test_merging_on_is_one_group(tmp_path: Path) -> None:
    """With one group allowed nothing is split, and the encoder stays everybody's."""
    small = run(family(tmp_path, signs={"min_groups": 1, "max_groups": 1}), tmp_path)
    assert small.summary["decompositions"]["signs"]["groups"] == [list(SUBTASKS)]
    assert {r["subtask"] for r in small.summary["allocations"]} == {"shape"}


def test_nothing_measured_is_nothing_split(tmp_path: Path) -> None:
    """Sites that let no affinities out train together to the end, and the summary says so."""
    shut = {"device": "cpu", "egress": {"affinities": False}}
    small = run(family(tmp_path, sites=dict.fromkeys(("alpha", "beta"), shut)), tmp_path)
    signs = small.summary["decompositions"]["signs"]
    assert signs["groups"] is None
    assert signs["measuring_examples"] == 0
    assert "never" in _console(small)
    assert "they were never split" in render(small.summary)


def test_the_split_waits_for_a_round_with_contributions(tmp_path: Path) -> None:
    """Where nobody answers in the last merged round, all train together for one more."""

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train.joint":
            assignment, _ = unpack(message.content, Assignment)
            if assignment.round == 2:
                return Message(pack(Refusal(code="data", detail="no power")), reply_to=message)
        return client_app(message, context)

    small = run(family(tmp_path), tmp_path, app=app)
    assert small.summary["decompositions"]["signs"]["split_after"] == 3
    assert {r["subtask"] for r in small.summary["allocations"] if r["round"] == 3} == {"shape"}
    assert replay(small.folder, kept(small)).ended


def test_a_model_without_a_body_is_refused(tmp_path: Path) -> None:
    """There is nothing to share, and the run says so before its first round."""
    with pytest.raises(ConfigError, match="decomposition 'signs': model 'linear' has no layer in front"):
        run(family(tmp_path, subtask={"models": ["linear"]}), tmp_path)


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    """Blocks of other files with other columns cannot share an encoder."""
    made = family(tmp_path)
    other = write(tmp_path / "other.csv", seed=1)
    made["data"]["coin"] = block(other, "coin", features=["x0", "x1", "x2"])
    with pytest.raises(ConfigError, match=r"their inputs differ.*the same features"):
        run(made, tmp_path)


def _console(small: Small) -> str:
    text = io.StringIO()
    Console(file=text, width=80).print(result_table(small.summary))
    return text.getvalue()


def _rewriting(change: Callable[[Named], Mapping[str, Any]]) -> Callable[[Message, Context], Message]:
    """Return a client app whose site alpha changes its arrays, or what it says, before they leave."""

    def app(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type != "train.joint" or reply.has_error():
            return reply
        assignment, _ = unpack(message.content, Assignment)
        if assignment.site != "alpha":
            return reply
        said, arrays = unpack(reply.content, Contribution)
        update = dict(change(arrays))
        said = said.model_copy(update={"digest": digest(arrays), **update})
        return Message(pack(said, arrays), reply_to=message)

    return app


def _more_rows(arrays: Named) -> Mapping[str, Any]:
    """Claim sums of a thousand times as many rows."""
    for name in ("affinity", "squares", "rows"):
        arrays[AFFINITY + name] = arrays[AFFINITY + name] * 1e3
    arrays[AFFINITY + "rows_squares"] = arrays[AFFINITY + "rows_squares"] * 1e6
    return {}


def _beyond(arrays: Named) -> Mapping[str, Any]:
    """Claim affinities beyond one."""
    arrays[AFFINITY + "affinity"] = arrays[AFFINITY + "rows"] * 2
    return {}


def _no_sums(arrays: Named) -> Mapping[str, Any]:
    """Leave the sums out."""
    for name in [n for n in arrays if n.startswith(AFFINITY)]:
        del arrays[name]
    return {}


def _huge(arrays: Named) -> Mapping[str, Any]:
    """Send a parameter that no model has."""
    name = next(n for n in arrays if n.startswith("encoder/"))
    arrays[name] = np.full_like(arrays[name], 1e12)
    return {}


def test_a_budget_counts_in_what_may_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that is to do its epochs twice measures twice as often, and that is no fault."""
    plain = everyone.allocate

    def twice(*asked: Any) -> list[Suggestion]:
        return [replace(one, budget=2.0) for one in plain(*asked)]

    monkeypatch.setattr(everyone, "allocate", twice)
    small = run(family(tmp_path, signs={"every": 1}), tmp_path)
    assert {row["outcome"] for row in small.summary["allocations"]} == {"contributed"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_more_rows, "affinities are of more rows than were to be measured"),
        (_beyond, "beyond what their rows allow"),
        (_no_sums, "array"),
        (_huge, "numbers beyond 1e"),
        (lambda _: {"looked": 10**9}, "measuring took more than it can have"),
        (lambda _: {"num_examples": 10**6}, "another number of examples"),
        (lambda _: {"model": "linear"}, "another model"),
        (lambda _: {"digest": "0" * 64}, "digest does not match"),
    ],
)
def test_what_a_site_cannot_have_measured_is_refused(
    tmp_path: Path, change: Callable[[Named], Mapping[str, Any]], said: str
) -> None:
    """A contribution that no training gives is rejected under the site's name; the others decide."""
    small = run(family(tmp_path), tmp_path, app=_rewriting(change))
    assert small.outcomes("alpha")[0] == "rejected"
    [note] = [n for n in small.notes.splitlines() if n.startswith("alpha: contribution to r/1/")]
    assert said in note
    assert small.summary["decompositions"]["signs"]["groups"] is not None


def test_each_head_is_weighted_by_those_that_have_its_subtask(tmp_path: Path) -> None:
    """The encoder is the mean by examples; a head that one site alone trains is that site's."""
    only = {"alpha": {"subtasks": ["shape", "edges", "coin"]}, "beta": {"subtasks": ["edges", "coin"]}}
    profiles = {name: {"device": "cpu", **profile} for name, profile in only.items()}
    small = run(family(tmp_path, sites=profiles, rounds=2, signs={"merge_rounds": 1}), tmp_path)
    sent = [unpack(m.content, Contribution) for m in small.grid.answers("train.joint")][:2]
    arrays = {said.site: (said.num_examples, found) for said, found in sent}
    later = next(m for m, _ in small.grid.passed if m.metadata.message_type == "evaluate.model")
    _, merged = unpack(later.content, _request())
    (n_a, a), (n_b, b) = arrays["alpha"], arrays["beta"]
    for name, array in merged.items():
        if f"encoder/{name}" in a:
            expected = (n_a * a[f"encoder/{name}"] + n_b * b[f"encoder/{name}"]) / (n_a + n_b)
            assert np.allclose(array, expected, atol=1e-6)
        else:
            assert np.allclose(array, a[f"head/shape/{name.rpartition('.')[2]}"], atol=1e-7)


def _request() -> Any:
    from protocol.messages import EvaluationRequest

    return EvaluationRequest


def test_a_family_is_ready_to_be_simulated(tmp_path: Path) -> None:
    """What was resolved is resolved again to the same; attacks on weights are refused on it."""
    from simulations.simulate import Order, simulate

    made = scenario(family(tmp_path))
    assert parse(made.model_dump(mode="json", exclude_none=True), "again") == made
    profiles = {"alpha": {"device": "cpu", "attack": "sign_flip"}, "beta": {"device": "cpu"}}
    attacked = scenario(family(tmp_path, sites=profiles))
    with pytest.raises(ConfigError, match="not defined on a shared encoder; there: label_flip"):
        simulate(attacked, Order("r", tmp_path), lambda _: None)
