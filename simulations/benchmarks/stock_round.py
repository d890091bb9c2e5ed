"""How long a round of stock Flower takes: two SuperNodes and an app that does nothing.

For ``no_op_round``. The app's server sends 4 kB to each node, takes the same back, and writes how long each
round took; its client imports nothing but Flower, which favours stock.
"""

from __future__ import annotations

import json
from pathlib import Path

from simulations.benchmarks.stock_flower import stock_flower, write_app

_CONFIG = {"rounds": 8, "out": ""}
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
    app = write_app(folder / "app", "noop", _CONFIG, server=_SERVER, client=_CLIENT)
    out = folder / "took.json"
    with stock_flower(folder, certificates, nodes=2) as at:
        at.run(app, {"rounds": rounds, "out": str(out)}, "--stream")
        found: list[float] = json.loads(out.read_text(encoding="utf-8"))
    return found
