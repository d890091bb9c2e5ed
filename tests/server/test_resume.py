"""A run that was cut off goes on: nothing that is on its record is asked, done or counted again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from clients.app import app as client_app
from protocol.errors import ConfigError, RunError, UserError
from protocol.records import parts_of
from server import wall_courier
from server.conductor import EndedError
from server.courier import Letter
from server.federation import Terms, federate, to_toml
from server.flwr_adapter import task_identity
from server.journal.store import JournalError
from server.open_record import open_record
from server.provenance import Provenance
from server.record import DivergedError, Record
from server.runlog import begun, read, replay, rows
from server.summary import read_summary
from server.wall_courier import WallCourier
from simulations import simulate as engine_room
from tests.command import command
from tests.fault_cases import app_with, contribution
from tests.server.grid_cases import NODES, FakeGrid, answer, letter
from tests.small import Answerer, RecordingGrid, Small, Tables, run, scenario, tables

TABLES = tables(rounds=3)


class _Killed(BaseException):
    """The process ends here."""


def cut_off(made: Tables, folder: Path, at: str, name: str = "r") -> list[str]:
    """Begin a run and end it at the first news of type ``at`` after round 1; return what sites were asked."""
    collaboration = scenario(made)
    grid = RecordingGrid(client_app, len(collaboration.sites), {"collaboration": to_toml(collaboration)})
    rounds = 0

    def listen(news: Mapping[str, Any]) -> None:
        nonlocal rounds
        rounds += news["type"] == "round"
        if rounds and news["type"] == at:
            raise _Killed

    terms = Terms(name, folder / name, "simulated", "local", baselines=False)
    with task_identity(grid.run.run_id), pytest.raises(_Killed):
        federate(grid, collaboration, terms, listen, grid)
    return questions(grid)


def go_on(made: Tables, folder: Path, name: str = "r", app: Answerer = client_app) -> Small:
    """Go on with it in a fresh federation, whose sites remember nothing by themselves."""
    collaboration = scenario(made)
    grid = RecordingGrid(app, len(collaboration.sites), {"collaboration": to_toml(collaboration)})
    terms = Terms(name, folder / name, "simulated", "local", baselines=False)
    with task_identity(grid.run.run_id):
        summary = federate(grid, collaboration, terms, None, grid)
    return Small(summary, folder / name, grid)


def questions(grid: RecordingGrid) -> list[str]:
    """Return all that sites were asked, as text."""
    asked = [(m.metadata.dst_node_id, m.metadata.message_type, m.content) for m, _ in grid.passed]
    return [repr((node, kind, parts_of(content))) for node, kind, content in asked]


def bare(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary without what tells how long it really took, and how often it was begun."""
    totals = {k: v for k, v in summary["totals"].items() if k != "wall_s"}
    return {k: v for k, v in summary.items() if k not in ("processes", "totals")} | {"totals": totals}


@pytest.mark.parametrize("at", ["decided", "assigned", "arrived", "evaluated", "stage"])
def test_a_run_that_was_cut_off_comes_to_the_same(at: str, tmp_path: Path) -> None:
    """Models, summary and events are those of a run that was not; each question was put once."""
    whole = run(TABLES, tmp_path / "whole")
    before = cut_off(TABLES, tmp_path / "cut", at)
    found = go_on(TABLES, tmp_path / "cut")
    assert found.models() == whole.models()
    assert bare(found.summary) == bare(whole.summary)
    assert list(read(found.folder)) == list(read(whole.folder))
    assert sorted(before + questions(found.grid)) == sorted(questions(whole.grid))
    assert found.summary["processes"] == 2
    assert replay(found.folder, scenario(TABLES)).ended


def test_what_was_sent_and_not_answered_is_asked_again(tmp_path: Path) -> None:
    """The process dies once its letters are on the record and before any answer is."""
    whole = run(TABLES, tmp_path / "whole")

    class Dying(RecordingGrid):
        """Has every site work on its first assignment, and takes no answer."""

        def _answer(self, message: Message) -> Message:
            reply = super()._answer(message)
            if message.metadata.message_type == "train.weights":
                raise _Killed
            return reply

    with pytest.raises(_Killed):
        run(TABLES, tmp_path / "cut", grid=Dying)
    found = go_on(TABLES, tmp_path / "cut")
    assert found.models() == whole.models()
    asked = [m for m, _ in found.grid.passed if m.metadata.message_type == "train.weights"]
    assert len(asked) == 9


def test_a_site_that_goes_on_elsewhere_is_told(tmp_path: Path) -> None:
    """What it computed on before is known from the journal. Its contribution counts; the summary says it."""
    cut_off(TABLES, tmp_path, "decided")
    moved = app_with(contribution(computed_on="0" * 16), "train.weights")
    found = go_on(TABLES, tmp_path, app=moved)
    (note,) = [note for note in found.summary["notes"] if "another device" in note]
    assert note.startswith("beta: computes on")
    assert note.endswith("the bits of a run without a crash are not promised")
    assert found.outcomes("beta") == ["contributed"] * 3


def test_a_run_that_has_ended_is_not_done_again(tmp_path: Path) -> None:
    """Its summary is given, no site is asked, and what it kept for going on is gone."""
    whole = run(TABLES, tmp_path)
    before = whole.models()
    found = go_on(TABLES, tmp_path)
    assert (found.summary, found.grid.passed) == (read_summary(whole.folder), [])
    assert found.models() == before
    assert list((whole.folder / "content").glob("*")) == []


def test_a_run_that_stopped_for_its_coverage_stays_stopped(tmp_path: Path) -> None:
    """To go on would come to the same: its error is given again, and nobody is asked."""
    made = tables(rounds=2, coordination={"min_coverage": 0.9, "deadline_s": 5, "join_s": 1})
    made["sites"]["alpha"]["dropout"] = 0.999
    with pytest.raises(RunError, match="min_coverage") as first:
        go_on(made, tmp_path)
    with pytest.raises(RunError, match="min_coverage") as second:
        go_on(made, tmp_path)
    assert str(first.value) == str(second.value)
    assert not isinstance(second.value, EndedError)


def test_other_terms_are_refused(tmp_path: Path) -> None:
    """A name stands for one collaboration: another under it would mix two runs."""
    cut_off(TABLES, tmp_path, "arrived")
    with pytest.raises(ConfigError, match="began with another collaboration"):
        go_on(tables(rounds=4), tmp_path)
    assert go_on(TABLES, tmp_path).summary["ended"] == "all 3 rounds are done"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """Files that no run of ours wrote are in the way of one."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="is there already"):
        go_on(TABLES, tmp_path)
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["thesis.txt"]


def test_another_decision_is_found_at_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that decides otherwise does not go on as if it had decided so from the start."""
    cut_off(TABLES, tmp_path, "evaluated")
    monkeypatch.setattr("collab.rounds.MAX_ATTEMPTS", 3)
    monkeypatch.setattr("collab.rounds.Rounds._wait", lambda _: [])
    with pytest.raises(DivergedError, match=r"'event' of .* is not what the journal says; resume it with"):
        go_on(TABLES, tmp_path)


def test_arrays_that_are_gone_end_the_run_where_it_is(tmp_path: Path) -> None:
    """Without what an aggregation came to there is no going on, and no beginning from something else."""
    made = tables({"digits": {**TABLES["subtasks"]["iris"], "models": ["mlp_small"]}}, rounds=3)
    cut_off(made, tmp_path, "evaluated")
    merged = [row.body for row in rows(tmp_path / "r") if row.kind == "aggregated"]
    refs = [kept["at"] for body in merged for kept in body["arrays"].values()]
    lost = next(tmp_path / "r" / "content" / ref for ref in refs if not ref.startswith("="))
    lost.write_bytes(lost.read_bytes()[:-1] + b"?")
    with pytest.raises(JournalError, match="is damaged"):
        go_on(made, tmp_path)


def test_the_command_goes_on_with_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``consilium resume FOLDER`` needs nothing but the folder."""
    consilium = command(monkeypatch, capsys)
    whole = run(TABLES, tmp_path / "whole")
    cut_off(TABLES, tmp_path / "cut", "arrived")
    summary = json.loads(consilium("resume", tmp_path / "cut" / "r", "--json").out)
    assert summary["ended"] == "all 3 rounds are done"
    found = sorted((tmp_path / "cut" / "r" / "models").rglob("*.safetensors"))
    assert [f.read_bytes() for f in found] == list(whole.models().values())
    assert "report.html" in consilium("resume", tmp_path / "cut" / "r").out


def test_the_command_says_what_it_cannot_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of Flower's engine, and a folder without a journal."""
    consilium = command(monkeypatch, capsys)
    collaboration = scenario(TABLES)
    (tmp_path / "f").mkdir()
    terms = Terms("f", tmp_path / "f", "simulated", "flower").on_record(to_toml(collaboration))
    open_record(tmp_path / "f", "f", terms).close()
    assert begun(tmp_path / "f")["engine"] == "flower"
    with pytest.raises(UserError, match="engine 'flower' is not resumed here: its sites remembered"):
        engine_room.resume(tmp_path / "f", lambda _: None)
    ended = consilium("resume", tmp_path / "nothing", "--kit", tmp_path)
    assert ended.code == 2


# -- real time --------------------------------------------------------------------------------------


class _Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.at

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.at += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Clock]:
    """The clock of the couriers."""
    made = _Clock()
    monkeypatch.setattr(wall_courier, "time", made)
    with task_identity(7):
        yield made


def _opened(folder: Path) -> Record:
    return open_record(folder, "r", {})


def test_time_stands_still_while_no_process_works_on_a_run(tmp_path: Path, clock: _Clock) -> None:
    """A deadline of 60 s that had 50 s left has 50 s left, however long the server was down."""
    with _opened(tmp_path) as record:
        courier = WallCourier(FakeGrid(answer, order={0: 1, 1: 0}).grid, {"north": 12}, record)
        clock.at += 10
        courier.send([letter("north")])
        arrival = courier.next(60)
        assert arrival is not None
        assert arrival.at_s == courier.now_s == 10
    clock.at += 5000
    with _opened(tmp_path) as record:
        courier = WallCourier(FakeGrid(answer).grid, {"north": 12}, record)
        courier.send([letter("north")])
        again = courier.next(60)
        assert again is not None
        assert (again.at_s, again.content, courier.now_s) == (arrival.at_s, arrival.content, 10)
        began = clock.at
        assert courier.next(60) is None
        assert clock.at - began == pytest.approx(50, abs=0.1)
        assert courier.now_s == pytest.approx(60, abs=0.1)
        record.commit()
    with _opened(tmp_path) as record:
        courier = WallCourier(FakeGrid(answer).grid, {"north": 12}, record)
        courier.send([letter("north")])
        courier.next(60)
        assert courier.next(60) is None
        assert courier.now_s == pytest.approx(60, abs=0.1)


class _Remembering(FakeGrid):
    """A grid whose sites remember."""

    def __init__(self) -> None:
        super().__init__(answer)
        self.took_over: list[Any] = []

    def provenance(self, message_id: str) -> Provenance | None:
        """Every answer moves its site's memory on."""
        return Provenance(b"a" * 32, b"s" * 64, moves=True, version=message_id.encode().ljust(32))

    def go_on(self, nodes: Mapping[str, int], versions: Mapping[str, bytes]) -> None:
        """Note what it goes on from."""
        self.took_over.append((dict(nodes), dict(versions)))


@pytest.mark.usefixtures("clock")
def test_the_versions_that_sites_had_reached_are_on_record(tmp_path: Path) -> None:
    """With the digest that was asked and the signature; whoever takes over goes on from there."""
    with _opened(tmp_path) as record:
        courier = WallCourier(_Remembering().grid, NODES, record)
        courier.send([letter("north"), letter("east")])
        assert courier.next(60)
        assert courier.next(60)
    received = [one for row in rows(tmp_path) if row.kind == "received" for one in row.body["replies"]]
    assert {one["site"]: bytes.fromhex(one["version"]).strip() for one in received} == {
        "north": b"m0",
        "east": b"m1",
    }
    assert all(one["asked"] == "61" * 32 and one["signature"] == "73" * 64 for one in received)
    grid = _Remembering()
    with _opened(tmp_path) as record:
        courier = WallCourier(grid.grid, NODES, record)
        courier.send([letter("north"), letter("east")])
        assert grid.took_over == []
        assert [courier.next(60), courier.next(60)]
        assert courier.next(0) is None
    versions = {"north": b"m0".ljust(32), "east": b"m1".ljust(32)}
    assert grid.took_over == [(NODES, versions)]
    assert grid.pushed == []


def test_a_question_that_changed_is_found(tmp_path: Path, clock: _Clock) -> None:
    """What is asked now is not what was asked then: the run does not go on."""
    del clock
    with _opened(tmp_path) as record:
        WallCourier(FakeGrid(answer).grid, NODES, record).send([letter("north")])
    with _opened(tmp_path) as record, pytest.raises(DivergedError, match="to east about east is not the one"):
        WallCourier(FakeGrid(answer).grid, NODES, record).send([letter("east")])


class _Silent(FakeGrid):
    """A grid whose sites never answer."""

    def pull_messages(self, message_ids: Any) -> Any:
        """Return nothing."""
        del message_ids
        return []


def _training(round_: int, site: str = "north") -> Letter:
    about = f"r/{round_}/a/{site}/1"
    return replace(letter(site), message_type="train.weights", about=about, round=round_)


def test_only_the_newest_assignment_is_asked_again(tmp_path: Path, clock: _Clock) -> None:
    """Work of an earlier round, which nobody waits for, would keep a site from what it is at now."""
    del clock
    with _opened(tmp_path) as record:
        courier = WallCourier(_Silent(answer).grid, NODES, record)
        for round_ in (1, 2, 3):
            courier.send([_training(round_), _training(round_, "east")])
            assert courier.next(round_ * 10.0) is None
        courier.dismiss("east")
        record.commit()
    grid = FakeGrid(answer)
    with _opened(tmp_path) as record:
        courier = WallCourier(grid.grid, NODES, record)
        for round_ in (1, 2, 3):
            courier.send([_training(round_), _training(round_, "east")])
            assert courier.next(round_ * 10.0) is None
        courier.dismiss("east")
        assert grid.pushed == []
        arrival = courier.next(60)
    assert [m.metadata.dst_node_id for m in grid.pushed] == [NODES["north"]]
    assert arrival is not None
    assert arrival.letter.about == "r/3/a/north/1"
