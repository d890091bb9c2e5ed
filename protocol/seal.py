"""The signed envelope: who says this to whom, in which run, about what, until when, and not twice.

It works on bytes and knows nothing of how they travel: Flower's identity of a node is for routing only. The
signature is Ed25519 (RFC 8032) over ``protocol.header``'s canonical bytes, which bind the body by its digest.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.errors import MessageError, SealError, SealReason
from protocol.header import MAX_HEADER_BYTES, NONCE_BYTES, Header, checked, decode, digest
from protocol.nonces import Nonces

__all__ = ["SIGNATURE_BYTES", "Header", "Seal", "Signer", "Verifier", "decode", "digest"]

SIGNATURE_BYTES = 64
SKEW_S = 120  # by how much the parties' clocks may differ
VALID_S = 3600.0
MAX_VALID_S = 7 * 86_400
MAX_NONCES = 100_000  # of one sender
_ENVELOPE_DOMAIN = b"consilium/envelope/v1\0"


@dataclass(frozen=True)
class Seal:
    """A header's canonical bytes and the signature over them: what travels beside a body."""

    header: bytes
    signature: bytes


class Signer:
    """Seals what one party says.

    Args:
        federation: whose roster holds.
        name: who signs: the site's name in the roster, or ``server``.
        key: the party's signing key.
        epoch: gives the epoch of the current roster.
        clock: gives the Unix time in seconds.
    """

    def __init__(
        self,
        federation: str,
        name: str,
        key: Ed25519PrivateKey,
        epoch: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._federation = federation
        self._name = name
        self._key = key
        self._epoch = epoch
        self._clock = clock
        self._sequence = itertools.count(1)  # next() is atomic

    def __repr__(self) -> str:
        return f"Signer({self._federation!r}, {self._name!r})"

    def seal(  # noqa: PLR0913  each stands in the header
        self,
        parts: Sequence[bytes],
        *,
        run: str,
        task: str,
        kind: str,
        recipient: str,
        answers: bytes = b"",
        lease: int = 1,
        previous: bytes = b"",
        valid_s: float = VALID_S,
    ) -> Seal:
        """Return the seal of a message whose body is ``parts``.

        Args:
            parts: the body, as ``protocol.records.parts_of`` gives it.
            run: the run that it belongs to, "" for none.
            task: the assignment id, or what else it is about; at most 400 characters.
            kind: the message's type.
            recipient: for whom it is; nobody else accepts it.
            answers: the body digest of the message that this one answers.
            lease: the number of the server's process that works on the run.
            previous: the version of the site's memory that it starts from, or has now.
            valid_s: for how many seconds it may be accepted, at most ``MAX_VALID_S``.

        Raises:
            MessageError: an argument is out of bounds.
        """
        if not 0 < valid_s <= MAX_VALID_S:
            raise MessageError(f"a seal is valid for up to {MAX_VALID_S} s, not for {valid_s:g} s")
        body_digest, body_bytes = digest(parts)
        issued_at_ms = int(self._clock() * 1000)
        header = checked(
            {
                "federation": self._federation,
                "run": run,
                "task": task,
                "kind": kind,
                "sender": self._name,
                "recipient": recipient,
                "epoch": self._epoch(),
                "sequence": next(self._sequence),
                "nonce": secrets.token_bytes(NONCE_BYTES),
                "issued_at_ms": issued_at_ms,
                "expires_at_ms": issued_at_ms + int(valid_s * 1000),
                "body_bytes": body_bytes,
                "body_digest": body_digest,
                "answers": answers,
                "lease": lease,
                "previous": previous,
            }
        ).encode()
        return Seal(header, self._key.sign(_ENVELOPE_DOMAIN + header))


class Verifier:
    """Opens what is sent to one party, each message once.

    Args:
        federation: whose roster holds.
        name: who I am: the recipient.
        key_of: gives the 32 bytes of a sender's Ed25519 public key by the current roster, or None.
        epoch: gives the epoch of the current roster.
        clock: gives the Unix time in seconds.
        capacity: how many accepted messages of one sender are remembered at a time. With more, its
            messages are refused: none is accepted twice.
    """

    def __init__(
        self,
        federation: str,
        name: str,
        key_of: Callable[[str], bytes | None],
        epoch: Callable[[], int],
        clock: Callable[[], float],
        *,
        capacity: int = MAX_NONCES,
    ) -> None:
        self._federation = federation
        self._name = name
        self._key_of = key_of
        self._epoch = epoch
        self._clock = clock
        self._nonces = Nonces(capacity)

    def open(
        self,
        parts: Sequence[bytes],
        seal: Seal,
        *,
        sender: str | None = None,
        run: str | None = None,
        kind: str | None = None,
        task: str | None = None,
        answers: bytes | None = None,
    ) -> Header:
        """Return the header of a message that is what its sender signed, for me, now, and not seen before.

        What costs little is checked first. A nonce is remembered only when all else holds, so nobody can
        have an honest message refused by sending it ahead with another body.

        Args:
            parts: the body, as ``protocol.records.parts_of`` gives it.
            seal: what travelled beside it.
            sender: whom it must be from, if known.
            run: the run that it must belong to, if known.
            kind: the type that it must have, if known.
            task: what it must be about, if known.
            answers: the body digest of the message that it must answer, if known.

        Raises:
            SealError: it is not; ``reason`` says why.
        """
        header = _read(seal)
        expected = {"sender": sender, "run": run, "kind": kind, "task": task, "answers": answers}
        self._check_address(header, expected)
        now_ms = self._check_epoch_and_times(header)
        self._check_signature(header, seal)
        self._check_nonce(self._nonces.look, header, now_ms)
        _check_body(header, parts)
        self._check_nonce(self._nonces.note, header, now_ms)
        return header

    def _check_address(self, header: Header, expected: dict[str, str | bytes | None]) -> None:
        if header.federation != self._federation:
            raise SealError(f"seal of federation '{header.federation}', not of this one", "federation")
        if header.recipient != self._name:
            raise SealError(f"seal of a message to '{header.recipient}', not to '{self._name}'", "recipient")
        names: tuple[SealReason, ...] = ("sender", "run", "kind", "task", "answers")
        for name in names:
            if expected[name] is not None and getattr(header, name) != expected[name]:
                raise SealError(f"seal of '{header.sender}' has another {name} than expected", name)

    def _check_epoch_and_times(self, header: Header) -> int:
        """Return the Unix time in ms at which the times were checked."""
        epoch = self._epoch()
        if header.epoch < epoch:
            raise SealError(
                f"seal of '{header.sender}' by roster epoch {header.epoch}, the current one is {epoch}: "
                "it needs the new roster",
                "old_epoch",
            )
        if header.epoch > epoch:
            raise SealError(
                f"seal of '{header.sender}' by roster epoch {header.epoch}, here {epoch} is current: "
                "get the new roster",
                "new_epoch",
            )
        now_ms = int(self._clock() * 1000)
        if not 0 < header.expires_at_ms - header.issued_at_ms <= MAX_VALID_S * 1000:
            raise SealError(f"seal of '{header.sender}' is valid for too long, or for no time", "validity")
        if now_ms > header.expires_at_ms + SKEW_S * 1000:
            raise SealError(f"seal of '{header.sender}' has expired; check both clocks", "expired")
        if now_ms < header.issued_at_ms - SKEW_S * 1000:
            raise SealError(f"seal of '{header.sender}' is from the future; check both clocks", "early")
        return now_ms

    def _check_signature(self, header: Header, seal: Seal) -> None:
        key = self._key_of(header.sender)
        if key is None:
            raise SealError(f"sender '{header.sender}' is not in the current roster", "unknown_sender")
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(seal.signature, _ENVELOPE_DOMAIN + seal.header)
        except (InvalidSignature, ValueError):
            raise SealError(f"signature of '{header.sender}' is not valid", "signature") from None

    def _check_nonce(self, ask: Callable[[str, bytes, int, int], str], header: Header, now_ms: int) -> None:
        state = ask(header.sender, header.nonce, header.expires_at_ms + SKEW_S * 1000, now_ms)
        if state == "seen":
            raise SealError(f"this message of '{header.sender}' was accepted before", "replay")
        if state == "full":
            raise SealError(f"'{header.sender}' has sent more messages than can be remembered", "full")
        if state == "forgotten":
            raise SealError(f"seal of '{header.sender}' has expired; a clock was set back", "expired")


def _read(seal: Seal) -> Header:
    if len(seal.header) > MAX_HEADER_BYTES or len(seal.signature) != SIGNATURE_BYTES:
        raise SealError("seal has a header or a signature of another size than any", "form")
    try:
        return decode(seal.header)
    except MessageError as error:
        raise SealError(f"seal cannot be read: {error}", "form") from None


def _check_body(header: Header, parts: Sequence[bytes]) -> None:
    if sum(map(len, parts)) != header.body_bytes:
        raise SealError(f"body is not as long as '{header.sender}' signed", "body")
    if digest(parts)[0] != header.body_digest:
        raise SealError(f"body is not what '{header.sender}' signed", "body")
