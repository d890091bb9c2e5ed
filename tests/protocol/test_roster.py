"""Rosters: only the authority's are believed, and none takes the place of a newer one."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from protocol import files
from protocol.errors import RosterError
from protocol.roster import MAX_ROSTER_BYTES, Roster, open_roster, sign_roster
from protocol.roster_book import RosterBook
from tests.protocol.key_cases import as_nobody, roster, site

AUTHORITY = ec.generate_private_key(ec.SECP384R1())
PUBLIC = AUTHORITY.public_key()
ONE = roster()
SIGNED = sign_roster(ONE, AUTHORITY)


def refusal(data: bytes, federation: str | None = None) -> str:
    """The one line that says why a file is no roster."""
    with pytest.raises(RosterError) as caught:
        open_roster(data, PUBLIC, federation)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    return str(caught.value)


def test_a_roster_comes_back() -> None:
    """What the authority signed is read; keys are found by name, and those of no others."""
    assert open_roster(SIGNED, PUBLIC, "clinic") == ONE
    assert ONE.key_of("server") == b"\xaa" * 32
    assert ONE.key_of("north") == bytes.fromhex(ONE.sites[0].signing_key)
    assert ONE.key_of("North") is None
    assert ONE.site("west") is None
    assert not ONE.has_expired(ONE.expires_at)
    assert ONE.has_expired(ONE.expires_at + 1)


def test_no_mutation_is_believed() -> None:
    """A bit flipped anywhere, an end cut off or another's signature: none is believed as another roster."""
    rng = random.Random(3)  # noqa: S311
    for _ in range(300):
        data = bytearray(SIGNED)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        refusal(bytes(data))
    for n in range(0, len(SIGNED) - 2, 7):
        refusal(SIGNED[:n])
    other = ec.generate_private_key(ec.SECP384R1())
    assert "not signed by this authority" in refusal(sign_roster(ONE, other))
    spliced = json.loads(SIGNED) | {"roster": json.loads(sign_roster(roster(2), AUTHORITY))["roster"]}
    assert "not signed by this authority" in refusal(json.dumps(spliced).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b"\xff",
        b"{}",
        b" " * (MAX_ROSTER_BYTES + 1),
        b'{"format":"consilium-roster/2"}',
    ],
)
def test_foreign_bytes_are_no_roster(data: bytes) -> None:
    """Whatever it is, it is refused in one line."""
    assert "roster" in refusal(data)


def test_another_federation_is_refused() -> None:
    """A roster of the same authority for another federation is not this one's."""
    assert "expected 'trial'" in refusal(SIGNED, "trial")


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 0},
        {"port": 0},
        {"hosts": ()},
        {"hosts": ("*.example.org",)},
        {"hosts": ("Example.org",)},
        {"hosts": ("10.0.0",)},
        {"hosts": ("010.0.0.1",)},
        {"hosts": ("::0001",)},
        {"hosts": ("fe80::1%eth0",)},
        {"hosts": ("a" * 64 + ".org",)},
        {"hosts": ("a.org\n",)},
        {"sites": ()},
        {"sites": (site("north"), site("North"))},
        {"sites": (site("north", tls_key="1" * 64), site("south", tls_key="1" * 64))},
        {"sites": (site("north", signing_key="1" * 64), site("south", signing_key="1" * 64))},
        {"sites": (site("north", signing_key="a" * 64),)},
        {"sites": (site("north"), site("south", node_key=site("x").node_key)) * 2},
        {"expires_at": 1},
        {"more": 1},
    ],
)
def test_a_roster_has_bounds(changes: dict[str, Any]) -> None:
    """Names and keys stand once, hosts are hosts, and nothing else is in it."""
    with pytest.raises(ValidationError):
        roster(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "server"},
        {"name": "Authority"},
        {"name": "../x"},
        {"tls_key": "A" * 64},
        {"signing_key": "1" * 63},
        {"node_key": "x"},
        {"node_key": site("x").node_key + "\n"},
        {"max_examples": 0},
    ],
)
def test_an_entry_has_bounds(changes: dict[str, Any]) -> None:
    """A name is a site's, and keys are written in the one way."""
    with pytest.raises(ValidationError):
        site(**{"name": "north"} | changes)


def test_a_signed_roster_is_still_checked() -> None:
    """What the authority signed without looking is refused all the same, by its field."""
    bad = ONE.model_copy(update={"port": 0})
    assert "port" in refusal(sign_roster(bad, AUTHORITY))
    many = roster(sites=tuple(ONE.sites)).model_copy(update={"sites": ONE.sites * 2000})
    with pytest.raises(RosterError, match="are read"):
        sign_roster(many, AUTHORITY)


def test_a_book_only_goes_on(tmp_path: Path) -> None:
    """A higher epoch is taken and stored, the same again is nothing new, a lower one is refused."""
    path = tmp_path / "roster.json"
    book = RosterBook(path, PUBLIC, clock=lambda: 1_800_000_001.0)
    with pytest.raises(RosterError, match="no roster yet"):
        book.epoch()
    second = sign_roster(roster(2, sites=ONE.sites[:1]), AUTHORITY)
    assert book.offer(SIGNED)
    assert not book.offer(SIGNED)
    assert not book.offer(sign_roster(ONE, AUTHORITY))  # ECDSA signs anew each time; the roster is the same
    assert book.key_of("south")
    assert book.offer(second)
    assert (book.epoch(), book.key_of("south")) == (2, None)
    with pytest.raises(RosterError, match="it was replaced"):
        book.offer(SIGNED)
    with pytest.raises(RosterError, match="another roster of epoch 2"):
        book.offer(sign_roster(roster(2), AUTHORITY))
    with pytest.raises(RosterError, match="expected 'clinic'"):
        book.offer(sign_roster(roster(3, federation="trial"), AUTHORITY))
    with pytest.raises(RosterError):
        book.offer(sign_roster(roster(3), ec.generate_private_key(ec.SECP384R1())))
    assert path.read_bytes() == second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert RosterBook(path, PUBLIC).epoch() == 2


def test_an_expired_roster_knows_nobody(tmp_path: Path) -> None:
    """Once its time is over, no key is believed any more."""
    now = [float(ONE.expires_at)]
    book = RosterBook(tmp_path / "r", PUBLIC, clock=lambda: now[0])
    book.offer(SIGNED)
    assert book.key_of("north")
    now[0] += 1
    assert book.key_of("north") is None


def test_a_book_reads_what_another_process_wrote(tmp_path: Path) -> None:
    """A changed file is read again, unless it would put the book back."""
    path = tmp_path / "roster.json"
    files.replace(path, SIGNED)
    book = RosterBook(path, PUBLIC, "clinic")
    assert not book.reload()
    files.replace(path, sign_roster(roster(5), AUTHORITY))
    assert book.reload()
    assert book.epoch() == 5
    for data in (SIGNED, b"{}", b" " * (MAX_ROSTER_BYTES + 1)):
        files.replace(path, data)
        with pytest.raises(RosterError):
            book.reload()
        assert book.epoch() == 5
    path.unlink()
    assert not book.reload()


def test_a_crash_leaves_the_old_roster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the new one cannot be put in place, the old one counts, on disk and in memory."""
    path = tmp_path / "roster.json"
    book = RosterBook(path, PUBLIC)
    book.offer(SIGNED)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RosterError, match="No space left"):
        book.offer(sign_roster(roster(2), AUTHORITY))
    assert (book.epoch(), path.read_bytes()) == (1, SIGNED)
    assert list(tmp_path.iterdir()) == [path]


def test_an_unreadable_file_is_said(tmp_path: Path) -> None:
    """A process that may not read the roster says so and does not go on without one."""
    path = tmp_path / "roster.json"
    files.replace(path, SIGNED)
    path.parent.chmod(0o755)
    said = as_nobody(lambda: RosterBook(path, PUBLIC))
    assert said.startswith("RosterError")
    assert "Permission denied" in said


def test_a_roster_is_frozen() -> None:
    """Nobody changes a roster after it was verified."""
    with pytest.raises(ValidationError):
        ONE.epoch = 9  # type: ignore[misc]
    assert isinstance(ONE, Roster)
