"""Children: their secrets are nowhere to be read, their words arrive, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import children
from protocol.children import ORPHANED, Child

ROOT = Path(__file__).parents[2]
SECRET = "b2f0c49d-not-for-anybody"  # noqa: S105
_WAIT_S = 20.0

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start children; all have ended when the test has."""
    started: list[Child] = []

    def new(do: str = "echo", *, fds: tuple[int, ...] = (), **given: Any) -> Child:
        environment = {"PYTHONPATH": str(ROOT), "CONSILIUM_TEST": "1"}
        module = "tests.protocol.child_module"
        child = Child("child", module, {"do": do, **given}, tmp_path, fds=fds, environment=environment)
        started.append(child)
        return child

    yield new
    for child in started:
        child.end(5)
        assert child.code is not None


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold in time."""
    until = time.monotonic() + _WAIT_S
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


def test_secrets_are_in_no_listing(start: Start, tmp_path: Path) -> None:
    """What other users and crash reports can see of a process does not hold what it was given."""
    child = start(secret=SECRET, say=7)
    assert child.wait_for("ready", _WAIT_S)
    assert child.heard["given"] == {"do": "echo", "say": 7}
    seen = b"".join(Path(f"/proc/{child.pid}/{name}").read_bytes() for name in ("cmdline", "environ", "comm"))
    assert b"tests.protocol.child_module" in seen
    assert b"CONSILIUM_TEST=1" in seen
    assert SECRET.encode() not in seen
    assert SECRET not in repr(child) + repr(child.process) + repr(child.process.args)
    assert SECRET not in (tmp_path / "child.log").read_text()
    assert SECRET not in str(dict(os.environ))


def test_the_log_is_its_owners(start: Start, tmp_path: Path) -> None:
    """What it writes goes to its log, after what stood there, readable by its owner alone."""
    before = os.umask(0)
    try:
        for said in ("first", "second"):
            assert start(say=said).wait_for("ready", _WAIT_S)
    finally:
        os.umask(before)
    log = tmp_path / "child.log"
    assert log.read_text().splitlines() == ["a line for the log first", "a line for the log second"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_log_is_not_written_through_a_link(start: Start, tmp_path: Path) -> None:
    """Who may write the folder of the logs cannot have another file written to; no process is left over."""
    (tmp_path / "other").touch()
    (tmp_path / "child.log").symlink_to(tmp_path / "other")
    fds = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="symbolic links"):
        start()
    assert (tmp_path / "other").read_bytes() == b""
    assert len(list(Path("/proc/self/fd").iterdir())) == fds


def test_the_child_keeps_its_files_to_itself(start: Start) -> None:
    """Whatever the parent's umask, a child makes files that its owner alone can read."""
    before = os.umask(0)
    try:
        child = start("umask")
    finally:
        os.umask(before)
    assert child.wait_for("umask", _WAIT_S) == 0o077


def test_words_arrive(start: Start) -> None:
    """Words of many threads arrive whole, also the last ones of a process that has ended."""
    child = start("many")
    assert child.wait_for("ready", _WAIT_S)
    assert all(child.heard[f"word {i}"] == "x" * 5000 for i in range(40))
    assert child.heard_at >= child.started_at
    ended = start("exit", code=5)
    assert wait_until(lambda: ended.code is not None)
    assert ended.wait_for("last", 1) == "word"
    assert ended.end() == 5


def test_who_waits_is_told_of_the_end(start: Start) -> None:
    """What is never said is not waited for: not beyond the time, nor beyond the process."""
    child = start("exit", code=3)
    began = time.monotonic()
    assert child.wait_for("never", 60) is None
    assert time.monotonic() - began < _WAIT_S
    assert child.code == 3
    living = start()
    assert living.wait_for("ready", _WAIT_S)
    assert living.wait_for("never", 0.05) is None
    assert living.code is None


def test_much_can_be_given(start: Start) -> None:
    """Far more than a pipe holds at once arrives; beyond the bound the child ends instead of waiting."""
    child = start(say="", long="ä" * 100_000)
    assert child.wait_for("ready", _WAIT_S)
    assert child.heard["given"]["long"] == "ä" * 100_000
    too_much = start(long="x" * 2**20)
    assert too_much.wait_for("ready", _WAIT_S) is None
    assert too_much.code not in (None, 0)


def test_files_are_handed_on(start: Start) -> None:
    """A child has the open files that it is to have, at their numbers, and no others of the parent's."""
    reading, writing = os.pipe()
    kept, _ = os.pipe()
    os.set_inheritable(kept, True)
    child = start("write", fds=(writing,), fd=writing)
    os.close(writing)
    assert child.wait_for("ready", _WAIT_S)
    assert os.read(reading, 100) == b"from the child"
    assert not Path(f"/proc/{child.pid}/fd/{kept}").exists()
    for fd in (reading, kept, _):
        os.close(fd)


def test_it_ends_when_asked(start: Start) -> None:
    """A child that heeds the signal ends by it; one that does not is ended; a second time does no harm."""
    child = start()
    assert child.wait_for("ready", _WAIT_S)
    assert child.end() == -signal.SIGTERM
    assert child.end() == -signal.SIGTERM
    stubborn = start("stubborn")
    assert stubborn.wait_for("ready", _WAIT_S)
    assert stubborn.end(0.1) == -signal.SIGKILL
    assert has_ended(stubborn.pid)


def test_an_end_that_does_not_come_is_no_error(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process that the kernel does not let go is left to it, as one that was killed."""
    monkeypatch.setattr(children, "_GONE_S", 0.1)
    child = start("stubborn")
    assert child.wait_for("ready", _WAIT_S)
    os.kill(child.pid, signal.SIGSTOP)
    plain = child.process.kill
    monkeypatch.setattr(child.process, "kill", lambda: None)
    began = time.monotonic()
    assert child.end(0.1) == -signal.SIGKILL
    assert time.monotonic() < began + 5
    assert child.code is None
    plain()
    assert wait_until(lambda: child.code == -signal.SIGKILL)


def test_ctrl_c_is_the_parents(start: Start) -> None:
    """A child is in a session of its own: the terminal's signals reach the parent alone."""
    child = start()
    assert child.wait_for("ready", _WAIT_S)
    assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_it_ends_with_the_pipe(start: Start) -> None:
    """When its parent's end of the pipe is gone, it ends by itself with a code of its own."""
    child = start("stubborn")
    assert child.wait_for("ready", _WAIT_S)
    child._lifeline.close()
    assert wait_until(lambda: child.code is not None)
    assert child.code == ORPHANED


def test_no_child_outlives_its_parent(start: Start, tmp_path: Path) -> None:
    """A parent that is killed, and can do nothing, takes even a stubborn child with it."""
    between = start("parent", logs=str(tmp_path))
    grandchild = between.wait_for("grandchild", _WAIT_S)
    assert isinstance(grandchild, int)
    assert not has_ended(grandchild)
    os.kill(between.pid, signal.SIGKILL)
    assert wait_until(lambda: has_ended(grandchild))
