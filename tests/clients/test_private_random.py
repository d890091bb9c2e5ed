"""A site's private randomness: its own, the same when asked for the same, and shown nowhere."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from clients.private_random import PrivateRandom, site_secret
from protocol.errors import UserError

SECRET = bytes(range(32))
ASKED = bytes(range(32, 64))


def test_the_same_question_draws_the_same() -> None:
    """Asked again, a site adds the same noise: two answers do not average it out."""
    one = PrivateRandom(SECRET).generator("run", 3, "noise", ASKED).normal(size=100)
    again = PrivateRandom(SECRET).generator("run", 3, "noise", ASKED).normal(size=100)
    np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(
    "other",
    [
        (SECRET[::-1], "run", 3, "noise", ASKED),
        (SECRET, "run2", 3, "noise", ASKED),
        (SECRET, "run", 4, "noise", ASKED),
        (SECRET, "run", 3, "sample", ASKED),
        (SECRET, "run", 3, "noise", ASKED[::-1]),
        (SECRET, "run", 3, "noise", b""),
        (SECRET, "run3", 0, "noise", ASKED),
        (SECRET, "ru", 3, "nnoise", ASKED),
        (SECRET, "run", 3, "nois", b"e" + ASKED),
    ],
)
def test_another_question_draws_something_else(other: tuple[bytes, str, int, str, bytes]) -> None:
    """Another secret, run, round, purpose or question shares nothing with it, whatever the words run to."""
    secret, run, round_, purpose, question = other
    one = PrivateRandom(SECRET).generator("run", 3, "noise", ASKED).integers(0, 2**63, size=8)
    two = PrivateRandom(secret).generator(run, round_, purpose, question).integers(0, 2**63, size=8)
    assert not set(one) & set(two)


def test_the_draws_are_frozen() -> None:
    """What an HMAC under this secret gives is the same in every release: a resumed run draws it again."""
    drawn = PrivateRandom(SECRET).generator("run", 1, "noise", ASKED).integers(0, 2**32, size=3)
    assert drawn.tolist() == FROZEN


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    """The file is 0600 whatever the umask, stays, and is refused once others can read it."""
    path = tmp_path / "private.key"
    made = site_secret(path)
    assert len(made) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert site_secret(path) == made
    path.chmod(0o640)
    with pytest.raises(UserError, match=r"private\.key"):
        site_secret(path)


def test_nothing_shows_the_secret() -> None:
    """Neither its repr nor an error holds it; a short one is refused."""
    assert repr(PrivateRandom(SECRET)) == "PrivateRandom()"
    with pytest.raises(ValueError, match="32 are needed"):
        PrivateRandom(b"short")


FROZEN = [753655750, 1456839332, 4102836120]
