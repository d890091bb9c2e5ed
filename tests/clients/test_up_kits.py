"""A site's first process: a new kit is taken without a restart, and what is wrong is said at the terminal."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx

from clients.inquiry import Found
from clients.up import SiteUp
from tests.clients.agent_cases import kits

__all__ = ["kits", "stage", "up"]


from tests.clients.up_cases import Stage, found, stage, turns, up


def _started(up: SiteUp, stage: Stage) -> None:
    turns(up, stage, 1)
    assert [child.name for child in stage.children] == ["supernode", "agent"]


def _renew(up: SiteUp, kits: Path, *names: str) -> None:
    for path in (kits / "2" / "north").iterdir():
        if path.is_file() and (path.name in names or not names) and path.name != "site.toml":
            shutil.copyfile(path, up.kit.folder / path.name)


def test_a_new_kit_is_taken_without_a_restart(up: SiteUp, stage: Stage, kits: Path) -> None:
    """Both children are started again with it, the agent ends first; that is said once."""
    _started(up, stage)
    _renew(up, kits)
    turns(up, stage, 30)
    assert stage.ends == ["agent", "supernode"]
    assert [child.name for child in stage.children] == ["supernode", "agent"] * 2
    assert stage.said == ["the new files of the kit are used"]


def test_a_kit_is_taken_once_it_has_been_copied(up: SiteUp, stage: Stage, kits: Path) -> None:
    """Not before 2 s have passed since the last of its files changed, whatever time the files say."""
    _started(up, stage)
    for name in ("tls.key", "tls.pem", "roster.json"):
        _renew(up, kits, name)
        turns(up, stage, 1.8)
        assert stage.ends == []
        assert stage.said == []
    turns(up, stage, 0.5)
    assert stage.ends == ["agent", "supernode"]


def test_files_that_do_not_fit_are_not_used(up: SiteUp, stage: Stage, kits: Path) -> None:
    """That is said once, and the children go on; files that are mended are used."""
    _started(up, stage)
    key = (up.kit.folder / "signing.key").read_bytes()
    shutil.copyfile(kits / "1" / "south" / "signing.key", up.kit.folder / "signing.key")
    turns(up, stage, 30)
    (said,) = stage.said
    assert said.startswith("the new files of the kit are not used: ")
    assert "keys are of different kits" in said
    assert stage.ends == []
    (up.kit.folder / "signing.key").write_bytes(key)
    turns(up, stage, 30)
    assert stage.said[1:] == ["the new files of the kit are used"]
    assert stage.ends == ["agent", "supernode"]


def test_what_the_agent_says_of_its_end_is_shown(up: SiteUp, stage: Stage) -> None:
    """In its own words."""
    _started(up, stage)
    agent = stage.of("agent")[0]
    agent.heard["failed"], agent.code = "the disk is full", 2
    up._turn()
    assert stage.said == ["the agent cannot work: the disk is full; it and the SuperNode are started again"]


def test_a_certificate_that_is_being_replaced_ends_nothing(up: SiteUp, stage: Stage) -> None:
    """It is said, and looked at again soon."""
    pem = up.kit.certificate.read_bytes()
    up.kit.certificate.write_bytes(b"")
    up._warn()
    assert "tls.pem" in stage.said[0]
    up.kit.certificate.unlink()
    stage.clock.now += 61
    up._warn()
    assert "cannot be read" in stage.said[1]
    up.kit.certificate.write_bytes(pem)
    stage.clock.now += 61
    up._warn()
    assert len(stage.said) == 2


def test_a_clock_that_came_apart_is_spoken_of(up: SiteUp, stage: Stage) -> None:
    """Where the server refuses the node for it, and where the SuperNode dies right after its start."""
    stage.answer = found(up, -7.0)
    _started(up, stage)
    node = stage.of("supernode")[0]
    node.heard["refused"], node.code = 401, 1
    up._turn()
    wrong = "this clock is 7 s ahead of the server's: set both by NTP"
    assert stage.said == [f"the server refuses this site (401: its node key or its clock); {wrong}"]
    turns(up, stage, 2)
    stage.of("supernode")[1].code = 3
    up._turn()
    assert stage.said[1] == f"the SuperNode ended with 3; it is started again; {wrong}"


def test_clocks_that_agree_are_not_spoken_of(up: SiteUp, stage: Stage) -> None:
    """Nor where the server does not say; one that had worked for long is not asked about."""
    asked: list[float] = []

    def answer() -> Found:
        asked.append(stage.clock.now)
        if len(asked) > 1:
            raise httpx.ConnectError("gone")
        return found(up, 1.0)()

    stage.answer = answer
    for _ in range(2):
        turns(up, stage, 5)
        node = stage.of("supernode")[-1]
        node.heard["refused"], node.code = 401, 1
        up._turn()
    assert stage.said == ["the server refuses this site (401: its node key or its clock)"]
    assert len(asked) == 2
    turns(up, stage, 20)
    node = stage.of("supernode")[-1]
    node.heard["node"], node.code = "7", 1
    up._turn()
    assert len(asked) == 2


def test_the_secret_of_the_runtime_is_not_shown(up: SiteUp) -> None:
    """In no repr."""
    up._given["superexec"] = "5ec7e7"
    assert "5ec7e7" not in repr(up)
