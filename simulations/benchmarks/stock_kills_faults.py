"""What ``stock_kills`` does to processes of stock Flower, and how it starts them again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from simulations.benchmarks.stock_flower import LINK, StockFlower, node_name
from simulations.descendants import descendants

RESTART_S = 5.0  # after a kill
BACK_OFF_S = (5.0, 10.0, 20.0)  # after a SuperNode that was started again has ended; the last one repeats
PAUSE_S = 90.0
CONNECTED = "SuperNode ID:"


@dataclass(frozen=True)
class Kind:
    """What is done to which processes; targets: ``server_app``, ``link``, ``node``, ``client_app``."""

    name: str
    targets: tuple[str, ...] = ()
    pause: bool = False
    own_executor: bool = False


@dataclass
class Faults:
    """The faults of one trial.

    Attributes:
        node: the number of the SuperNode that they strike.
        struck_at: when, in Unix seconds; 0 before.
        back_at: when the struck SuperNode was connected again, in Unix seconds; 0 if it was not.
        link_back_at: when the SuperLink listened again.
        starts: how often each SuperNode was started again.
        killed: the command that was killed or stopped, and when.
    """

    at: StockFlower
    node: int
    struck_at: float = 0.0
    back_at: float = 0.0
    link_back_at: float = 0.0
    starts: dict[int, int] = field(default_factory=dict)
    killed: list[tuple[str, float]] = field(default_factory=list)
    _due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _coming: set[int] = field(default_factory=set)
    _offset: int = 0
    _link_down: bool = False

    def strike(self, kind: Kind, gap_s: float) -> bool:
        """Do what the kind says; False while the process to kill is not there yet.

        Args:
            kind: what to do.
            gap_s: seconds between the first target and the second.
        """
        self.at.watch()
        first, *rest = kind.targets
        if not self._hit(first, pause=kind.pause):
            return False
        self.struck_at = time.time()
        for target in rest:
            self._later(gap_s, lambda target=target: self._hit(target, pause=False))  # type: ignore[misc]
        return True

    def tick(self, nodes: int) -> None:
        """Do what is due, start again SuperNodes that have ended, and see whether the struck one is back."""
        now = time.time()
        ready = [act for at, act in self._due if at <= now]
        self._due = [(at, act) for at, act in self._due if at > now]
        for act in ready:
            act()
        for number in range(nodes):
            if number not in self._coming and self.at.processes[node_name(number)].poll() is not None:
                self._start_again(number)
        if self._offset and not self.back_at and CONNECTED in self._said():
            self.back_at = time.time()
        if self._link_down and self.at.listens():
            self._link_down, self.link_back_at = False, time.time()

    def _hit(self, target: str, *, pause: bool) -> bool:
        name = LINK if target == "link" else node_name(self.node)
        if target in ("link", "node"):
            pid = self.at.processes[name].pid
        else:
            below = self.at.family if target == "server_app" else self._below_node()
            pids = _running(below, f"flwr-{target.replace('_', '')}")
            if not pids or (target == "client_app" and not self._trains()):
                return False
            pid = max(pids)  # the one before it may not have left yet
        os.kill(pid, signal.SIGSTOP if pause else signal.SIGKILL)
        self.killed.append((target, time.time()))
        if pause:
            self._later(PAUSE_S, lambda: self.at.processes[name].send_signal(signal.SIGCONT))
        elif target == "link":
            self.at.processes[name].wait(15)
            self._link_down = True
            self._later(RESTART_S, self.at.start_link)
        elif target == "node":
            self.at.processes[name].wait(15)
            self._offset = self.at.log(name).stat().st_size
        return True

    def _trains(self) -> bool:
        """Whether the ClientApp of the node has begun to train and has not done so yet."""
        file = self.at.folder / "work.jsonl"
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        own = [line["phase"] for line in lines if line["node"] == self.node]
        return own[-1:] == ["begun"]

    def _below_node(self) -> set[int]:
        return descendants([self.at.processes[node_name(self.node)].pid])

    def _start_again(self, number: int) -> None:
        count = self.starts.get(number, 0)
        wait_s = BACK_OFF_S[min(count, len(BACK_OFF_S) - 1)]
        self.starts[number] = count + 1
        self._coming.add(number)

        def start() -> None:
            self.at.start_node(number)
            self._coming.discard(number)

        self._later(wait_s, start)

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        self._due.append((time.time() + seconds, lambda: void(act())))

    def _said(self) -> str:
        """What the struck SuperNode has written since it was killed."""
        data = self.at.log(node_name(self.node)).read_bytes()
        return data[self._offset :].decode("utf-8", "replace")


def void(_: object) -> None:
    """Return nothing, whatever came."""


def _running(pids: set[int], command: str) -> Sequence[int]:
    """Those of the processes that run a command of Flower's."""
    if not pids:
        return []
    listed = subprocess.run(  # noqa: S603
        ["ps", "-o", "pid=,args=", "-p", ",".join(map(str, sorted(pids)))],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(row[0]) for row in rows if any(word.endswith(f"/{command}") for word in row[1:4])]
