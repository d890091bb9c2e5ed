"""The agent's last look at an answer before it is signed: only what the question can have for an answer.

The worker, which applies the site's egress rules while it computes, holds the data and runs large
libraries. The agent holds neither, and sends nothing that the rules of ``site.toml`` do not allow by form.
"""

from __future__ import annotations

import json
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from collab.terms import EgressTerms
from protocol.errors import MessageError
from protocol.messages import Refusal
from protocol.records import ARRAYS, HEAD

# What may answer what; beside it, a Refusal may answer everything.
ANSWERS = {
    "query.capability": "Capability",
    "query.summary": "DataSummary",
    "query.trial": "Trial",
    "query.local_model": "LocalModel",
    "train.weights": "Contribution",
    "train.joint": "Contribution",
    "train.soft_labels": "Contribution",
    "train.prototypes": "Contribution",
    "train.finish": "Contribution",
    "train.alone": "Contribution",
    "evaluate.model": "Evaluation",
    "evaluate.digest": "Evaluation",
    "evaluate.local": "Evaluation",
    "evaluate.ballot": "BallotPaper",
    "evaluate.fusion": "Evaluation",
    "evaluate.whole": "Evaluation",
}
_ROUND_TO = 10


def check(record: RecordDict, kind: str, site: str, terms: EgressTerms) -> None:
    """Raise a ``MessageError`` for an answer that must not leave."""
    head = record.get(HEAD)
    if not isinstance(head, ConfigRecord):
        raise MessageError("the worker gave no message")
    what, body = head.get("type"), _body(head)
    if is_refusal(record):
        return
    if what != ANSWERS.get(kind):
        raise MessageError(f"the worker gave a {what!r:.40} in answer to {kind}")
    if body.get("site", site) != site:
        raise MessageError("the worker speaks for another site")
    if what == "LocalModel" and ARRAYS in record and not terms.models:
        raise MessageError("a model would leave, which [egress] models does not allow")
    if what == "Capability" and body.get("shares_models") is not terms.models:
        raise MessageError("a capability that promises other than [egress] models")
    if "class_counts" in body:
        _check_counts(body["class_counts"], terms)


def is_refusal(record: RecordDict) -> bool:
    """Return whether this is a Refusal and nothing else."""
    head = record.get(HEAD)
    return isinstance(head, ConfigRecord) and head.get("type") == Refusal.__name__ and set(record) == {HEAD}


def _body(head: ConfigRecord) -> dict[str, Any]:
    body = head.get("body")
    found = json.loads(body) if isinstance(body, bytes) else None
    if not isinstance(found, dict):
        raise MessageError("the worker gave a message without a body")
    return found


def _check_counts(counts: Any, terms: EgressTerms) -> None:
    if not isinstance(counts, list):
        raise MessageError("class counts that are no list")
    if terms.label_histogram == "mask" and not set(counts) <= {0, 1}:
        raise MessageError("class counts would leave, where [egress] label_histogram allows a mask")
    if terms.label_histogram == "rounded" and any(n % _ROUND_TO for n in counts):
        raise MessageError("exact class counts would leave, where [egress] label_histogram rounds them")
