"""Randomness that nobody but the site can foretell: for privacy noise and private sampling.

The collaboration's seed draws partitions, initialisations and batches, so that two engines and a resumed run
give the same arrays; whoever knows it could take noise drawn from it off again. What protects rows is drawn
from a secret that never leaves the site, told apart by run, round, purpose and question: asked again for the
same, a site draws the same, so that two answers to one question do not average the noise out. Asked for
something else in the same round, it draws other noise, which is not gone from the difference of the two.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

import numpy as np

from protocol.files import read_private, write_new

SECRET_BYTES = 32
_DOMAIN = b"consilium/private-random/v1"


class PrivateRandom:
    """Draws from a site's secret.

    Args:
        secret: at least 32 bytes of the operating system's randomness.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES:
            raise ValueError(f"a secret of {len(secret)} bytes, {SECRET_BYTES} are needed")
        self._secret = secret

    def __repr__(self) -> str:
        """Return the class alone: the secret is shown nowhere."""
        return "PrivateRandom()"

    def generator(self, run: str, round_: int, purpose: str, question: bytes) -> np.random.Generator:
        """Return the generator of one purpose in the answer to one question in a round of a run.

        Its seed is HMAC-SHA256 of all four, each after its length, under the secret.

        Args:
            run: the run's name.
            round_: of the run.
            purpose: what is drawn.
            question: the body digest of the message that is answered (``protocol.header.digest``).
        """
        words = (_DOMAIN, run.encode(), str(round_).encode(), purpose.encode(), question)
        message = b"".join(len(word).to_bytes(4, "big") + word for word in words)
        seed = hmac.new(self._secret, message, hashlib.sha256).digest()
        return np.random.Generator(np.random.Philox(key=np.frombuffer(seed[:16], dtype="<u8")))


def site_secret(path: Path) -> bytes:
    """Return the secret in a file of the site's own; make it where there is none.

    Raises:
        UserError: others can read it, or it cannot be read.
        OSError: it cannot be written.
    """
    if not path.exists():
        write_new(path, secrets.token_bytes(SECRET_BYTES))
    return read_private(path, 4096)
