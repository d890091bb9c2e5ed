"""The letter that a whole is measured with: as long as its labels, not as their square."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.whole import terms_of
from collab.decomposition.terms import LabelHierarchyTerms
from collab.settings import parse
from protocol import records
from protocol.errors import MessageError
from protocol.fusing import WholePart, WholeRequest
from protocol.records import MAX_BODY_BYTES, pack, unpack
from server import whole
from server.description import describe
from tests.server.test_whole_runs import made
from tests.small import run, tables

GROUPS = {f"g{i}": [f"label_{i}_{j}" for j in range(10)] for i in range(400)}


def test_a_large_hierarchy_fits_in_a_letter() -> None:
    """400 groups of 10 labels: with each part's view of all 4000 the letter would be far too long."""
    file = tables(
        {"many": {"kind": "tabular_classification"}},
        data={"many": {"format": "csv", "path": "many.csv", "target": "y"}},
        decomposition={"many": {"by": "label_hierarchy", "groups": GROUPS}},
    )
    collaboration = parse(file, "file")
    parts = tuple(
        WholePart(name=part, subtask=describe(collaboration, subtask), model="linear")
        for part, subtask in collaboration.parts_of("many").items()
    )
    terms = collaboration.wholes["many"]
    assert isinstance(terms, LabelHierarchyTerms)
    request = whole._request("r", "many", "alpha", terms, parts, "test")
    assert len(request.model_dump_json()) < MAX_BODY_BYTES / 4
    opened, _ = unpack(pack(request), WholeRequest)
    assert terms_of(opened).labels == terms.labels
    with pytest.raises(MessageError, match=r"WholeRequest would have \d+ bytes .* fewer or shorter labels"):
        pack(request.model_copy(update={"parts": parts}))


def test_a_whole_that_no_letter_holds_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts' results stay; a note says what was not measured and why."""

    def narrow(message: object, arrays: object = None) -> object:
        if isinstance(message, WholeRequest):
            monkeypatch.setattr(records, "MAX_BODY_BYTES", 1000)
        return pack(message, arrays)  # type: ignore[arg-type]

    monkeypatch.setattr(whole, "pack", narrow)
    found = run(made(tmp_path), tmp_path)
    assert found.summary["decompositions"] == {}
    assert "help: not measured as a whole: WholeRequest would have" in found.notes
