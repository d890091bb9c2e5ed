"""The link process's own part: the nodes of the roster; a new roster is taken in whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import ssl
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol import keys
from protocol.errors import RosterError
from server import link as link_module
from server.kit import load_kit, make_folders
from server.link import _Link, tail
from server.listeners import public_context
from tests.server.link_cases import make_kits


@pytest.fixture
def link(tmp_path: Path) -> _Link:
    """The process's state for a federation of north and south."""
    make_kits(tmp_path / "kits", "north", "south")
    kit = load_kit(tmp_path / "kits/server")
    make_folders(kit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Flower makes its database with
        return _Link(kit, {"superexec": secrets.token_hex(32), "secret": ""})


def keep_current(
    link: _Link,
    until: Callable[[], bool],
    monkeypatch: pytest.MonkeyPatch,
    context: ssl.SSLContext | None = None,
) -> None:
    """Let the process look after its files until something holds."""
    monkeypatch.setattr(link_module, "_RELOAD_S", 0.01)
    kit = link.kit
    used = context or public_context(kit.certificate, kit.key, kit.authority)

    async def look() -> None:
        task = asyncio.create_task(link.keep_current(used))
        ends = time.monotonic() + 10
        while not until() and time.monotonic() < ends and not task.done():
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()

    asyncio.run(look())
    assert until()


def test_the_roster_is_registered(link: _Link, caplog: pytest.LogCaptureFixture) -> None:
    """Every site of the roster has a node, though none was ever there."""
    assert set(link.registered) == {"north", "south"}
    found = link.sites()
    assert found["north"] == {"connection": "offline", "ever": False, "refused": None}
    for why, status in (("not the site's node key", 403), ("again", 403), ("too many at once", 503)):
        link.told("north", "/v1/fleet/pull-messages", why, status)
    link.told("south", "/v1/fleet/pull-messages", "too many at once", 503)
    refused = link.sites()["north"]["refused"]
    assert (refused["why"], refused["count"]) == ("again", 2)
    assert link.sites()["south"]["refused"] is None  # it comes in by itself
    assert caplog.text.count("refused north") == caplog.text.count("refused south") == 1
    about = link.info()
    assert (about["epoch"], about["federation"]) == (1, "clinic")
    assert about["roster"] == link.kit.roster.read_text()


def test_a_new_roster(link: _Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is new in it gets a node, who is no longer in it loses it."""
    nodes = dict(link.registered)
    make_kits(tmp_path / "kits", "north", "west")
    keep_current(link, lambda: link.epoch == 2, monkeypatch)
    assert set(link.registered) == {"north", "west"}
    assert link.registered["north"] == nodes["north"]
    assert {view.node for view in link.superlink.nodes().values()} == set(link.registered.values())


def test_a_site_that_comes_back(link: _Link, caplog: pytest.LogCaptureFixture) -> None:
    """A key that was taken away cannot be registered again: that site is named, and harms no other."""
    gone, kept = link.keys["north"], link.keys["south"]
    link.superlink.unregister(link.registered["north"])
    link.register()
    assert set(link.registered) == {"south"}
    assert "north cannot come in" in caplog.text
    assert set(link.superlink.nodes()) == {kept}
    assert gone in link.keys.values()


def test_nothing_ends_the_look(
    link: _Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A busy database, a broken roster or certificate: it is tried again, and the roster counts at once."""
    real, failures = (
        link.superlink.register,
        [RuntimeError("database is locked"), RosterError("odd"), OSError()],
    )

    def register(named: dict[str, bytes]) -> dict[str, int]:
        if failures:
            raise failures.pop()
        return real(named)

    monkeypatch.setattr(link.superlink, "register", register)
    make_kits(tmp_path / "kits", "north", "west")
    keep_current(link, lambda: link.book.current.epoch == 2, monkeypatch)
    keep_current(link, lambda: link.epoch == 2, monkeypatch)
    assert (failures, set(link.registered)) == ([], {"north", "west"})


def test_one_broken_file_holds_up_no_other(
    link: _Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A renewed certificate is used though the roster beside it is broken, and the other way round."""
    roster = link.kit.roster.read_bytes()
    link.kit.roster.write_bytes(b"{}")
    os.utime(link.kit.certificate)
    keep_current(link, lambda: "the new certificate is in use" in caplog.text, monkeypatch)
    assert "is not taken: roster is not a signed roster file" in caplog.text
    assert link.epoch == link.book.current.epoch == 1
    link.kit.roster.write_bytes(roster)
    make_kits(tmp_path / "kits", "north", "west")
    kit = link.kit
    context = public_context(kit.certificate, kit.key, kit.authority)
    kit.certificate.write_bytes(b"no certificate")
    keep_current(link, lambda: link.epoch == 2, monkeypatch, context)


def test_it_warns_before_the_certificate_ends(
    link: _Link, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says when the certificate must be renewed."""
    monkeypatch.setattr(keys, "_WARN_DAYS", (1, 7, 100))
    with caplog.at_level(logging.WARNING):
        keep_current(link, lambda: "the certificate expires in" in caplog.text, monkeypatch)


def test_the_end_of_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines, of a file of any size, or none."""
    path = tmp_path / "run.log"
    assert tail(path, 5) == []
    path.write_bytes(b"".join(b"line %d\n" % i for i in range(50)) + b"\xff last")
    assert tail(path, 2) == ["line 49", "\ufffd last"]
    assert len(tail(path, 10**9)) == 51
    assert tail(path, 0) == ["\ufffd last"]
    monkeypatch.setattr(link_module, "_TAIL_BYTES", 14)
    assert tail(path, 100)[-2:] == ["line 49", "\ufffd last"]
