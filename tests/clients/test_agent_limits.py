"""A site's agent: what the server itself may not ask for, what leaves, and that an answer always comes."""

from __future__ import annotations

import ast
import importlib
import json
import sqlite3
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

from clients import serving
from clients.flwr_adapter import Job
from clients.serving import serve
from protocol.bounds import Frozen
from protocol.header import digest
from protocol.messages import LocalModel, Refusal
from protocol.records import pack, parts_of, take_seal, unpack, with_seal
from protocol.work import CANCEL, POLL, REFUSAL, START, Cancel, Poll
from tests.clients.agent_cases import (
    ASKED,
    BUNDLE,
    QUERY,
    TASK,
    WEIGHTS,
    Desk,
    contribution,
    desk,
    job,
    kits,
    refusal,
)

ROOT = Path(__file__).parent.parent.parent
__all__ = ["desk", "kits"]
NAMES = ["agent", "serving", "flwr_adapter", "node", "bench", "worker_line", "worker", "up"]


@pytest.mark.parametrize(
    ("bundle", "name"),
    [(b"other code", ""), (BUNDLE + b"\0", ""), (b"other code", "the site's"), (BUNDLE, "0" * 64)],
)
def test_another_release_is_refused_by_name_and_by_content(desk: Desk, bundle: bytes, name: str) -> None:
    """Other code, under its own digest or the site's; the site's own under another."""
    name = desk.agent.bundle if name == "the site's" else name
    said = refusal(desk, desk.ask(QUERY, bundle=bundle, bundle_name=name))
    assert said.code == "version"
    assert "install the same one on both" in said.detail
    assert desk.bench.puts == []


def test_what_the_server_sent_as_an_app_is_never_opened(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared with the installed one; nothing unpacks, installs or imports it."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the bundle was opened")

    monkeypatch.setattr(zipfile, "ZipFile", never)
    monkeypatch.setattr("flwr.cli.install.install_from_fab", never)
    monkeypatch.setattr(importlib, "import_module", never)
    before = set(sys.modules), list(sys.path)
    desk.bench.auto = contribution()
    assert desk.open(desk.ask(QUERY))[0].kind == "train.weights"
    assert refusal(desk, desk.ask(QUERY, bundle=b"PK\x03\x04")).code == "version"
    assert (set(sys.modules), list(sys.path)) == before


@pytest.mark.parametrize("name", NAMES)
def test_no_site_process_knows_how_to_open_a_bundle(name: str) -> None:
    """No import of what unpacks or loads code, nor of Flower's executor for apps."""
    tree = ast.parse((ROOT / "clients" / f"{name}.py").read_text(encoding="utf-8"))
    names = {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for part in (getattr(node, "module", "") or "", *(alias.name for alias in node.names))
    }
    forbidden = {"zipfile", "importlib", "zipimport", "runpy", "pickle", "run_clientapp", "install_from_fab"}
    assert not names & forbidden


def test_a_server_process_that_was_replaced_is_refused(desk: Desk) -> None:
    """Whatever it asks for."""
    desk.ask(QUERY, lease=4)
    asked = ASKED.hex()
    for how, said in ((START, QUERY), (POLL, Poll(asked=asked, hold_s=0)), (CANCEL, Cancel(asked=asked))):
        header, record = desk.open(desk.ask(said, how, lease=3))
        assert unpack(record, Refusal)[0].code == "run"
        assert header.answers == digest(parts_of(pack(said)))[0]
    assert desk.bench.puts[0].state == "waiting"


def test_a_server_that_asks_for_two_things_as_one_is_refused(desk: Desk) -> None:
    """The same assignment with another content, by whichever process of it."""
    desk.bench.auto = contribution()
    desk.ask(QUERY)
    other = QUERY.model_copy(update={"model": "other"})
    assert refusal(desk, desk.ask(other)).code == "equivocation"
    desk.agent_now().bench.auto = contribution()  # type: ignore[attr-defined]
    assert refusal(desk, desk.ask(other, lease=2)).code == "equivocation"
    assert desk.bench.puts == []
    after = desk.open(desk.ask(QUERY, lease=2))[0].previous
    answer = desk.ask(other, kind="evaluate.model", lease=2, previous=after)
    assert desk.open(answer)[0].kind == REFUSAL  # no Evaluation
    assert len(desk.bench.puts) == 1


@pytest.mark.parametrize(
    ("said", "how", "kind"),
    [
        (QUERY, START, "query.rows"),
        (QUERY, START, "train.everything"),
        (QUERY, "query.work_steal", "train.weights"),
        (QUERY, "train.weights", "train.weights"),
        (QUERY, POLL, "work.poll"),
        (Poll(asked="0" * 64), CANCEL, "work.cancel"),
    ],
)
def test_a_question_that_sites_do_not_know_is_refused(desk: Desk, said: Frozen, how: str, kind: str) -> None:
    """By the kind in its seal, by its type, and by a content that is not the type's."""
    assert refusal(desk, desk.ask(said, how, kind=kind)).code == "message"
    assert desk.bench.puts == []


# What leaves.


def test_what_the_rules_forbid_is_kept_back(desk: Desk) -> None:
    """The server hears that it was, and not what; nothing of it is kept as an answer."""
    desk.bench.auto = pack(LocalModel(site="north", subtask="risk", model="secret"), WEIGHTS)
    answer = desk.ask(QUERY, kind="query.local_model")
    assert answer is not None
    assert b"secret" not in b"".join(parts_of(take_seal(answer)[0]))
    said = refusal(desk, answer)
    assert said.code == "egress"
    assert "[egress] models" in said.detail
    assert desk.agent.ledger.result("r", desk.bench.puts[0].asked) is None


def test_each_answer_is_written_down_without_what_it_says(desk: Desk) -> None:
    """One line: when, in which run, what kind, about what, and how long."""
    desk.bench.auto = contribution(model="secret")
    desk.ask(QUERY)
    desk.ask(QUERY, bundle=b"other")
    lines = desk.audit()
    first, second = map(json.loads, lines)
    assert set(first) == set(second) == {"at", "run", "kind", "task", "bytes"}
    assert (first["run"], first["kind"], first["task"]) == ("r", "train.weights", TASK)
    assert first["bytes"] == sum(map(len, parts_of(contribution(model="secret"))))
    assert abs(first["at"] - time.time()) < 60
    assert second["kind"] == REFUSAL
    assert "secret" not in "".join(lines)
    desk.agent_now()
    assert desk.audit() == lines


# An answer comes, whatever happens.


def test_an_error_that_nobody_thought_of_is_refused_by_its_name(desk: Desk) -> None:
    """A SuperNode waits without end: it gets an answer, which tells nothing of the site."""

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("disk full at /secret/path")

    desk.agent.ledger.fence = full  # type: ignore[method-assign]
    said = refusal(desk, desk.ask(QUERY))
    assert said == Refusal(code="site", detail="OperationalError at the site; its log says more")


class Given:
    """In the place of a desk: hands on what it is given, and keeps what comes back."""

    def __init__(self, *jobs: Any) -> None:
        self.jobs, self.given, self.dropped = list(jobs), list[Any](), 0

    def take(self) -> Any:
        """The next message, or the error in its place."""
        if not self.jobs:
            return None
        if isinstance(found := self.jobs.pop(0), BaseException):
            raise found
        return found

    def give(self, asked: Job, content: RecordDict | None, why: str = "") -> None:
        """Keep an answer."""
        self.given.append((asked, content))
        if content is not None and asked.bundle == b"gone":
            raise httpx.ReadError("the SuperNode was restarted")

    def drop(self) -> None:
        """Count it."""
        self.dropped += 1


def _serve(desk: Desk, given: Given) -> None:
    until = time.monotonic() + 10
    serve(desk.agent, given, lambda: not given.jobs or time.monotonic() > until)  # type: ignore[arg-type]
    assert not given.jobs


def test_every_message_is_given_an_answer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own error where there is nothing to say, or nothing that could be written down."""
    monkeypatch.setattr(serving, "_SLOW_S", 0.01)
    strange, good = job(pack(QUERY)), job(with_seal(*desk.sealed(QUERY)))
    given = Given(strange, good)
    _serve(desk, given)
    assert [content is None for _, content in given.given] == [True, False]
    desk.agent._audit.close()
    given = Given(job(with_seal(*desk.sealed(QUERY))))
    _serve(desk, given)
    assert [content for _, content in given.given] == [None]
    desk.agent._audit = desk.agent.kit.state.joinpath("audit.jsonl").open("a", encoding="utf-8")


def test_a_message_that_is_lost_is_not_the_last(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SuperNode may have been restarted, or its message be malformed: the next one is answered."""
    monkeypatch.setattr(serving, "_SLOW_S", 0.01)
    errors = [httpx.ConnectError("x"), ObjectPullError("id", "gone"), KeyError("x"), RuntimeError("x")]
    gone = replace(job(with_seal(*desk.sealed(QUERY))), bundle=b"gone")
    good = job(with_seal(*desk.sealed(QUERY)))
    given = Given(*errors, gone, good)
    desk.agent.bench.counters = {"data_loads": 3}
    _serve(desk, given)
    assert [asked for asked, _ in given.given] == [gone, good]
    assert given.dropped == len(errors) + 1
    counted = desk.agent.kit.state.joinpath("counters.json").read_text(encoding="utf-8")
    assert json.loads(counted) == {"data_loads": 3}


def test_the_agent_needs_no_large_library() -> None:
    """It holds the keys, and its imports are what it trusts with them."""
    code = (
        "import sys, clients.agent\n"
        "large = {'torch', 'scipy', 'pandas', 'sklearn', 'PIL', 'pyarrow', 'matplotlib'}\n"
        "print(sorted(large & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
