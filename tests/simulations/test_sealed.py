"""Sealed simulations: the bits of a plain one, and nothing that the site did not seal gets in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from safetensors.numpy import load_file

from collab.settings import parse
from protocol.errors import ConfigError
from protocol.records import with_seal
from server.envelopes import Envelopes
from simulations import sealed
from simulations.simulate import Order, ready, simulate
from tests.small import tables


def _run(folder: Path, name: str, *, seal: bool) -> dict[str, Any]:
    collaboration = ready(parse(tables(rounds=2), "test"), folder)
    return simulate(collaboration, Order(name, folder, baselines=False, sealed=seal), lambda _: None)


def test_a_sealed_run_has_the_bits_of_a_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message is sealed and opened on both ways, and what is reached is the same to the last bit."""
    counted: list[str] = []
    honest = Envelopes.open

    def counting(self: Envelopes, record: RecordDict, site: str, *rest: Any) -> Any:
        counted.append(site)
        return honest(self, record, site, *rest)

    monkeypatch.setattr(Envelopes, "open", counting)
    plain, under_seal = _run(tmp_path, "simple", seal=False), _run(tmp_path, "sealed", seal=True)
    sites = set(under_seal["sites"])
    assert len(counted) > 10
    assert set(counted) == sites
    for file in (tmp_path / "simple" / "models" / "iris").glob("*.safetensors"):
        arrays, others = load_file(file), load_file(tmp_path / "sealed" / "models" / "iris" / file.name)
        for key, array in arrays.items():
            np.testing.assert_array_equal(others[key], array)
    assert plain["totals"]["bytes"] == under_seal["totals"]["bytes"]  # the seal's own 400 bytes do not count


def test_what_is_changed_after_sealing_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contribution that is replaced on its way is rejected under its site's name, and the run goes on."""
    first: dict[str, RecordDict] = {}

    def replaced(record: RecordDict, seal: Any) -> RecordDict:
        kind = str(record.config_records["consilium"]["type"])
        if kind != "Contribution":
            return with_seal(record, seal)
        return with_seal(first.setdefault("one", record), seal)  # all after the first carry another's body

    monkeypatch.setattr(sealed, "with_seal", replaced)
    summary = _run(tmp_path, "replaced", seal=True)
    rejected = [note for note in summary["notes"] if "rejected" in note]
    assert rejected
    assert all(("seal: " in note and "is not what" in note) or "is not as long" in note for note in rejected)


def test_two_answers_to_one_question_are_equivocation(tmp_path: Path) -> None:
    """A site that answers a question twice, each under its seal, is told by its two bodies."""

    class Node(sealed.Grid):
        """Answers each message twice, with other content each time."""

        def get_node_ids(self) -> list[int]:
            return [1]

        def set_run(self, run: object) -> None:
            """Take no run."""

        @property
        def run(self) -> Any:
            return None

        def create_message(self, *args: Any, **kwargs: Any) -> Message:
            raise AssertionError

        def push_messages(self, messages: Any) -> list[str]:
            self.messages = list(messages)
            return ["m"]

        def pull_messages(self, message_ids: Any) -> list[Message]:
            from protocol.messages import Refusal
            from protocol.records import pack

            answers = (pack(Refusal(code="a", detail=str(n))) for n in range(2))
            return [Message(answer, reply_to=self.messages[0]) for answer in answers]

        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
            raise AssertionError

    from protocol.records import pack
    from server.discovery import Greeting
    from server.flwr_adapter import task_identity

    grid = sealed.SealedGrid(Node(), ["east"], "run")
    with task_identity(1):
        grid.push_messages([Message(pack(Greeting()), 1, "query.capability")])
        one, two = grid.pull_messages(["m"])
    assert b'"code":"a"' in one.content.config_records["consilium"]["body"]  # type: ignore[operator]
    assert b'"code":"equivocation"' in two.content.config_records["consilium"]["body"]  # type: ignore[operator]


def test_sealing_needs_the_local_engine(tmp_path: Path) -> None:
    """On Ray the sites are Flower's own; real ones seal by themselves."""
    collaboration = ready(parse(tables(rounds=2), "test"), tmp_path)
    with pytest.raises(ConfigError, match="--sealed needs engine 'local'"):
        simulate(collaboration, Order("x", tmp_path, "flower", sealed=True), lambda _: None)
