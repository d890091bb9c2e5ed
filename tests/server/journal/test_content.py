"""Content by its digest: durable before a row names it, there while it has a use, and gone after."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

import pytest

from server.journal.content import FOLDER, Content
from server.journal.disk import Disk
from server.journal.store import JournalError
from simulations.chaos.disks import FAULTS, FailingDisk, WatchedDisk

LONG = b"\0long" * 5000


def content(folder: Path, disk: Disk | None = None) -> Content:
    """Return the content of a run in a folder."""
    return Content(folder / FOLDER, disk or Disk())


def files(folder: Path) -> list[str]:
    """Return the names of the files that hold content."""
    return sorted(p.name for p in (folder / FOLDER).iterdir()) if (folder / FOLDER).exists() else []


@pytest.mark.parametrize("data", [b"", b"\0", b"short" * 100, LONG, os.urandom(100_000)])
def test_what_is_put_is_read(tmp_path: Path, data: bytes) -> None:
    """By this process and by the next one; a short one needs no file."""
    ref = content(tmp_path).put(data)
    after = content(tmp_path)
    assert after.read(ref) == data
    assert after.has(ref)
    assert files(tmp_path) == ([] if len(data) <= Disk.in_row else [hashlib.sha256(data).hexdigest()])


def test_files_and_folder_are_their_owners_alone(tmp_path: Path) -> None:
    """They are what sites sent."""
    before = os.umask(0)
    try:
        ref = content(tmp_path).put(LONG)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / FOLDER / ref).stat().st_mode) == 0o600


def test_the_same_bytes_are_kept_once(tmp_path: Path) -> None:
    """Each put is a use; the file goes with the last one, when it is swept."""
    disk = WatchedDisk(tmp_path)
    one = content(tmp_path, disk)
    assert one.put(LONG) == one.put(LONG)
    assert disk.steps.count("write") == 1
    ref = one.put(LONG)
    for left in (2, 1):
        one.drop(ref)
        one.sweep()
        assert files(tmp_path) == [ref], left
    one.drop(ref)
    assert files(tmp_path) == [ref]
    one.sweep()
    assert files(tmp_path) == []


def test_what_is_used_again_before_the_sweep_stays(tmp_path: Path) -> None:
    """A reference that was dropped and put, or taken up, in one transaction is in use."""
    one = content(tmp_path)
    ref = one.put(LONG)
    one.drop(ref)
    assert one.put(LONG) == ref
    one.sweep()
    assert one.read(ref) == LONG
    one.drop(ref)
    one.use(ref)
    one.sweep()
    one.sweep_all()
    assert one.read(ref) == LONG


def test_a_drop_too_many_takes_nobody_elses_use(tmp_path: Path) -> None:
    """What has no use cannot have one less."""
    one = content(tmp_path)
    ref = one.put(LONG)
    one.drop(ref)
    one.drop(ref)
    one.use(ref)
    one.sweep()
    assert files(tmp_path) == [ref]


def test_sweeping_all_leaves_what_has_a_use(tmp_path: Path) -> None:
    """Of what a process before had written, finished or not, only what rows speak of is kept."""
    before = content(tmp_path)
    ref, other = before.put(LONG), before.put(LONG + b"other")
    (tmp_path / FOLDER / f".{'0' * 64}.aside").write_bytes(b"half")
    (tmp_path / FOLDER / "notes.txt").write_text("not ours")
    (tmp_path / FOLDER / "folder").mkdir()
    after = content(tmp_path)
    after.use(ref)
    after.sweep_all()
    assert files(tmp_path) == sorted([ref, "folder", "notes.txt"])
    assert not after.has(other)
    after.clear()
    assert files(tmp_path) == ["folder", "notes.txt"]


def test_nothing_to_sweep(tmp_path: Path) -> None:
    """Without a folder there is nothing, and none is made."""
    one = content(tmp_path)
    one.sweep()
    one.sweep_all()
    one.clear()
    one.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", LONG[:-1], LONG[:-1] + b"x", LONG + b"x"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    """Other bytes under a name are found, whatever happened to them."""
    one = content(tmp_path)
    ref = one.put(LONG)
    (tmp_path / FOLDER / ref).write_bytes(damage)
    with pytest.raises(JournalError, match=rf"{ref}: is damaged; the run cannot go on"):
        one.read(ref)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """To read it is an error, and to check what has a use finds it before anything goes on."""
    one = content(tmp_path)
    ref = one.put(LONG)
    one.check()
    (tmp_path / FOLDER / ref).unlink()
    assert not one.has(ref)
    with pytest.raises(JournalError, match=rf"{ref}: cannot be read \(No such file"):
        one.read(ref)
    with pytest.raises(JournalError, match=rf"{ref}: is gone"):
        one.check()


@pytest.mark.parametrize(
    "ref", ["", ".", "..", "../journal.db", "/etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"]
)
def test_a_reference_is_no_path(tmp_path: Path, ref: str) -> None:
    """A row that somebody wrote into the database leads to no file but content, least of all to remove it."""
    victim = tmp_path / "journal.db"
    victim.write_bytes(b"journal")
    one = content(tmp_path)
    for do in (one.use, one.read, one.has):
        with pytest.raises(JournalError, match="no digest"):
            do(ref)
    one.drop(ref)
    one.sweep()
    assert victim.read_bytes() == b"journal"


@pytest.mark.parametrize("ref", ["=é", "=A", "=AAAA!"])
def test_a_damaged_short_one(tmp_path: Path, ref: str) -> None:
    """What stands in the row is checked as well as it can be; the row's chain says the rest."""
    with pytest.raises(JournalError, match="damaged"):
        content(tmp_path).read(ref)


def test_a_name_is_there_only_whole(tmp_path: Path) -> None:
    """Whatever a power cut takes of what was not synced: once put has returned, nothing can be taken."""
    run = tmp_path / "run"
    run.mkdir()
    disk = WatchedDisk(run)
    ref = content(run, disk).put(LONG)
    assert disk.loose == []
    for kept in range(len(disk.loose) + 1):
        copy = tmp_path / f"copy-{kept}"
        shutil.copytree(run, copy)
        disk.lose(copy, kept)
        assert content(copy).read(ref) == LONG


class _Cut(Exception):  # noqa: N818  it is no error
    """The power goes."""


class _CutDisk(WatchedDisk):
    """The power goes after so many steps."""

    after = 0

    def _step(self, name, do):  # type: ignore[no-untyped-def]
        if len(self.steps) == self.after:
            raise _Cut
        return super()._step(name, do)


@pytest.mark.parametrize("after", range(6))
def test_after_any_power_cut_it_can_be_put_again(tmp_path: Path, after: int) -> None:
    """Half a file is under no name that is used; putting the same bytes again mends what is there."""
    run = tmp_path / "run"
    run.mkdir()
    disk = _CutDisk(run)
    disk.after = after
    with pytest.raises(_Cut):
        content(run, disk).put(LONG)
    for kept in range(len(disk.loose) + 1):
        copy = tmp_path / f"copy-{kept}"
        shutil.copytree(run, copy)
        disk.lose(copy, kept)
        one = content(copy)
        ref = one.put(LONG)
        assert one.read(ref) == LONG
        one.sweep_all()
        assert files(copy) == [ref]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", range(6))
def test_any_step_of_writing_that_fails_is_said(tmp_path: Path, at: int, fault: str) -> None:
    """Whichever it is, and however it fails, the run stops; the next process puts the same bytes again."""
    one = content(tmp_path, FailingDisk(tmp_path, at=at, fault=fault))  # type: ignore[arg-type]
    with pytest.raises(JournalError, match="cannot be written"):
        one.put(LONG)
    after = content(tmp_path)
    assert after.read(after.put(LONG)) == LONG
    after.clear()
    assert files(tmp_path) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_removed_takes_room_and_nothing_else(tmp_path: Path, fault: str) -> None:
    """The run goes on; whoever comes next removes it."""
    one = content(tmp_path, FailingDisk(tmp_path, at=6, fault=fault))  # type: ignore[arg-type]
    one.drop(one.put(LONG))
    one.sweep()
    content(tmp_path).sweep_all()
    assert files(tmp_path) == []
