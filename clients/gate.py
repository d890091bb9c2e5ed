"""The agent's last look at an answer before it is signed: only what the question can have for an answer.

The worker, which applies the site's egress rules while it computes, holds the data and runs large
libraries. The agent holds neither, and sends nothing that the rules of ``site.toml`` do not allow by form.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict
from pydantic import ValidationError

from collab.terms import EgressTerms
from protocol.bounds import Frozen
from protocol.errors import MessageError
from protocol.fusing import BallotPaper
from protocol.messages import Capability, Contribution, DataSummary, Evaluation, LocalModel, Refusal, Trial
from protocol.records import ARRAYS, HEAD

# What may answer what; beside it, a Refusal may answer everything.
ANSWERS: dict[str, type[Frozen]] = {
    "query.capability": Capability,
    "query.summary": DataSummary,
    "query.trial": Trial,
    "query.local_model": LocalModel,
    "train.weights": Contribution,
    "train.joint": Contribution,
    "train.soft_labels": Contribution,
    "train.prototypes": Contribution,
    "train.finish": Contribution,
    "train.alone": Contribution,
    "evaluate.model": Evaluation,
    "evaluate.digest": Evaluation,
    "evaluate.local": Evaluation,
    "evaluate.ballot": BallotPaper,
    "evaluate.fusion": Evaluation,
    "evaluate.whole": Evaluation,
}
# A model of the site's own travels beside these where [egress] models allows it; nothing beside the rest.
_OWN_MODEL = frozenset({"query.local_model", "train.alone"})
_WITH_ARRAYS = (Contribution, Evaluation, LocalModel)
_ROUND_TO = 10


def check(record: RecordDict, kind: str, site: str, terms: EgressTerms) -> None:
    """Raise a ``MessageError`` for an answer that must not leave."""
    if is_refusal(record):
        _read(record, Refusal)
        return
    if kind not in ANSWERS:
        raise MessageError("an answer to a question that sites do not know")
    answer = _read(record, ANSWERS[kind])
    if getattr(answer, "site", site) != site:
        raise MessageError("the worker speaks for another site")
    if not set(record) <= ({HEAD, ARRAYS} if isinstance(answer, _WITH_ARRAYS) else {HEAD}):
        raise MessageError(f"arrays beside an answer to {kind}, which has none")
    if kind in _OWN_MODEL and ARRAYS in record and not terms.models:
        raise MessageError("a model would leave, which [egress] models does not allow")
    if isinstance(answer, Capability) and answer.shares_models is not terms.models:
        raise MessageError("a capability that promises other than [egress] models")
    if isinstance(answer, Contribution | DataSummary):
        _check_counts(answer.class_counts, terms)


def is_refusal(record: RecordDict) -> bool:
    """Return whether this is a Refusal and nothing else."""
    head = record.get(HEAD)
    return isinstance(head, ConfigRecord) and head.get("type") == Refusal.__name__ and set(record) == {HEAD}


def _read(record: RecordDict, expected: type[Frozen]) -> Frozen:
    """Return the message in a record; what it must not say is not told to anybody either."""
    head = record.get(HEAD)
    if not isinstance(head, ConfigRecord):
        raise MessageError("the worker gave no message")
    what, body = head.get("type"), head.get("body")
    if what != expected.__name__:
        raise MessageError(f"the worker gave a {what!r:.40}, expected a {expected.__name__}")
    try:
        return expected.model_validate_json(body if isinstance(body, bytes) else b"")
    except ValidationError:
        raise MessageError(f"the worker gave a {expected.__name__} that is none") from None


def _check_counts(counts: tuple[float, ...], terms: EgressTerms) -> None:
    if terms.label_histogram == "mask" and not set(counts) <= {0, 1}:
        raise MessageError("class counts would leave, where [egress] label_histogram allows a mask")
    if terms.label_histogram == "rounded" and any(n % _ROUND_TO for n in counts):
        raise MessageError("exact class counts would leave, where [egress] label_histogram rounds them")
