"""Processes below a process are found and ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simulations import descendants as module
from simulations.descendants import descendants, end, running, working_in

# A parent that starts a child in a session of its own, says the child's id, and waits.
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_family_is_found_and_ended() -> None:
    """A child and its child, though in another session, are found and ended; one that ended does not run."""
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        family = descendants([parent.pid])
        assert family == {parent.pid, child}
        end(family, within_s=0)
        parent.wait(10)
    end(family, within_s=10)
    assert family & running().keys() == set()


def test_both_ways_to_list_processes_agree() -> None:
    """`ps` and /proc name the same parent for this process's child."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        by_ps = {int(pid): int(parent) for pid, _, parent in module._from_ps()}
        assert by_ps[child.pid] == running()[child.pid]


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="there is no /proc here")
def test_processes_are_found_by_the_folder_that_they_work_in(tmp_path: Path) -> None:
    """A process that works in the folder is found, one that works elsewhere is not."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout is not None
        child.stdout.readline()
        assert working_in(tmp_path) == {child.pid}
        child.stdin.close()
    assert working_in(tmp_path) == set()
