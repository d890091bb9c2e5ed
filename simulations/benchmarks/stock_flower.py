"""Stock Flower on loopback, a SuperLink and SuperNodes with TLS and node authentication.

For ``stock_round`` and ``stock_kills``. Whichever way the ``with`` block ends, every process that was started
in it, and every one that those started, is ended by its own id.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.errors import RunError
from server.certificates import new_authority, server_certificate
from server.environment import quiet_environment
from simulations.descendants import descendants, end

_START_S = 90.0
_COMMAND_S = 600.0
_PEM, _PLAIN = serialization.Encoding.PEM, serialization.NoEncryption()
LINK = "superlink"


@dataclass
class StockFlower:
    """The processes of one SuperLink and its SuperNodes; what they write lies in ``folder``.

    Attributes:
        folder: an empty folder; each process gets its own home in it, and a log that restarts add to.
        certificates: a folder with ``tls.pem``, ``tls.key`` and ``authority.pem``, for 127.0.0.1.
        ports: of the SuperLink, then of each SuperNode's own executor.
        database: the SuperLink's SQLite file; in memory, as is Flower's default, if None.
        own_executor: the SuperLink runs with ``--isolation process`` and a ``flower-superexec`` beside it.
    """

    folder: Path
    certificates: Path
    ports: Sequence[int]
    database: Path | None = None
    own_executor: bool = False
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    family: set[int] = field(default_factory=set)

    def start_link(self) -> None:
        """Start the SuperLink; it listens some seconds later."""
        tls = {"certfile": "tls.pem", "keyfile": "tls.key", "ca-certfile": "authority.pem"}
        command = ["flower-superlink", "--port", str(self.ports[0]), "--enable-supernode-auth"]
        for option, name in tls.items():
            command += [f"--ssl-{option}", str(self.certificates / name)]
        if self.database is not None:
            command += ["--database", str(self.database)]
        if self.own_executor:
            command += ["--isolation", "process"]
        self.start(LINK, command)

    def start_executor(self) -> None:
        """Start what runs the ServerApp, where the SuperLink does not do so itself."""
        command = ["flower-superexec", "--runtime-api-address", f"127.0.0.1:{self.ports[0]}"]
        command += ["--root-certificates", str(self.certificates / "authority.pem")]
        self.start("superexec", command)

    def start_node(self, number: int) -> None:
        """Start a SuperNode; the first time, register its new key before."""
        key = self.folder / f"node-{number}"
        if not key.exists():
            _write_node_key(key)
            self.flwr("supernode", "register", f"{key}.pub", "stock")
        command = ["flower-supernode", "--superlink", f"127.0.0.1:{self.ports[0]}"]
        command += ["--port", str(self.ports[1 + number])]
        command += ["--root-certificates", str(self.certificates / "authority.pem")]
        command += ["--auth-supernode-private-key", str(key), "--node-config", f"partition-id={number}"]
        self.start(node_name(number), command)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a command that stays."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603  Flower's own commands
                command, cwd=home, env=_environment(home), stdout=log, stderr=log, start_new_session=True
            )

    def flwr(self, *arguments: str, timeout_s: float = _COMMAND_S) -> str:
        """Run Flower's own command to its end; return what it prints."""
        home = self.folder / "operator"
        home.mkdir(exist_ok=True)
        link = {
            "address": f"127.0.0.1:{self.ports[0]}",
            "root-certificates": str(self.certificates / "authority.pem"),
        }
        text = tomlkit.dumps({"superlink": {"default": "stock", "stock": link}})
        (home / "config.toml").write_text(text, encoding="utf-8")
        ended = subprocess.run(  # noqa: S603  Flower's own command
            ["flwr", *arguments],  # noqa: S607  from this environment's own folder
            cwd=home,
            env=_environment(home),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if ended.returncode != 0:
            said = f"{ended.stdout[-2000:]} {ended.stderr[-2000:]}"
            raise RunError(f"flwr {arguments[:2]}: {ended.returncode}: {said}")
        return ended.stdout

    def run(self, app: Path, config: Mapping[str, object], *options: str) -> str:
        """Give the SuperLink an app to run."""
        file = self.folder / "run_config.toml"
        file.write_text(tomlkit.dumps(config), encoding="utf-8")
        return self.flwr("run", str(app), "stock", "--run-config", str(file), *options)

    def listens(self) -> bool:
        """Whether the SuperLink accepts connections."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.ports[0]), timeout=1):
            return True
        return False

    def log(self, name: str) -> Path:
        """Where a process and those below it write."""
        return self.folder / f"{name}.log"

    def watch(self) -> None:
        """Note all processes below ours, so that one whose parent is killed is known still."""
        self.family = descendants([*self.family, *(process.pid for process in self.processes.values())])

    def end(self) -> None:
        """End everything, SuperNodes first."""
        self.watch()
        for process in reversed(self.processes.values()):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
        self.watch()
        end(self.family, within_s=2.0)
        for process in self.processes.values():
            process.wait(15)


@contextmanager
def stock_flower(
    folder: Path, certificates: Path, nodes: int, database: Path | None = None, *, own_executor: bool = False
) -> Iterator[StockFlower]:
    """A SuperLink and so many SuperNodes, started; they connect in their own time."""
    at = StockFlower(folder, certificates, _free_ports(1 + nodes), database, own_executor)
    try:
        at.start_link()
        _await_link(at)
        if own_executor:
            at.start_executor()
        for number in range(nodes):
            at.start_node(number)
        yield at
    finally:
        at.end()


def write_app(folder: Path, name: str, config: Mapping[str, Any], **modules: str) -> Path:
    """Write a Flower app with this run config, whose package is called ``app``; return its folder."""
    (folder / "app").mkdir(parents=True)
    flwr = {
        "publisher": "consilium",
        "components": {"serverapp": "app.server:app", "clientapp": "app.client:app"},
        "config": dict(config),
    }
    about = {"version": "1.0.0", "description": "", "license": "Apache-2.0", "dependencies": list[str]()}
    project = {
        "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
        "project": {"name": name, **about},
        "tool": {"flwr": {"app": flwr}},
    }
    (folder / "pyproject.toml").write_text(tomlkit.dumps(project), encoding="utf-8")
    for module, text in {"__init__": "", **modules}.items():
        (folder / "app" / f"{module}.py").write_text(text, encoding="utf-8")
    return folder


def write_certificates(folder: Path) -> Path:
    """Write an authority and a server's certificate for 127.0.0.1, good for a day; return the folder."""
    now, key = time.time(), ec.generate_private_key(ec.SECP384R1())
    authority = new_authority("loopback", now)
    own = server_certificate(authority, key.public_key(), "loopback", ["127.0.0.1"], now, 1)
    folder.mkdir()
    (folder / "authority.pem").write_bytes(authority.certificate.public_bytes(_PEM))
    (folder / "tls.pem").write_bytes(own.public_bytes(_PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, _PLAIN))
    (folder / "tls.key").chmod(0o600)
    return folder


def node_name(number: int) -> str:
    """What a SuperNode's process, home and log are called."""
    return f"supernode-{number}"


def _write_node_key(path: Path) -> None:
    """Write a key pair as `flower-supernode` and `flwr supernode register` read it."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.OpenSSH, _PLAIN))
    path.chmod(0o600)
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    path.with_name(f"{path.name}.pub").write_bytes(key.public_key().public_bytes(encoding, form))


def _environment(home: Path) -> dict[str, str]:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    own = {"FLWR_HOME": str(home), "NO_PROXY": "127.0.0.1", "PATH": path, "PYTHONUNBUFFERED": "1"}
    return os.environ | quiet_environment() | own


def _await_link(at: StockFlower) -> None:
    until = time.monotonic() + _START_S
    while not at.listens():
        if time.monotonic() > until:
            raise RunError("the SuperLink did not start")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [int(found.getsockname()[1]) for found in sockets]
