"""Whatever one site sends, its contribution is rejected with a code and the others' result is what it was."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from protocol.arrays import digest, spec_of
from protocol.codec import decode, encode
from protocol.errors import ConsiliumError, RunError
from protocol.messages import Assignment, Capability, Contribution, DataSummary, Evaluation
from protocol.records import ARRAYS, BLOB, HEAD, unpack
from server.courier import Arrival, Letter
from server.federation import Terms, federate, to_toml
from server.flwr_adapter import task_identity
from server.gate import Demand
from server.runlog import replay
from tests.fault_cases import Fault, app_with, fails, gives, says
from tests.hostile_cases import (
    ANY,
    NOTHING_WRONG,
    SOFT_LABELS_ALONE,
    WEIGHTS_ALONE,
    given,
    mutated,
    record_of,
    unchanged,
)
from tests.small import NAMES, SOFT_LABELS, Named, RecordingGrid, Small, Tables, run, scenario, tables

WEIGHT_CASES = {**ANY, **WEIGHTS_ALONE}
MUTATIONS = 600


def _one_a_round(faults: Mapping[str, Fault]) -> Fault:
    """Return a fault that is another one in each round, in order of name."""
    order = sorted(faults)

    def fault(message: Message, reply: Message) -> Message:
        assignment, _ = unpack(message.content, Assignment)
        return faults[order[assignment.round - 1]](message, reply)

    return fault


def _pair(made: Tables, faults: Mapping[str, Fault], message_type: str, folder: Path) -> tuple[Small, Small]:
    """Return a run with a fault of ``beta`` in each round, and one in which it never answers."""
    made["rounds"] = len(faults)
    hostile = run(made, folder / "hostile", app=app_with(_one_a_round(faults), message_type))
    return hostile, run(made, folder / "silent", app=app_with(fails, message_type))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Small, Small]:
    """Every hostile contribution of weights, one a round."""
    faults = {what: fault for what, (fault, _) in WEIGHT_CASES.items()}
    return _pair(tables(), faults, "train.weights", tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def soft_labels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Small, Small]:
    """Every hostile contribution of soft labels, one a round."""
    faults = {what: fault for what, (fault, _) in SOFT_LABELS_ALONE.items()}
    made = tables({"wine": SOFT_LABELS})
    return _pair(made, faults, "train.soft_labels", tmp_path_factory.mktemp("soft"))


def _assert_rejected(found: Small, cases: Mapping[str, tuple[Fault, str]], what: str) -> None:
    """Say of one case that it was rejected with its code, in the summary and to a listener."""
    index = sorted(cases).index(what)
    row = [row for row in found.summary["allocations"] if row["site"] == "beta"][index]
    assert (row["outcome"], row["detail"].split(":")[0]) == ("rejected", cases[what][1])
    assert row["detail"].isprintable()
    told = [t for t in found.told if t["type"] == "rejected"][index]
    assert (told["site"], told["code"]) == ("beta", cases[what][1])
    assert found.summary["coverage"][index]["contributed"] == len(NAMES) - 1


@pytest.mark.parametrize("what", sorted(WEIGHT_CASES))
def test_hostile_weights_are_rejected(what: str, weights: tuple[Small, Small]) -> None:
    """Each is rejected under the site's name with its code, and the others are merged."""
    _assert_rejected(weights[0], WEIGHT_CASES, what)


@pytest.mark.parametrize("what", sorted(SOFT_LABELS_ALONE))
def test_hostile_soft_labels_are_rejected(what: str, soft_labels: tuple[Small, Small]) -> None:
    """Each is rejected under the site's name with its code, and the others are combined."""
    _assert_rejected(soft_labels[0], SOFT_LABELS_ALONE, what)


@pytest.mark.parametrize("pair", ["weights", "soft_labels"])
def test_the_honest_result_does_not_change(pair: str, request: pytest.FixtureRequest) -> None:
    """Bit for bit the models, and in every round the validation, are those of a run without that site."""
    hostile, silent = request.getfixturevalue(pair)
    assert hostile.models() == silent.models()
    (ours,), (theirs,) = (s.summary["subtasks"].values() for s in (hostile, silent))
    assert [p["value"] for p in ours["curve"]] == [p["value"] for p in theirs["curve"]]
    assert "Traceback" not in hostile.everything()


def test_the_log_of_rejections_replays(weights: tuple[Small, Small]) -> None:
    """What was rejected stands in the run log, and the log gives the same instructions again."""
    found = weights[0]
    _, _, ended = replay(found.folder, scenario(tables(rounds=len(WEIGHT_CASES))))
    assert ended
    assert sum(body["event"]["type"] == "rejected" for body in found.log()) == len(WEIGHT_CASES)


@pytest.mark.parametrize("what", [*sorted(NOTHING_WRONG), "zero change"])
def test_nothing_is_wrong_with_nothing(what: str, tmp_path: Path) -> None:
    """Zero weights and zero change are a site's good right."""
    fault = {**NOTHING_WRONG, "zero change": unchanged}[what]
    found = run(tables(), tmp_path, app=app_with(fault, "train.weights"))
    assert found.outcomes("beta") == ["contributed"]
    assert not found.notes


RAISED = (RecursionError, MemoryError, ValueError, TypeError, KeyError, OverflowError, AssertionError)
CELL = "cell 4711 of Jane Doe"


class BrokenGrid(RecordingGrid):
    """Raises where the contribution of ``beta`` is pulled, something else each round."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return replies, or raise."""
        found = list(super().pull_messages(message_ids))
        for reply in found:
            asked = next(m for m, r in self.passed if r is reply)
            if asked.metadata.message_type == "train.weights" and asked.metadata.dst_node_id == 2:
                assignment, _ = unpack(asked.content, Assignment)
                raise RAISED[assignment.round - 1](CELL)
        return found


def test_a_reply_that_cannot_be_pulled_is_its_sites_alone(tmp_path: Path) -> None:
    """Whatever pulling one reply raises, that site is rejected, and the others go on as without it."""
    found = run(tables(rounds=len(RAISED)), tmp_path / "b", grid=BrokenGrid)
    silent = run(tables(rounds=len(RAISED)), tmp_path / "s", app=app_with(fails, "train.weights"))
    assert found.outcomes("beta") == ["rejected"] * len(RAISED)
    rows = [row["detail"] for row in found.summary["allocations"] if row["site"] == "beta"]
    assert [row.split(":")[0] for row in rows] == ["reply"] * len(RAISED)
    assert found.models() == silent.models()
    assert CELL not in found.everything() + found.notes


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, RunError, ConnectionError])
def test_what_is_no_replys_fault_ends_the_run(kind: type[BaseException], tmp_path: Path) -> None:
    """A person's Ctrl-C, our own end of a run and a lost link are nobody's contribution."""

    class EndingGrid(RecordingGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            raise kind("over")

    with pytest.raises(kind, match="over"):
        run(tables(), tmp_path, grid=EndingGrid)


class SecondErrorGrid(RecordingGrid):
    """Answers every message, and then says that the site failed."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return each reply with an error after it, and before it."""
        found = list(super().pull_messages(message_ids))
        asked = {id(reply): message for message, reply in self.passed}
        late = [Message(Error(code=2), reply_to=asked[id(reply)]) for reply in found]
        return [m for error, reply in zip(late, found, strict=True) for m in (error, reply, error)]


def test_an_error_beside_an_answer_is_not_counted(tmp_path: Path) -> None:
    """A site that has answered, at the door too, has not failed, whatever else comes for the message."""
    collaboration = scenario(tables(rounds=2))
    over = SecondErrorGrid(_app(), len(NAMES), {"collaboration": to_toml(collaboration)})
    with task_identity(over.run.run_id):
        summary = federate(over, collaboration, Terms("r", tmp_path / "r", "wall"))
    found = Small(summary, tmp_path / "r", over)
    assert all(found.outcomes(site) == ["contributed"] * 2 for site in NAMES)
    assert found.models() == run(tables(rounds=2), tmp_path / "once").models()
    assert not found.notes


def _app() -> Callable[..., Message]:
    return app_with(fails, "no such type")


EVALUATIONS: Mapping[str, tuple[Fault, str]] = {
    "more rows than it has": (says(Evaluation, num_examples=10**6), "more validation rows"),
    "another site": (says(Evaluation, site="alpha"), "another site's name"),
    "too many bytes": (gives(lambda a: a | {"x": np.zeros(10**6)}), "at most"),
    "too many arrays": (
        gives(lambda a: a | {f"x{i}": np.zeros(0) for i in range(5000)}),
        "allowed here|at most",
    ),
    "infinite": (gives(lambda a: a | {"loss_sum": np.full(1, math.inf)}), "NaN or infinite|other names"),
}


@pytest.mark.parametrize("what", sorted(EVALUATIONS))
def test_hostile_evaluations_are_left_out(what: str, tmp_path: Path) -> None:
    """Statistics are bounded as contributions are: the site's are not used, and a note says why."""
    fault, why = EVALUATIONS[what]
    found = run(tables(), tmp_path / "h", app=app_with(fault, "evaluate.model"))
    silent = run(tables(), tmp_path / "s", app=app_with(fails, "evaluate.model"))
    assert [n.split(":")[0] for n in found.summary["notes"]] == ["beta"]
    assert re.search(why, found.notes)
    assert found.models() == silent.models()


@pytest.mark.parametrize("kind", ["query.summary", "train.finish", "evaluate.fusion", "query.local_model"])
def test_arrays_that_are_too_many_are_left_out_everywhere(kind: str, tmp_path: Path) -> None:
    """No answer of whatever sort brings more than was asked for."""
    made = tables(allocation={"policy": "everyone"})

    def bloated(message: Message, reply: Message) -> Message:
        more = {"x": np.zeros(10**6)}

        return Message(
            RecordDict({HEAD: reply.content[HEAD], ARRAYS: record_of(encode(more))}), reply_to=message
        )

    found = run(made, tmp_path, app=app_with(bloated, kind))
    asked = [m for m, _ in found.grid.passed if m.metadata.message_type == kind]
    assert not asked or "more than the" in found.notes


def test_a_row_names_as_many_classes_as_were_asked_for(tmp_path: Path) -> None:
    """Of the likeliest classes exactly as many travel as the assignment says, no fewer and no more."""
    made = tables({"wine": {**SOFT_LABELS, "wire": {"form": "topk", "top_k": 2}}})

    def one(arrays: Named) -> Named:
        return {name: array[:, :1].copy() for name, array in arrays.items()}

    found = run(made, tmp_path, app=app_with(given(one), "train.soft_labels"))
    assert found.outcomes("beta") == ["rejected"]
    assert "has shape (40, 1, 1), expected (40, 2, 1)" in found.notes


# -- rows that a site may claim ---------------------------------------------------------------------


def _capped(folder: Path, cap: int, fault: Fault | None = None, kind: str = "query.capability") -> Small:
    made = tables(coordination={"join_s": 0, "sites": 2, "min_coverage": 0.0})
    collaboration = scenario(made)
    app = _app() if fault is None else app_with(fault, kind)
    over = RecordingGrid(app, len(NAMES), {"collaboration": to_toml(collaboration)})
    terms = Terms("r", folder / "r", "simulated", "local", max_examples={"beta": cap})
    with task_identity(over.run.run_id):
        return Small(federate(over, collaboration, terms), folder / "r", over)


def test_who_claims_more_rows_than_its_cap_is_refused(tmp_path: Path) -> None:
    """A site is turned away at the door with a code, or left out where its statistics say more."""
    at_door = _capped(tmp_path / "a", 3, says(Capability, subtasks={"iris": 10**12}))
    assert "a node did not join: limit: 'beta'" in at_door.notes
    assert at_door.outcomes("beta") == []
    by_summary = _capped(tmp_path / "b", 3)
    assert "beta: left out of iris: limit: " in by_summary.notes
    assert by_summary.outcomes("beta") == []
    greedy = says(DataSummary, train=10**12)
    assert "limit" in _capped(tmp_path / "c", 10**3, greedy, "query.summary").notes


def test_who_claims_no_more_than_its_cap_takes_part(tmp_path: Path) -> None:
    """A cap that is not reached changes nothing."""
    assert _capped(tmp_path, 10**6).outcomes("beta") == ["contributed"]


# -- mutations ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecordDict, Demand]:
    """A valid contribution and what it was to be."""
    found = run(tables(), tmp_path_factory.mktemp("honest"))
    content = found.grid.answers("train.weights")[1].content
    said, arrays = unpack(content, Contribution)
    rows = (said.num_examples, said.num_examples)
    return content, Demand(said.id, said.model, said.exchange, spec_of(arrays), rows, 3, 1e9)


def test_mutations_are_rejected_or_change_nothing(honest: tuple[RecordDict, Demand]) -> None:
    """Of many changed records each is refused by an error of ours, or says exactly the same."""
    content, demand = honest
    said, arrays = unpack(content, Contribution)
    rng, accepted, said_why = np.random.default_rng(4711), 0, list[str]()
    letter = Letter(said.site, "train.weights", RecordDict(), said.id, said.round)
    for _ in range(MUTATIONS):
        arrival = Arrival(letter, 0.0, mutated(content, rng))
        try:
            told, found = arrival.admit(demand)
        except ConsiliumError as error:
            said_why.append(str(error))
            continue
        accepted += 1
        # Checked by the learner; and what nothing but a note depends on.
        free = {"examples_processed", "steps", "looked", "accuracy", "class_counts", "computed_on"}
        assert told.model_dump(exclude=free) == said.model_dump(exclude=free)
        assert digest(found) == digest(arrays)
    assert accepted < MUTATIONS / 2
    assert all(why.isprintable() for why in said_why)


def test_the_honest_record_passes(honest: tuple[RecordDict, Demand]) -> None:
    """What the mutations start from is accepted as it is."""
    content, demand = honest
    letter = Letter("beta", "train.weights", RecordDict(), demand.key, 1)
    said, arrays = Arrival(letter, 0.0, content).admit(demand)
    assert said.id == demand.key
    assert digest(arrays) == digest(decode(content.array_records[ARRAYS][BLOB].data, 10**6)) == said.digest
