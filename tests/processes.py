"""A real federation on loopback: a stock SuperLink, stock SuperNodes and `flwr run`, each a process.

Not a test. Every process has a Flower home of its own, so each installs the app by itself, as on
machines apart. Whichever way the `with` block ends, every process that was started in it is ended.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import tomlkit

from server.environment import quiet_environment
from simulations.descendants import descendants, end

_CONNECTION = "loopback"
_START_S = 60.0
_STOP_S = 10.0


@contextmanager
def federation(folder: Path, node_configs: Sequence[str]) -> Iterator[Federation]:
    """A SuperLink and a SuperNode for each of `node_configs`, ready to take a run.

    Args:
        folder: an empty folder for homes and logs; the server works in FOLDER/superlink.
        node_configs: what each site passes as `--node-config`, such as `'site="/path/site.toml"'`.

    Raises:
        AssertionError: a process did not start; the message holds every log.
    """
    link_port, *node_ports = _free_ports(1 + len(node_configs))
    at = Federation(folder, f"127.0.0.1:{link_port}")
    try:
        at.start("superlink", ["flower-superlink", "--insecure", "--port", str(link_port)])
        at.wait_until(at.is_up, "the SuperLink answers")
        for number, (config, port) in enumerate(zip(node_configs, node_ports, strict=True)):
            options = ["--superlink", at.address, "--port", str(port), "--node-config", config]
            at.start(f"supernode-{number}", ["flower-supernode", "--insecure", *options])
        at.wait_until(lambda: at.logs().count("SuperNode ID:") == len(node_configs), "every node is on")
        yield at
    finally:
        _end(at.processes)


@dataclass
class Federation:
    """The processes around the SuperLink at `address`; their homes and logs are in `folder`."""

    folder: Path
    address: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, app: Path, run_config: Mapping[str, str | int | float | bool], *, timeout_s: float) -> str:
        """Submit the app in folder `app`, wait until its run has ended, return the ServerApp's log.

        Args:
            app: a folder whose `pyproject.toml` describes a Flower app.
            run_config: overrides of its `[tool.flwr.app.config]`; the keys must stand there.
            timeout_s: the longest time from submission to the end.

        Raises:
            AssertionError: the run did not complete in time; the message holds every log.
        """
        overrides = self.folder / "run_config.toml"
        overrides.write_text(tomlkit.dumps(dict(run_config)), encoding="utf-8")
        options = ["--run-config", str(overrides), "--stream"]  # streams the log until the run ends
        log = self.flwr("run", str(app), _CONNECTION, *options, timeout_s=timeout_s)
        run_id = re.search(r"started run (\d+)", log)
        assert run_id, self.story("the run was not accepted")
        listed = self.flwr("list", _CONNECTION, "--run-id", run_id[1], "--format", "json", timeout_s=_START_S)
        status = json.loads(listed[listed.index("{") :])["runs"][0]["status"]
        assert status == "finished:completed", self.story(f"the run ended as {status}")
        return log

    def flwr(self, *arguments: str, timeout_s: float) -> str:
        """Run Flower's own command line against this federation; what it wrote."""
        home = self.folder / "operator"
        home.mkdir(exist_ok=True)
        connection = {"address": self.address, "insecure": True}  # an address: no SuperLink of its own
        superlink = {"default": _CONNECTION, _CONNECTION: connection}
        (home / "config.toml").write_text(tomlkit.dumps({"superlink": superlink}), encoding="utf-8")
        name = f"flwr-{arguments[0]}"
        process = self.start(name, ["flwr", *arguments], home)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        assert code == 0, self.story(f"`flwr {arguments[0]}` gave {code} (None: over {timeout_s:.0f} s)")
        self.processes.remove(process)
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")

    def start(self, name: str, command: Sequence[str], home: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a process that lives and works in `home` (FOLDER/NAME) and writes FOLDER/NAME.log."""
        home = home or self.folder / name
        home.mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=home,
                env=_environment(home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for what must hold at start-up; fail if a process ends first or it takes too long."""
        deadline = time.monotonic() + _START_S
        while not condition():
            alive = all(process.poll() is None for process in self.processes)
            assert alive, self.story(f"a process ended before this held: {what}")
            assert time.monotonic() < deadline, self.story(f"not within {_START_S:.0f} s: {what}")
            time.sleep(0.05)

    def is_up(self) -> bool:
        """Whether the SuperLink answers; a proxy of the environment is not asked."""
        try:
            build_opener(ProxyHandler({})).open(f"http://{self.address}/health", timeout=1).close()
        except OSError:
            return False
        return True

    def logs(self) -> str:
        """What the processes have written, one after the other."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {file.stem}\n{file.read_text('utf-8', 'replace')}" for file in files)

    def story(self, headline: str) -> str:
        """A failure's message: what went wrong, then every log."""
        return f"{headline}\n{self.logs()}"


def _environment(home: Path) -> dict[str, str]:
    """This environment, quiet, with the installed commands on the path and no proxy for loopback."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    own = {
        "FLWR_HOME": str(home),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",  # seconds; 1 by default
        "NO_PROXY": "127.0.0.1",
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
    }
    return os.environ | quiet_environment() | own


def _free_ports(count: int) -> list[int]:
    """Ports on loopback that are free now; all are held until all are found."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the processes to end, then end what is left of them and of all that they started.

    A SuperLink and a SuperNode start an executor, and that an app; some in sessions of their own,
    so a process group does not reach them.
    """
    family = descendants(process.pid for process in processes)
    for process in reversed(processes):  # a node takes its leave of the SuperLink, so that ends last
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    end(family, within_s=1.0)
    for process in processes:
        process.wait(_STOP_S)
