"""Stock Flower with TLS and node authentication: a SuperLink, two SuperNodes, an app that does nothing.

For ``no_op_round``. The app's server sends 4 kB to each node, takes the same back, and writes how long each
round took; its client imports nothing but Flower, which favours stock.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import tomlkit
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.errors import RunError
from server.environment import quiet_environment
from simulations.descendants import descendants, end

_START_S = 90.0

_PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "noop"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "consilium"
[tool.flwr.app.components]
serverapp = "noop.server:app"
clientapp = "noop.client:app"
[tool.flwr.app.config]
rounds = 8
out = ""
"""
_SERVER = """
import json, time
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    nodes, took = list(grid.get_node_ids()), []
    for round_ in range(context.run_config["rounds"]):
        arrays = ArrayRecord({"w": Array(np.full(1000, round_, np.float32))})
        begun = time.monotonic()
        sent = [Message(RecordDict({"w": arrays}), node, "train") for node in nodes]
        replies = list(grid.send_and_receive(sent))
        assert len(replies) == 2 and not any(r.has_error() for r in replies)
        took.append(time.monotonic() - begun)
    with open(context.run_config["out"], "w") as file:
        json.dump(took, file)
"""
_CLIENT = """
from flwr.app import Message
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(message, context):
    return Message(message.content, reply_to=message)
"""


def stock_rounds(folder: Path, certificates: Path, rounds: int) -> list[float]:
    """Return how many seconds each of ``rounds`` no-op rounds took.

    Args:
        folder: an empty folder.
        certificates: a server's kit: its ``tls.pem``, ``tls.key`` and ``authority.pem``, for 127.0.0.1.
        rounds: how many.
    """
    app = folder / "app"
    (app / "noop").mkdir(parents=True)
    (app / "pyproject.toml").write_text(_PYPROJECT, encoding="utf-8")
    for name, text in {"__init__": "", "server": _SERVER, "client": _CLIENT}.items():
        (app / "noop" / f"{name}.py").write_text(text, encoding="utf-8")
    out, processes = folder / "took.json", list[subprocess.Popen[bytes]]()
    port, *runtime = _free_ports(3)
    address = f"127.0.0.1:{port}"
    try:
        tls = ["--ssl-certfile", "tls.pem", "--ssl-keyfile", "tls.key", "--ssl-ca-certfile", "authority.pem"]
        options = [str(certificates / o) if o.endswith((".pem", ".key")) else o for o in tls]
        link = ["flower-superlink", "--port", str(port), "--enable-supernode-auth", *options]
        processes.append(_start(folder, "superlink", link))
        _await_port(port)
        _configure(folder, address, certificates / "authority.pem")
        for number, own in enumerate(runtime):
            key = _node_key(folder / f"node-{number}")
            _run(folder, "flwr", "supernode", "register", f"{key}.pub", "stock")
            node = ["flower-supernode", "--superlink", address, "--port", str(own)]
            node += ["--root-certificates", str(certificates / "authority.pem")]
            node += ["--auth-supernode-private-key", str(key)]
            processes.append(_start(folder, f"supernode-{number}", node))
        config = folder / "run_config.toml"
        config.write_text(tomlkit.dumps({"rounds": rounds, "out": str(out)}), encoding="utf-8")
        _run(folder, "flwr", "run", str(app), "stock", "--run-config", str(config), "--stream")
        found: list[float] = json.loads(out.read_text(encoding="utf-8"))
        return found
    finally:
        family = descendants(process.pid for process in processes)
        for process in reversed(processes):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
        end(family, within_s=2.0)
        for process in processes:
            process.wait(15)


def _node_key(path: Path) -> Path:
    """Write a key pair as `flower-supernode` and `flwr supernode register` read it."""
    key = ec.generate_private_key(ec.SECP384R1())
    encoding, plain = serialization.Encoding, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(encoding.PEM, serialization.PrivateFormat.OpenSSH, plain))
    path.chmod(0o600)
    public = key.public_key().public_bytes(encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_name(f"{path.name}.pub").write_bytes(public)
    return path


def _configure(folder: Path, address: str, root: Path) -> None:
    """Tell Flower's own command where the SuperLink is."""
    home = folder / "operator"
    home.mkdir(exist_ok=True)
    connection = {"address": address, "root-certificates": str(root)}
    table = {"superlink": {"default": "stock", "stock": connection}}
    (home / "config.toml").write_text(tomlkit.dumps(table), encoding="utf-8")


def _start(folder: Path, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
    home = folder / name
    home.mkdir(exist_ok=True)
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603  Flower's own commands
            command, cwd=home, env=_environment(home), stdout=log, stderr=log, start_new_session=True
        )


def _run(folder: Path, *command: str) -> None:
    home = folder / "operator"
    ended = subprocess.run(  # noqa: S603  Flower's own commands
        command, cwd=home, env=_environment(home), capture_output=True, text=True, timeout=600, check=False
    )
    if ended.returncode != 0:
        raise RunError(f"{command[:3]}: {ended.returncode}: {ended.stdout[-2000:]} {ended.stderr[-2000:]}")


def _environment(home: Path) -> dict[str, str]:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    own = {"FLWR_HOME": str(home), "NO_PROXY": "127.0.0.1", "PATH": path, "PYTHONUNBUFFERED": "1"}
    return os.environ | quiet_environment() | own


def _await_port(port: int) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RunError("the SuperLink did not start")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [int(found.getsockname()[1]) for found in sockets]
