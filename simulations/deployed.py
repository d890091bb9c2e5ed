"""A real federation on loopback: a server and sites from kits, each its own processes, mutual TLS between.

For tests and benchmarks. Everything is started as a user starts it, by the ``consilium`` command; whichever
way the ``with`` block ends, every process that was started in it is ended by its own id.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit

from protocol.errors import ConsiliumError, RunError
from server.contact import ask
from server.environment import quiet_environment
from simulations.descendants import descendants, end, working_in

PASSPHRASE = "a passphrase of the test only"  # noqa: S105
_START_S = 120.0
_STOP_S = 30.0
ENDED = ("finished", "failed", "stopped")


@dataclass
class Deployed:
    """The processes of a federation; their kits and what they say lie in ``folder``."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    port: int = 0

    @property
    def server(self) -> Path:
        """The server's kit."""
        return self.folder / "kits" / "server"

    def kit(self, site: str) -> Path:
        """A site's kit."""
        return self.folder / "kits" / site

    def consilium(self, *arguments: object, timeout_s: float = _START_S) -> str:
        """Run the command to its end; return what it prints."""
        ended = subprocess.run(  # noqa: S603  our own command
            [sys.executable, "-m", "consilium", *map(str, arguments)],
            cwd=self.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if ended.returncode != 0:
            raise RunError(self.story(f"{arguments}: {ended.returncode}: {ended.stderr}"))
        return ended.stdout

    def start(self, name: str, *arguments: object) -> None:
        """Start a command that stays; what it says is added to what one of that name has said before."""
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(  # noqa: S603  our own command
                [sys.executable, "-m", "consilium", *map(str, arguments)],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_server(self) -> None:
        """Start the server; again on the port that it had, where it was started before."""
        contact = self.server / "state" / "contact.json"
        contact.unlink(missing_ok=True)  # one that was killed has left its own
        self.start("server", "server", "up", self.server, "--port", self.port)
        self.wait(contact.exists, "the server says how it is reached")
        self.port = int(json.loads(contact.read_text(encoding="utf-8"))["port"])

    def start_site(self, site: str) -> None:
        """Start a site whose ``site.toml`` is filled in."""
        self.start(site, "site", "up", self.kit(site))

    def status(self, run: str | None = None) -> dict[str, Any]:
        """What the server answers to ``status``; {} while it does not answer."""
        with suppress(ConsiliumError):
            return ask(self.server, "status", {"run": run} if run else {})
        return {}

    def online(self) -> set[str]:
        """The sites that are connected."""
        found = self.status().get("sites", {})
        return {name for name, one in found.items() if one["connection"] == "online"}

    def state(self, run: str) -> str:
        """How far a run is."""
        found = self.status(run).get("runs", {}).get(run, {})
        return str(found.get("order", {}).get("state", ""))

    def await_end(self, run: str, within_s: float) -> str:
        """Wait until a run has ended; return how."""
        self.wait(lambda: self.state(run) in ENDED, f"run {run} has ended", within_s)
        return self.state(run)

    def wait(self, condition: Callable[[], bool], what: str, within_s: float = _START_S) -> None:
        """Wait for what must come true; fail with all logs if it does not."""
        deadline = time.monotonic() + within_s
        while not condition():
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead:
                raise RunError(self.story(f"{dead} ended before: {what}"))
            if time.monotonic() > deadline:
                raise RunError(self.story(f"not within {within_s:.0f} s: {what}"))
            time.sleep(0.05)

    def pids(self, name: str, module: str) -> list[int]:
        """The ids of the processes under a command that run a module of ours."""
        family = descendants([self.processes[name].pid])
        return [pid for pid in family if f"-m\0{module}\0".encode() in _cmdline(pid)]

    def kill(self, name: str, module: str) -> int:
        """Kill the one process under a command that runs a module, as a crash would; return its id."""
        found = self.pids(name, module)
        if len(found) != 1:
            raise RunError(self.story(f"{module} under {name}: {found}"))
        os.kill(found[0], signal.SIGKILL)
        return found[0]

    def counters(self, site: str) -> dict[str, Any]:
        """What a site's worker counts, as its agent last wrote it down."""
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self.kit(site) / "state" / "counters.json").read_text())
            return found
        return {}

    def story(self, headline: str) -> str:
        """A failure's message: what went wrong, then the ends of all logs."""
        files = [*self.folder.glob("*.out"), *self.folder.glob("kits/*/state/logs/*.log")]
        ends = (
            f"--- {f.relative_to(self.folder)}\n{f.read_text('utf-8', 'replace')[-3000:]}"
            for f in sorted(files)
        )
        return "\n".join([headline, json.dumps(self.status())[:3000], *ends])

    def end(self) -> None:
        """End everything: sites first, so that they can take their leave."""
        family = descendants(process.pid for process in self.processes.values())
        for process in [*reversed(list(self.processes.values()))]:
            process.terminate()
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
        end(family | working_in(self.folder), within_s=2.0)
        for process in self.processes.values():
            process.wait(_STOP_S)


@contextmanager
def deployed(folder: Path, sites: Mapping[str, Mapping[str, Any]]) -> Iterator[Deployed]:
    """A server and sites that are connected.

    Args:
        folder: an empty folder.
        sites: what each site's ``site.toml`` holds beside its name and the server's address.
    """
    at = Deployed(folder)
    passphrase = folder / "passphrase"
    passphrase.write_text(PASSPHRASE, encoding="utf-8")
    passphrase.chmod(0o600)
    federation = {"name": "loopback", "sites": list(sites), "server": {"hosts": ["127.0.0.1"], "port": 1}}
    (folder / "federation.toml").write_text(tomlkit.dumps(federation), encoding="utf-8")
    at.consilium("provision", "federation.toml", "--out", "kits", "--passphrase-file", passphrase)
    try:
        at.start_server()
        for site, table in sites.items():
            text = tomlkit.dumps({"name": site, "server": {"host": "127.0.0.1", "port": at.port}, **table})
            (at.kit(site) / "site.toml").write_text(text, encoding="utf-8")
            at.start_site(site)
        at.wait(lambda: at.online() == set(sites), "all sites are connected")
        yield at
    finally:
        at.end()


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return os.environ | quiet_environment() | {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}
