"""The server's side of the signed envelope: seals what goes to a site, opens what comes from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from protocol.equivocation import Answers
from protocol.errors import SealError
from protocol.header import digest
from protocol.messages import assignment_id
from protocol.records import HEAD, parts_of, take_seal, with_seal
from protocol.seal import Header, Signer, Verifier

# A site may be off for a while, and work may take long; an envelope is for one sending of a message.
VALID_S = 6 * 3600.0


@dataclass
class Envelopes:
    """Seals and opens the messages of one run.

    Args:
        run: the Consilium run.
        signer: signs as the server.
        verifier: knows the sites' keys.
        lease: the number of the process that works on the run; sites refuse a lower one than they saw.
    """

    run: str
    signer: Signer
    verifier: Verifier
    lease: int = 1
    answers: Answers = field(default_factory=Answers)

    def seal(
        self, record: RecordDict, site: str, kind: str, task: str, previous: bytes = b""
    ) -> tuple[RecordDict, bytes]:
        """Return the record with its seal, and the digest by which an answer must name it.

        ``previous`` is the version of the site's memory that the site starts from, b"" for the empty one.
        """
        parts = parts_of(record)
        seal = self.signer.seal(
            parts,
            run=self.run,
            task=task,
            kind=kind,
            recipient=site,
            lease=self.lease,
            previous=previous,
            valid_s=VALID_S,
        )
        return with_seal(record, seal), digest(parts)[0]

    def open(self, record: RecordDict, site: str, task: str, asked: bytes) -> tuple[RecordDict, Header]:
        """Return what a site's answer says, and its header.

        Raises:
            SealError: it is not what that site signed, in this run, to that question; or what it signed
                speaks for another site.
            MessageError: it holds what no seal covers.
        """
        inner, seal = take_seal(record)
        header = self.verifier.open(
            parts_of(inner), seal, sender=site, run=self.run, task=task, answers=asked
        )
        spoken_for = _said(inner).get("site", site)
        if spoken_for != site:
            raise SealError(f"'{site}' speaks for another site", "sender")
        return inner, header

    def once(self, header: Header) -> None:
        """Note a result; raise ``EquivocationError`` if the site has given another to the same question."""
        self.answers.note(header.sender, header.kind, header.task, header.answers, header.body_digest)


def signature_of(record: RecordDict) -> bytes:
    """Return the signature in a message's seal; raises as ``take_seal``."""
    return take_seal(record)[1].signature


def _said(record: RecordDict) -> dict[str, Any]:
    """Return the fields of a message's body; {} for what is no table."""
    head = record.get(HEAD)
    body = head.get("body") if isinstance(head, ConfigRecord) else None
    try:
        found = json.loads(body) if isinstance(body, bytes) else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def task_of(record: RecordDict, kind: str) -> str:
    """Return what a message of ours is about: its assignment id where it has one, else what it asks."""
    said = _said(record)
    subtask = said.get("subtask")
    name = str(subtask.get("name", "")) if isinstance(subtask, dict) else str(subtask or "")
    if "attempt" in said:
        return assignment_id(said["run"], said["round"], name, said["site"], said["attempt"])
    return "/".join(str(word) for word in (kind, said.get("round", ""), name) if word != "")[:400]
