"""Where a journal lies: one process at a time, however the one before ended, and never over a network."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from server.journal.place import OpenElsewhereError, check_local, file_system, lock

_LINE = "36 25 0:33 / {point} rw,relatime shared:1 - {kind} source rw\n"

_HOLDER = """
import sys, time
from pathlib import Path
from server.journal.place import lock
held = lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock; it is ended however the block ends."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _HOLDER, str(path)]
    environment = {**os.environ, "PYTHONPATH": "."}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """It is told which process works on the run; killed, that one has let go at once."""
    path = tmp_path / "journal.lock"
    with holder(path) as first:
        with pytest.raises(OpenElsewhereError, match=rf"process {first.pid} works on this run; end it first"):
            lock(path)
        first.send_signal(signal.SIGKILL)
        first.wait()
        with lock(path):
            assert path.read_text() == f"{os.getpid()}\n"


def test_a_stopped_process_still_has_it(tmp_path: Path) -> None:
    """It may go on at any moment: who is stopped is not dead."""
    path = tmp_path / "journal.lock"
    with holder(path) as first:
        os.kill(first.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(OpenElsewhereError, match=f"process {first.pid} .*also if it is only stopped"):
            lock(path)


def test_it_is_let_go_with_the_file(tmp_path: Path) -> None:
    """Closing is enough, and a longer number of the process before leaves nothing behind."""
    path = tmp_path / "journal.lock"
    path.write_text("999999999999999999\n")
    lock(path).close()
    with lock(path):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(OpenElsewhereError):
            lock(path)


def test_a_lock_that_names_nobody(tmp_path: Path) -> None:
    """Whoever has it need not have written who it is, nor text."""
    path = tmp_path / "journal.lock"
    for said, told in ((b"", "unknown"), (b"\xff\xfe", "process \ufffd")):
        path.write_bytes(said)
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(OpenElsewhereError, match=told):
                lock(path)


def test_a_file_system_without_locks_is_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is its own: nobody is told to end a process that is not there."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("server.journal.place.fcntl.flock", refuse)
    with pytest.raises(OSError, match="No locks available"):
        lock(tmp_path / "journal.lock")


@pytest.mark.parametrize(
    ("kind", "is_local"),
    [
        *(("ext4", True), ("xfs", True), ("btrfs", True), ("tmpfs", True), ("overlay", True), ("new", True)),
        *(("nfs", False), ("nfs4", False), ("cifs", False), ("smb3", False), ("fuse.sshfs", False)),
        *(("ceph", False), ("9p", False), ("fuse.glusterfs", False)),
    ],
)
def test_no_journal_over_a_network(tmp_path: Path, kind: str, is_local: bool) -> None:
    """What is known to be shared between machines is refused, what is not known is not."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(_LINE.format(point="/", kind="ext4") + _LINE.format(point=tmp_path, kind=kind))
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    if is_local:
        check_local(folder, mounts)
    else:
        with pytest.raises(ConfigError, match=f"lies on {kind}.*a disk of this machine"):
            check_local(folder, mounts)


def _kind(tmp_path: Path, folder: Path, *mounted: tuple[object, str]) -> str | None:
    mounts = tmp_path / "mountinfo"
    text = "".join(_LINE.format(point=point, kind=kind) for point, kind in [("/", "ext4"), *mounted])
    mounts.write_bytes(os.fsencode(text))
    folder.mkdir(parents=True, exist_ok=True)
    return file_system(folder, mounts)


def test_the_innermost_mount_counts(tmp_path: Path) -> None:
    """Of mounts inside each other the innermost, of mounts on each other the last, wherever they stand."""
    folder = tmp_path / "a" / "b"
    assert _kind(tmp_path, folder, (tmp_path / "a", "nfs"), (tmp_path, "xfs")) == "nfs"
    assert _kind(tmp_path, folder, (tmp_path / "a", "nfs"), (folder, "xfs")) == "xfs"
    assert _kind(tmp_path, folder, (folder, "nfs"), (folder, "xfs")) == "xfs"
    assert _kind(tmp_path, folder, (tmp_path / "a" / "bb", "nfs")) == "ext4"
    assert _kind(tmp_path, folder, (f"{folder}b", "nfs")) == "ext4"


def test_a_bind_mount_is_what_it_shows(tmp_path: Path) -> None:
    """Its line names the file system, whatever part of it is shown."""
    mounts = tmp_path / "mountinfo"
    line = (
        f"40 25 0:50 /export/part {tmp_path} rw,relatime master:3 propagate_from:2 - nfs4 server:/export rw\n"
    )
    mounts.write_text(_LINE.format(point="/", kind="ext4") + line)
    assert file_system(tmp_path, mounts) == "nfs4"


@pytest.mark.parametrize("name", ["a b", "a\tb", "a\\b", "a\nb", "données", "\udcff", "a\\040b"])
def test_any_name_of_a_mount(tmp_path: Path, name: str) -> None:
    """The kernel writes space, tab, newline and backslash as octal numbers, and all else as it is."""
    written = name
    for character in "\\ \t\n":
        written = written.replace(character, f"\\{ord(character):03o}")
    assert _kind(tmp_path, tmp_path / name / "runs", (f"{tmp_path}/{written}", "nfs")) == "nfs"


def test_a_linked_folder_is_where_it_leads(tmp_path: Path) -> None:
    """A link from a local disk to a share is a share."""
    share = tmp_path / "share"
    share.mkdir()
    (tmp_path / "runs").symlink_to(share)
    assert _kind(tmp_path, tmp_path / "runs" / "r", (share, "nfs")) == "nfs"


@pytest.mark.parametrize("text", ["", "\n\n", "garbage\n", "1 2 3 - nfs\n", "36 25 0:33 / / rw\n", "- - -"])
def test_what_is_not_told_is_allowed(tmp_path: Path, text: str) -> None:
    """Without the kernel's list, or with one that cannot be read, nothing is known and nothing refused."""
    mounts = tmp_path / "mountinfo"
    assert file_system(tmp_path, mounts) is None
    mounts.write_text(text)
    assert file_system(tmp_path, mounts) is None
    check_local(tmp_path, mounts)


def test_this_machine_is_told() -> None:
    """The kernel's own list is read."""
    if Path("/proc/self/mountinfo").exists():
        assert file_system(Path("/proc")) == "proc"
