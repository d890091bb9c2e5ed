"""A site's first process: what it asks of the server, its kit and Flower before it starts anything."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients import cli, inquiry
from clients import up as up_module
from clients.inquiry import PROBE_BYTES, Found, why
from clients.kit import open_roster_book
from clients.up import SiteUp
from protocol import versions
from protocol.bundle import package_version
from protocol.errors import ConfigError, ProtocolError, UserError
from protocol.files import only_one
from protocol.versions import SUPPORTED, check_flower
from tests.clients.agent_cases import kits

__all__ = ["kits", "stage", "up"]


from tests.clients.up_cases import Stage, ends_after, found, stage, up


def test_it_waits_for_the_server_and_ends_its_children(up: SiteUp, stage: Stage) -> None:
    """The agent first: it takes no message then that it could not answer."""
    tries: list[float] = []

    def answer() -> Found:
        tries.append(stage.clock.now)
        if len(tries) < 8:
            raise httpx.ConnectTimeout("")
        return found(up)()

    stage.answer = answer
    ends_after(up, stage, 120)
    up.run()
    pauses = [round(later - one) for one, later in itertools.pairwise(tries)]
    assert pauses == [1, 2, 4, 8, 15, 15, 15]
    assert stage.said[0].endswith("it took too long")
    assert "the server 127.0.0.1:8443 answers: Consilium 9.9, roster 1, 80 Mbit/s down" in stage.said
    assert [child.name for child in stage.children] == ["supernode", "agent"]
    assert stage.ends == ["agent", "supernode"]
    node = stage.children[0]
    assert node.fds == [node.given["runtime_fd"]]
    assert len(bytes.fromhex(node.given["superexec"])) == 32


def test_it_can_be_ended_while_no_server_answers(up: SiteUp, stage: Stage) -> None:
    """At once, with nothing started."""
    ends_after(up, stage, 3)
    up.run()
    assert stage.children == []
    assert stage.clock.now < 1004


def test_no_child_outlives_an_error(up: SiteUp, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in a turn."""
    stage.answer = found(up)

    def fail() -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(up, "_start_agent", fail)
    with pytest.raises(OSError, match="no more"):
        up.run()
    assert all(child.ended for child in stage.children)
    assert len(stage.children) == 1


@pytest.mark.parametrize(
    ("changes", "ahead_s", "words"),
    [
        ({"bundle": "0" * 64}, 0.0, ["Consilium 9.9 (00000000)", package_version(), "same release"]),
        ({"federation": "other"}, 0.0, ["127.0.0.1:8443", "'other'"]),
        ({}, 4.5, ["this clock is 4 s behind", "NTP"]),
        ({}, -60.0, ["this clock is 60 s ahead of", "NTP"]),
    ],
)
def test_it_does_not_work_with_a_server_that_does_not_fit(
    up: SiteUp, stage: Stage, changes: dict[str, Any], ahead_s: float, words: list[str]
) -> None:
    """It says why, and starts nothing."""
    stage.answer = found(up, ahead_s, **changes)
    with pytest.raises(ConfigError) as caught:
        up.run()
    for word in words:
        assert word in str(caught.value)
    assert stage.children == []


@pytest.mark.parametrize("ahead_s", [3.9, -3.9, 0.0])
def test_clocks_may_differ_a_little(up: SiteUp, stage: Stage, ahead_s: float) -> None:
    """By less than Flower allows."""
    stage.answer = found(up, ahead_s)
    ends_after(up, stage, 1)
    up.run()
    assert len(stage.children) == 2


def test_a_newer_roster_is_taken_and_an_older_one_is_not(up: SiteUp, stage: Stage, kits: Path) -> None:
    """A server that comes with a lower epoch is waited for, and nothing is started."""
    newer = (kits / "2" / "north" / "roster.json").read_text()
    stage.answer = found(up, roster=newer, epoch=2)
    ends_after(up, stage, 1)
    up.run()
    assert "took the roster of epoch 2 from the server; the authority signed it" in stage.said
    assert open_roster_book(up.kit).epoch() == 2
    again = SiteUp(up.kit, stage.said.append)
    stage.children.clear()
    stage.answer = found(up)
    ends_after(again, stage, 30)
    again.run()
    assert stage.children == []
    assert "epoch 1, 2 is current" in stage.said[-1]
    assert open_roster_book(up.kit).epoch() == 2


def test_a_roster_of_another_authority_is_not_taken(up: SiteUp, stage: Stage) -> None:
    """Nothing is started by it."""
    forged = (up.kit.folder / "roster.json").read_text().replace("clinic", "cliniq")
    stage.answer = found(up, roster=forged)
    ends_after(up, stage, 5)
    up.run()
    assert stage.children == []
    assert "not signed by this authority" in stage.said[0]


def test_a_kit_is_for_one_process(up: SiteUp, stage: Stage) -> None:
    """A second one is refused while the first lives, and works afterwards."""
    stage.answer = found(up)
    up.kit.logs.mkdir(parents=True)
    lock = only_one(up.kit.state / "lock", "the first")
    with lock, pytest.raises(ConfigError, match="another process uses this kit"):
        SiteUp(up.kit).run()
    assert stage.children == []
    ends_after(up, stage, 1)
    up.run()
    assert len(stage.children) == 2


def test_a_certificate_that_ends_soon_is_spoken_of(
    up: SiteUp, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, and each six hours."""
    monkeypatch.setattr(up_module, "expiry_warning", lambda *_: "it expires")
    for hours in (0, 5.9, 0.2):
        stage.clock.now += 3600 * hours
        up._warn()
    assert stage.said == ["warning: it expires"] * 2


def test_only_the_releases_of_flower_that_were_tried_are_worked_with(
    up: SiteUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is refused before anything starts, and named beside those that are supported."""
    for good in ("1.41.0", "1.42.3", "1.41.0.dev1"):
        assert check_flower(good) == good
    for bad in ("1.40.9", "1.43.0", "1.4.1", "2.41.0", "1.410.0"):
        with pytest.raises(UserError, match=f"flwr {bad} is installed") as caught:
            check_flower(bad)
        assert all(one in str(caught.value) for one in SUPPORTED)
    monkeypatch.setattr(versions, "version", lambda _: "1.43.0")
    with pytest.raises(UserError, match=r"1\.41 and 1\.42"):
        cli.up(up.kit.folder)
    assert not up.kit.logs.exists()


def _status(code: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "https://x")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(code, request=request))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_status(403), "it refuses this site: 403: its certificate or the roster; ask for a new kit"),
        (_status(401), "it refuses this site: 401: its node key or its clock"),
        (_status(503), "it cannot answer now (503)"),
        (httpx.ReadTimeout(""), "it took too long"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "the certificates do not fit together"),
        (httpx.ConnectError("[Errno 111] Connection refused"), "[Errno 111] Connection refused"),
        (httpx.ConnectError(""), "ConnectError"),
        (ProtocolError("is no Consilium server"), "is no Consilium server"),
    ],
)
def test_a_person_reads_why_there_is_no_answer(error: Exception, words: str) -> None:
    """In a few words."""
    assert why(error).startswith(words)


def test_the_runtime_listens_on_loopback_alone() -> None:
    """On a free port; other processes of the machine need the secret besides."""
    sock = up_module._loopback()
    assert sock.getsockname()[0] == "127.0.0.1"
    with socket.create_connection(sock.getsockname(), timeout=5):
        pass
    sock.close()
    assert inquiry.PROBE_BYTES == PROBE_BYTES
