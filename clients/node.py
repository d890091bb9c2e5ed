"""The process that runs Flower's SuperNode for a site, started as ``python -m clients.node``."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from clients.kit import load_kit
from protocol.children import inherit
from protocol.keys import load_node_key
from protocol.versions import check_flower


def main() -> None:
    """Run until ended; the exit code is Flower's."""
    given, tell = inherit()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for noisy in ("httpx", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    check_flower()
    from clients.flwr_adapter import Identity, run_supernode  # noqa: PLC0415  Flower reads the environment

    logging.getLogger("flwr").setLevel(logging.INFO)  # below that: a line for each look of the agent

    kit = load_kit(Path(given["kit"]))
    if kit.config.server is not None and kit.config.server.proxy:
        os.environ["HTTPS_PROXY"] = kit.config.server.proxy
    site = Identity(kit.authority, kit.certificate, kit.key, load_node_key(kit.node_key))
    runtime = socket.socket(fileno=given["runtime_fd"])
    run_supernode(kit.address, site, runtime, bytes.fromhex(given["superexec"]), kit.state / "node_id", tell)


if __name__ == "__main__":
    main()
